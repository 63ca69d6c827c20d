import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxunlearn import linalg


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def tree_and_matrix(seed=0, condition=50.0):
  """A right-hand side of two leaves, an SPD matrix over them of known spectrum, and the product as a function."""
  rng = np.random.default_rng(seed)
  rhs = {"user": jnp.asarray(rng.normal(size=(4, 3))), "item": jnp.asarray(rng.normal(size=8))}
  flat, unravel = ravel_pytree(rhs)
  q, _ = np.linalg.qr(rng.normal(size=(flat.size, flat.size)))
  matrix = jnp.asarray(q @ np.diag(np.geomspace(1.0, condition, flat.size)) @ q.T)
  return rhs, matrix, lambda v: unravel(matrix @ ravel_pytree(v)[0])


def network_loss(params, x, y):
  hidden = jnp.tanh(x @ params["in"])
  return jnp.mean(jax.nn.softplus(-y * (hidden @ params["out"]))) + 0.05 * jnp.sum(params["in"] ** 2)


def network(seed=1, rows=12):
  rng = np.random.default_rng(seed)
  params = {"in": jnp.asarray(rng.normal(size=(3, 4))), "out": jnp.asarray(rng.normal(size=4))}
  vector = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)
  return params, vector, jnp.asarray(rng.normal(size=(rows, 3))), jnp.asarray(np.sign(rng.normal(size=rows)))


def test_hvp_is_the_dense_hessian_and_a_central_difference(x64):
  params, vector, x, y = network()
  got = ravel_pytree(jax.jit(lambda p, v, x, y: linalg.hvp(network_loss, p, v, x, y))(params, vector, x, y))[0]
  flat, unravel = ravel_pytree(params)
  dense = jax.jit(jax.hessian(lambda f: network_loss(unravel(f), x, y)))(flat)
  np.testing.assert_allclose(got, dense @ ravel_pytree(vector)[0], rtol=1e-10)
  step = 1e-5
  ahead, behind = (
    ravel_pytree(jax.grad(network_loss)(jax.tree.map(lambda p, v, s=s: p + s * v, params, vector), x, y))[0]
    for s in (step, -step)
  )
  np.testing.assert_allclose(got, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)


def test_gauss_newton_product_is_the_dense_one_and_never_negative(x64):
  params, vector, x, y = network()
  flat, unravel = ravel_pytree(params)

  def outputs(p, x):
    return jnp.tanh(x @ p["in"]) @ p["out"]

  def outer(z):
    return jnp.sum(jax.nn.softplus(-y * z))

  got = ravel_pytree(linalg.gauss_newton_product(outputs, outer, params, vector, x))[0]
  jacobian = jax.jit(jax.jacobian(lambda f: outputs(unravel(f), x)))(flat)
  dense = jacobian.T @ jax.hessian(outer)(outputs(params, x)) @ jacobian
  np.testing.assert_allclose(got, dense @ ravel_pytree(vector)[0], rtol=1e-10)
  # The Hessian itself is indefinite here, so the two are not the same thing.
  hessian = jax.jit(jax.hessian(lambda f: outer(outputs(unravel(f), x))))(flat)
  assert np.linalg.eigvalsh(hessian)[0] < -1e-3
  assert np.linalg.eigvalsh(dense)[0] > -1e-10


