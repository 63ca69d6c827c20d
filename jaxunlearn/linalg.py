"""Curvature products and conjugate gradient on pytrees; a solve always says how it ended.

A product is a function vector -> matrix · vector over one pytree structure. Nothing here forms a matrix, so memory is
a few copies of the parameters, whatever the data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Tree = Any  # a pytree of float arrays
Product = Callable[[Tree], Tree]

CONVERGED, ITERATION_LIMIT, NEGATIVE_CURVATURE, NON_FINITE = 0, 1, 2, 3
_RUNNING = -1
_DRIFT = 2.0  # the recomputed residual may exceed the recurrence's, and so the tolerance, by this factor

MESSAGES: dict[int, str] = {
  CONVERGED: "converged: the residual is within the tolerance",
  ITERATION_LIMIT: "the tolerance was not reached within max_iterations; raise max_iterations, damping or tolerance, "
  "or give a preconditioner",
  NEGATIVE_CURVATURE: "the matrix is not positive definite: a direction of negative or zero curvature was met; raise "
  "damping above minus the reported curvature, or use the Gauss-Newton product",
  NON_FINITE: "NaN or infinity in the right-hand side or in a product; check that the parameters are finite and "
  "raise damping",
}


class CGResult(NamedTuple):
  """Outcome of `conjugate_gradient`.

  Attributes:
    x: the last iterate for which nothing was wrong; always finite if x0 is.
    residual_norm: float scalar, ‖rhs − (A + damping I) x‖ / ‖rhs‖ computed from x itself, not carried along by the
      recurrence (but for `verify=False`); 0 for rhs = 0.
    iterations: int32 scalar, completed steps.
    code: int32 scalar, a key of `MESSAGES`.
    curvature: float scalar, smallest pᵀ(A + damping I)p / pᵀp over the directions p that were searched, an upper bound
      of the smallest eigenvalue; infinity when none was.
  """

  x: Tree
  residual_norm: jax.Array
  iterations: jax.Array
  code: jax.Array
  curvature: jax.Array


def dot(a: Tree, b: Tree) -> jax.Array:
  """Sum over all leaves of the inner product of two pytrees of one structure; a scalar."""
  parts = jax.tree.map(lambda x, y: jnp.vdot(x, y, precision="highest"), a, b)
  return sum(jax.tree.leaves(parts), start=jnp.zeros(()))


def norm(a: Tree) -> jax.Array:
  """Euclidean norm over all leaves; a scalar."""
  return jnp.sqrt(dot(a, a))


def add_scaled(a: Tree, scale: jax.Array, b: Tree) -> Tree:
  """a + scale · b, leaf by leaf, in the leaves' own types."""
  return jax.tree.map(lambda x, y: x + jnp.asarray(scale, x.dtype) * y, a, b)


def hvp(loss: Callable[..., jax.Array], params: Tree, vector: Tree, *args: Any) -> Tree:
  """∇²loss(params, *args) · vector, by forward over reverse differentiation: about four evaluations of the loss.

  Args:
    loss: (params, *args) -> scalar, twice differentiable in params.
    params: where the Hessian is taken.
    vector: like params.
    args: handed on; data belongs here and not into a closure, where it would become a constant of the program.
  """
  return jax.jvp(lambda p: jax.grad(loss)(p, *args), (params,), (vector,))[1]


def gauss_newton_product(
  outputs: Callable[..., Tree], outer_loss: Callable[[Tree], jax.Array], params: Tree, vector: Tree, *args: Any
) -> Tree:
  """Jᵀ ∇²outer_loss(z) J · vector with z = outputs(params, *args) and J its Jacobian.

  This is the Hessian of outer_loss ∘ outputs without the term in the curvature of `outputs`: positive semi-definite
  wherever outer_loss is convex, and equal to the Hessian where `outputs` is linear or outer_loss is stationary in z.

  Args:
    outputs: (params, *args) -> pytree z of float arrays.
    outer_loss: z -> scalar, convex.
    params: where the product is taken.
    vector: like params.
    args: handed on to `outputs`.
  """

  def of_params(p: Tree) -> Tree:
    return outputs(p, *args)

  z, moved = jax.jvp(of_params, (params,), (vector,))
  _, pull_back = jax.vjp(of_params, params)
  return pull_back(hvp(outer_loss, z, moved))[0]