def test_minibatches_add_up_and_batches_beyond_the_count_are_not_visited(x64):
  params, vector, x, y = network(rows=12)

  def product_of_batch(batch, v):
    return linalg.hvp(
      lambda p: jnp.sum(jax.nn.softplus(-batch[1] * (jnp.tanh(batch[0] @ p["in"]) @ p["out"]))), params, v
    )

  whole = product_of_batch((x, y), vector)
  batches = (x.reshape(4, 3, 3), y.reshape(4, 3))
  summed = linalg.minibatched(product_of_batch, batches)(vector)
  broken = (
    jnp.concatenate([batches[0], jnp.full((2, 3, 3), jnp.nan)]),
    jnp.concatenate([batches[1], jnp.ones((2, 3))]),
  )
  counted = jax.jit(lambda b, n, v: linalg.minibatched(product_of_batch, b, n)(v))(broken, 4, vector)
  for other in (summed, counted):
    np.testing.assert_allclose(ravel_pytree(other)[0], ravel_pytree(whole)[0], rtol=1e-12)
  first = linalg.minibatched(product_of_batch, batches, 1)(vector)
  np.testing.assert_allclose(
    ravel_pytree(first)[0], ravel_pytree(product_of_batch((x[:3], y[:3]), vector))[0], rtol=1e-12
  )


@pytest.mark.parametrize("damping", [0.0, 0.7])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cg_is_the_dense_solve(x64, damping, seed):
  rhs, matrix, product = tree_and_matrix(seed)
  solve = jax.jit(lambda b, lam: linalg.conjugate_gradient(product, b, damping=lam, tolerance=1e-12))
  result = solve(rhs, damping)
  flat = ravel_pytree(rhs)[0]
  np.testing.assert_allclose(
    ravel_pytree(result.x)[0], jnp.linalg.solve(matrix + damping * jnp.eye(flat.size), flat), rtol=1e-9
  )
  assert int(result.code) == linalg.CONVERGED and float(result.residual_norm) < 1e-12
  # A Rayleigh quotient lies between the smallest and the largest eigenvalue.
  assert 1.0 + damping - 1e-9 <= float(result.curvature) <= 50.0 + damping
  assert linalg.check_result(result, "solve") is None


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_cg_agrees_with_jax_after_a_few_steps_and_from_a_start(x64, steps):
  rhs, _, product = tree_and_matrix()
  start = jax.tree.map(lambda leaf: 0.1 * leaf + 1, rhs)
  mine = linalg.conjugate_gradient(product, rhs, x0=start, max_iterations=steps, tolerance=1e-14)
  theirs, _ = jax.scipy.sparse.linalg.cg(product, rhs, x0=start, maxiter=steps, tol=1e-14)
  np.testing.assert_allclose(ravel_pytree(mine.x)[0], ravel_pytree(theirs)[0], rtol=1e-10)
  assert int(mine.code) == linalg.ITERATION_LIMIT and int(mine.iterations) == steps
  residual = ravel_pytree(rhs)[0] - ravel_pytree(product(mine.x))[0]
  relative = float(jnp.linalg.norm(residual) / jnp.linalg.norm(ravel_pytree(rhs)[0]))
  assert float(mine.residual_norm) == pytest.approx(relative, rel=1e-9)
  assert "max_iterations" in linalg.check_result(mine, "solve") and f"iterations={steps}" in linalg.check_result(
    mine, ""
  )


def test_preconditioners_solve_their_own_matrix_in_one_step(x64):
  rng = np.random.default_rng(3)
  rhs = {"user": jnp.asarray(rng.normal(size=(5, 3))), "item": jnp.asarray(rng.normal(size=(4, 3)))}
  factors = {name: jnp.asarray(rng.normal(size=(*leaf.shape, 3))) for name, leaf in rhs.items()}
  blocks = jax.tree.map(lambda f: f @ jnp.swapaxes(f, 1, 2) + 0.1 * jnp.broadcast_to(jnp.eye(3), f.shape), factors)
  diagonal = jax.tree.map(lambda b: jnp.diagonal(b, axis1=1, axis2=2), blocks)

  def block_product(v):
    return jax.tree.map(lambda b, x: (b @ x[..., None])[..., 0], blocks, v)

  def diagonal_product(v):
    return jax.tree.map(jnp.multiply, diagonal, v)

  for product, make, data in (
    (block_product, linalg.block_preconditioner, blocks),
    (diagonal_product, linalg.diagonal_preconditioner, diagonal),
  ):
    plain = linalg.conjugate_gradient(product, rhs, damping=0.3, tolerance=1e-10)
    helped = linalg.conjugate_gradient(product, rhs, damping=0.3, tolerance=1e-10, preconditioner=make(data, 0.3))
    assert int(helped.iterations) == 1 < int(plain.iterations)
    np.testing.assert_allclose(ravel_pytree(helped.x)[0], ravel_pytree(plain.x)[0], rtol=1e-7)


def test_the_preconditioner_is_applied_once_an_iteration(x64):
  applied, matrix, rhs = [], jnp.diag(jnp.arange(1.0, 9.0)), jnp.ones(8)

  def precondition(residual):
    jax.debug.callback(lambda: applied.append(1))
    return residual

  result = linalg.conjugate_gradient(lambda v: matrix @ v, rhs, preconditioner=precondition, max_iterations=3)
  jax.block_until_ready(result.x)
  jax.effects_barrier()
  assert len(applied) == int(result.iterations) == 3  # the product that checks the last iterate needs none


@pytest.mark.parametrize("value", [1.0, 0.0])
@pytest.mark.parametrize("limit", [3, 100])
def test_without_a_check_the_answer_is_the_same_and_a_product_is_saved(x64, limit, value):
  rhs, matrix, results, products = jnp.full(8, value), jnp.diag(jnp.arange(1.0, 9.0)), [], []
  for verify in (True, False):
    applied = []

    def product(vector, applied=applied):
      jax.debug.callback(lambda: applied.append(1))
      return matrix @ vector

    results.append(linalg.conjugate_gradient(product, rhs, max_iterations=limit, tolerance=1e-6, verify=verify))
    jax.block_until_ready(results[-1].x)
    jax.effects_barrier()
    products.append(len(applied))
  assert products == [int(results[0].iterations) + 1, int(results[0].iterations)]
  assert np.array_equal(results[0].x, results[1].x) and int(results[0].code) == int(results[1].code)
  np.testing.assert_allclose(results[0].residual_norm, results[1].residual_norm, rtol=1e-6, atol=1e-12)


def test_without_a_check_negative_curvature_reports_the_residual_of_what_it_returns(x64):
  values, rhs = jnp.asarray([4.0, 3.0, 2.0, -0.5]), jnp.asarray([1.0, 1.0, 1.0, 1e-3])
  found = [linalg.conjugate_gradient(lambda v: values * v, rhs, tolerance=1e-12, verify=v) for v in (True, False)]
  assert {int(result.code) for result in found} == {linalg.NEGATIVE_CURVATURE}
  assert np.array_equal(found[0].x, found[1].x)
  np.testing.assert_allclose(found[0].residual_norm, found[1].residual_norm, rtol=1e-6)


def test_rows_without_curvature_are_left_as_they_are_by_the_preconditioners():
  residual = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
  blocks = jnp.stack([jnp.eye(2) * 2, jnp.zeros((2, 2))])
  assert np.array_equal(linalg.block_preconditioner(blocks)(residual)[1], residual[1])
  diagonal = jnp.asarray([[2.0, 2.0], [0.0, 0.0]])
  assert np.array_equal(linalg.diagonal_preconditioner(diagonal)(residual), [[0.5, 1.0], [3.0, 4.0]])