def minibatched(
  product_of_batch: Callable[[Any, Tree], Tree], batches: Any, num_batches: jax.Array | int | None = None
) -> Product:
  """The sum over batches of a product, one batch after another.

  Args:
    product_of_batch: (batch, vector) -> product like vector. For a mean over n examples each batch contributes its sum
      divided by n.
    batches: a pytree whose leaves have a leading axis of batches. Arguments of the surrounding jitted function, not
      constants.
    num_batches: how many of them to visit, may be traced: batches that are all padding cost nothing. None: all.

  Returns:
    vector -> sum. Memory: one batch's intermediates and two copies of the vector.
  """
  limit = jax.tree.leaves(batches)[0].shape[0] if num_batches is None else num_batches

  def product(vector: Tree) -> Tree:
    def add(index: jax.Array, total: Tree) -> Tree:
      batch = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), batches)
      return jax.tree.map(jnp.add, total, product_of_batch(batch, vector))

    return jax.lax.fori_loop(0, limit, add, jax.tree.map(jnp.zeros_like, vector))

  return product


def diagonal_preconditioner(diagonal: Tree, damping: jax.Array | float = 0.0) -> Product:
  """r -> r / (diagonal + damping). `diagonal`: like the parameters, ≥ 0; entries that stay 0 are left as they are."""

  def inverse(d: jax.Array, r: jax.Array) -> jax.Array:
    shifted = d + jnp.asarray(damping, d.dtype)
    return r / jnp.where(shifted > 0, shifted, 1.0)

  return lambda residual: jax.tree.map(inverse, diagonal, residual)


def block_preconditioner(blocks: Tree, damping: jax.Array | float = 0.0) -> Product:
  """Row by row, r -> (block + damping I)⁻¹ r.

  Args:
    blocks: for each leaf [R, d] of the parameters, [R, d, d], symmetric positive semi-definite.
    damping: added to every diagonal; a block that is still singular acts as the identity.
  """

  def factor(block: jax.Array) -> jax.Array:
    eye = jnp.broadcast_to(jnp.eye(block.shape[-1], dtype=block.dtype), block.shape)
    cholesky = jnp.linalg.cholesky(block + jnp.asarray(damping, block.dtype) * eye)
    usable = jnp.all(jnp.isfinite(cholesky), axis=(-2, -1), keepdims=True)
    return jnp.where(usable, cholesky, eye)

  factors = jax.tree.map(factor, blocks)

  def solve(factor: jax.Array, residual: jax.Array) -> jax.Array:
    return jax.scipy.linalg.cho_solve((factor, True), residual[..., None])[..., 0]

  return lambda residual: jax.tree.map(solve, factors, residual)


class _Carry(NamedTuple):
  x: Tree
  residual: Tree
  direction: Tree
  rho: jax.Array  # residualᵀ M residual of the pass before; infinity at first, so that no direction is carried on
  size: jax.Array  # ‖residual‖; after the last pass that of x itself
  iterations: jax.Array
  code: jax.Array
  curvature: jax.Array
  checked: jax.Array  # bool, whether the last pass is done


def conjugate_gradient(
  product: Product,
  rhs: Tree,
  *,
  x0: Tree | None = None,
  damping: jax.Array | float = 0.0,
  preconditioner: Product | None = None,
  max_iterations: jax.Array | int = 100,
  tolerance: jax.Array | float = 1e-3,
  verify: bool = True,
) -> CGResult:
  """Solves (A + damping I) x = rhs for a symmetric positive definite A + damping I, and reports how it went.

  It differs from `jax.scipy.sparse.linalg.cg` in what it does when the matrix is not what it should be: a search
  direction p with pᵀ(A + damping I)p ≤ 0 ends the solve with NEGATIVE_CURVATURE and the iterate before it, NaN or
  infinity ends it with NON_FINITE and the last finite iterate; neither is stepped along. Can be jitted; damping,
  max_iterations and tolerance may be traced, so that another value costs no compilation.

  Args:
    product: vector -> A vector, linear, over the structure of rhs.
    rhs: pytree of float arrays.
    x0: where to start; zeros when None.
    damping: λ ≥ 0, in the unit of A's eigenvalues. For the Hessian of a mean loss those are small (about 1e-3 on
      implicit data, facts §3.8): damping that looks small may be large.
    preconditioner: r -> M r, symmetric positive definite and close to the inverse.
    max_iterations: ≥ 0; one product each, one more with `verify`, and one more with x0.
    tolerance: stop once ‖residual‖ ≤ tolerance · ‖rhs‖, > 0.
    verify: compute the residual of x at the end. The recurrence drifts over many iterations and towards the precision
      of the numbers; a few iterations to a coarse tolerance can do without, and save their last product.

  Returns:
    CGResult. Its code is on the device; `check_result` turns it into an error or a text.

  References:
    Hestenes and Stiefel, Methods of Conjugate Gradients for Solving Linear Systems, 1952; the test for negative
    curvature: Steihaug, SIAM J. Numer. Anal. 1983.
  """
  scale = norm(rhs)

  def apply(vector: Tree) -> Tree:
    return add_scaled(product(vector), jnp.asarray(damping), vector)

  precondition = preconditioner if preconditioner is not None else lambda residual: residual
  start = jax.tree.map(jnp.zeros_like, rhs)
  residual = rhs
  if x0 is not None:
    start = jax.tree.map(lambda given: jnp.where(scale > 0, given, 0.0), x0)  # the answer to rhs = 0 needs no search
    residual = add_scaled(rhs, jnp.asarray(-1.0), apply(start))
  size = norm(residual)

  def status(size: jax.Array, iterations: jax.Array) -> jax.Array:
    code = jnp.where(iterations >= max_iterations, ITERATION_LIMIT, _RUNNING)
    code = jnp.where(size <= tolerance * scale, CONVERGED, code)
    return jnp.where(jnp.isfinite(size), code, NON_FINITE).astype(jnp.int32)

  def step(carry: _Carry) -> _Carry:
    # With `verify` a last pass checks x instead of searching on: in the loop, so that the product is compiled once.
    ended = carry.code != _RUNNING
    preconditioned = jax.lax.cond(ended, lambda residual: residual, precondition, carry.residual)
    rho = dot(carry.residual, preconditioned)
    direction = add_scaled(preconditioned, rho / carry.rho, carry.direction)
    vector = jax.tree.map(lambda x, p: jnp.where(ended, x, p), carry.x, direction)
    moved = apply(vector)
    true = norm(add_scaled(rhs, jnp.asarray(-1.0), moved))
    bent = dot(vector, moved)
    curvature = bent / dot(vector, vector)
    length = rho / jnp.where(bent == 0, 1.0, bent)  # 0 is negative curvature, not infinity
    x = add_scaled(carry.x, length, direction)
    residual = add_scaled(carry.residual, -length, moved)
    size = norm(residual)
    code = status(size, carry.iterations + 1)
    code = jnp.where(bent <= 0, NEGATIVE_CURVATURE, code)
    code = jnp.where(jnp.isfinite(bent) & jnp.isfinite(dot(x, x)), code, NON_FINITE)
    sound = ~ended & (code != NEGATIVE_CURVATURE) & (code != NON_FINITE)
    lowest = jnp.where(~ended & jnp.isfinite(curvature), jnp.minimum(carry.curvature, curvature), carry.curvature)
    return _Carry(
      x=jax.tree.map(lambda new, old: jnp.where(sound, new, old), x, carry.x),
      residual=residual,
      direction=direction,
      rho=rho,
      size=jnp.where(ended, true, jnp.where(sound, size, carry.size)),
      iterations=carry.iterations + sound,
      code=jnp.where(ended, carry.code, code).astype(jnp.int32),
      curvature=lowest,
      checked=ended if verify else code != _RUNNING,
    )

  zero = jnp.zeros((), jnp.int32)
  initial = _Carry(
    x=start,
    residual=residual,
    direction=jax.tree.map(jnp.zeros_like, residual),
    rho=jnp.full_like(size, jnp.inf),
    size=size,
    iterations=zero,
    code=status(size, zero),
    curvature=jnp.full_like(size, jnp.inf),
    checked=jnp.asarray(False) if verify else status(size, zero) != _RUNNING,
  )
  end = jax.lax.while_loop(lambda carry: ~carry.checked, step, initial)
  relative = jnp.where(scale > 0, end.size / jnp.where(scale > 0, scale, 1.0), end.size)
  drifted = (end.code == CONVERGED) & (relative > _DRIFT * tolerance)
  code = jnp.where(drifted, ITERATION_LIMIT, end.code).astype(jnp.int32)
  return CGResult(end.x, relative, end.iterations, code, end.curvature)


def check_result(result: CGResult, what: str) -> str | None:
  """Reads a result on the host: None when it converged, a text for a log when the iteration limit ended it.

  Args:
    result: of `conjugate_gradient`.
    what: names the solve at the beginning of the message.

  Raises:
    ValueError: negative curvature, or something not finite; with iterations, residual, curvature and the remedy.
  """
  code = int(result.code)
  if code == CONVERGED:
    return None
  text = (
    f"{what}: {MESSAGES[code]} (iterations={int(result.iterations)}, "
    f"residual_norm={float(result.residual_norm):.3g}, curvature={float(result.curvature):.3g})."
  )
  if code == ITERATION_LIMIT:
    return text
  raise ValueError(text)