def test_negative_curvature_stops_before_the_damage_and_says_how_much_damping_is_missing(x64):
  values = jnp.asarray([4.0, 3.0, 2.0, -0.5])
  rhs = jnp.asarray([1.0, 1.0, 1.0, 1e-3])  # the negative direction shows up after a few steps only
  result = linalg.conjugate_gradient(lambda v: values * v, rhs, tolerance=1e-12)
  assert int(result.code) == linalg.NEGATIVE_CURVATURE
  assert int(result.iterations) >= 1 and np.all(np.isfinite(result.x))
  before = linalg.conjugate_gradient(lambda v: values * v, rhs, tolerance=1e-12, max_iterations=int(result.iterations))
  assert np.array_equal(before.x, result.x)
  assert -0.5 - 1e-12 <= float(result.curvature) <= 0
  with pytest.raises(ValueError, match=r"test: the matrix is not positive definite.*raise damping.*curvature=-0"):
    linalg.check_result(result, "test")
  damped = linalg.conjugate_gradient(lambda v: values * v, rhs, damping=0.6, tolerance=1e-12)
  assert int(damped.code) == linalg.CONVERGED
  zero = linalg.conjugate_gradient(jnp.zeros_like, rhs)
  assert int(zero.code) == linalg.NEGATIVE_CURVATURE and np.array_equal(zero.x, jnp.zeros(4))


def test_nan_and_infinity_end_the_solve_with_the_last_finite_iterate():
  rhs = jnp.ones(3)
  for product, b in (
    (lambda v: jnp.nan * v, rhs),
    (lambda v: jnp.inf * v, rhs),
    (lambda v: v, rhs.at[1].set(jnp.nan)),
    (lambda v: v, rhs.at[1].set(jnp.inf)),
  ):
    result = linalg.conjugate_gradient(product, b)
    assert int(result.code) == linalg.NON_FINITE and np.array_equal(result.x, jnp.zeros(3))
    with pytest.raises(ValueError, match="NaN or infinity"):
      linalg.check_result(result, "test")
  start = jnp.asarray([0.5, 0.25, 0.125])
  late = linalg.conjugate_gradient(lambda v: jnp.where(v[0] < 0.4, jnp.nan, 1.0) * 2.0 * v, jnp.ones(3), x0=start)
  assert int(late.code) == linalg.NON_FINITE and np.array_equal(late.x, start)


def test_a_zero_right_hand_side_needs_no_search():
  for start in (None, jnp.ones(3)):
    result = linalg.conjugate_gradient(lambda v: v, jnp.zeros(3), x0=start)
    assert int(result.code) == linalg.CONVERGED and int(result.iterations) == 0
    assert np.array_equal(result.x, jnp.zeros(3)) and float(result.residual_norm) == 0


def test_other_scalars_do_not_trace_again():
  traces = []

  @jax.jit
  def solve(rhs, damping, tolerance, limit):
    traces.append(1)
    return linalg.conjugate_gradient(
      lambda v: jnp.asarray([1.0, 2.0, 9.0]) * v, rhs, damping=damping, tolerance=tolerance, max_iterations=limit
    )

  tight = solve(jnp.ones(3), 0.0, 1e-5, 50)
  loose = solve(jnp.ones(3), 0.5, 0.5, 7)
  assert len(traces) == 1
  assert int(loose.iterations) < int(tight.iterations) == 3


def test_one_newton_step_on_ridge_regression_is_retraining(x64):
  rng = np.random.default_rng(5)
  x, y, l2 = jnp.asarray(rng.normal(size=(40, 6))), jnp.asarray(rng.normal(size=40)), 0.3
  keep = jnp.arange(40) >= 7

  def loss(theta, weight):
    return 0.5 * jnp.sum(weight * (x @ theta - y) ** 2) + 0.5 * l2 * jnp.sum(theta**2)

  def retrained(weight):
    gram = (x * weight[:, None]).T @ x + l2 * jnp.eye(6)
    return jnp.linalg.solve(gram, (x * weight[:, None]).T @ y)

  kept, all_of_it = keep.astype(x.dtype), jnp.ones(40)
  theta = retrained(all_of_it)
  forgotten = jax.grad(loss)(theta, 1 - kept) - l2 * theta  # the ridge is not forgotten
  step = linalg.conjugate_gradient(lambda v: linalg.hvp(loss, theta, v, kept), forgotten, tolerance=1e-13)
  np.testing.assert_allclose(theta + step.x, retrained(kept), rtol=1e-10, atol=1e-10)
  assert float(jnp.linalg.norm(step.x)) > 0.01
