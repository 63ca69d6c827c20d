import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import losses


def test_bpr_is_the_mean_of_minus_log_sigmoid():
  positive, negative = np.asarray([0.3, -1.0]), np.asarray([[0.1, 2.0], [0.0, -3.0]])
  expected = np.mean([-np.log(1 / (1 + np.exp(n - p))) for p, row in zip(positive, negative, strict=True) for n in row])
  got = losses.bpr(jnp.asarray(positive), jnp.asarray(negative), jnp.ones(2))
  assert got == pytest.approx(expected, rel=1e-5)


def test_bpr_does_not_underflow():
  value, slope = jax.value_and_grad(lambda s: losses.bpr(s, jnp.zeros((1, 1)), jnp.ones(1)))(jnp.asarray([-500.0]))
  assert value == 500.0
  assert slope[0] == -1.0


def test_padding_moves_neither_value_nor_gradient_even_if_it_is_not_finite():
  def loss(s):
    return losses.bpr(s, jnp.asarray([[0.5], [0.0]]), jnp.asarray([1.0, 0.0]))

  value, slope = jax.value_and_grad(loss)(jnp.asarray([1.0, jnp.inf]))
  alone = losses.bpr(jnp.asarray([1.0]), jnp.asarray([[0.5]]), jnp.ones(1))
  assert value == alone
  assert slope[1] == 0


def test_bce_equals_the_definition():
  x, y = np.asarray([-2.0, 0.5, 3.0]), np.asarray([0.0, 1.0, 1.0])
  p = 1 / (1 + np.exp(-x))
  expected = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
  assert losses.bce(jnp.asarray(x), jnp.asarray(y), jnp.ones(3)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("unobserved_weight", [0.05, 0.5, 1.0])
def test_non_sampling_squares_equal_the_naive_double_sum(unobserved_weight):
  rng = np.random.default_rng(0)
  user, item = rng.normal(size=(7, 4)), rng.normal(size=(9, 4))
  observed = rng.random((7, 9)) < 0.3
  naive = 0.0
  for u in range(7):
    for i in range(9):
      score = float(user[u] @ item[i])
      naive += (1 - score) ** 2 if observed[u, i] else unobserved_weight * score**2
  rows, cols = np.nonzero(observed)
  scores = np.einsum("pd,pd->p", user[rows], item[cols])
  padded = jnp.asarray(np.append(scores, 123.0)), jnp.asarray(np.append(np.ones(len(rows)), 0.0))
  got = losses.non_sampling_squares(jnp.asarray(user), jnp.asarray(item), *padded, unobserved_weight)
  assert got == pytest.approx(naive, rel=1e-4)


def test_l2_of_rows_counts_a_row_once_for_each_example():
  user = jnp.asarray([[1.0, 2.0], [1.0, 2.0]])
  got = losses.l2_of_rows(user, jnp.zeros((2, 2)), jnp.ones((2, 3, 2)), jnp.ones(2))
  assert got == pytest.approx(0.5 * 5.0 + 0.5 * 2.0)


@pytest.mark.parametrize("num_negatives", [1, 3])
def test_bpr_of_rows_is_bpr_plus_l2_in_value_and_every_derivative(num_negatives):
  keys = jax.random.split(jax.random.key(0), 5)
  user, positive = (jax.random.normal(key, (6, 4)) for key in keys[:2])
  negative = jax.random.normal(keys[2], (6, num_negatives, 4))
  weight = jnp.asarray([1.0, 0.5, 0.0, 2.0, 0.0, 0.25])
  arguments = (user, positive, negative, weight, jnp.asarray(0.3))

  def written_twice(user, positive, negative, weight, l2):
    scores = jnp.sum(user * positive, axis=-1), jnp.sum(user[:, None, :] * negative, axis=-1)
    return losses.bpr(*scores, weight) + l2 * losses.l2_of_rows(user, positive, negative, weight)

  def of(loss):
    return jax.jit(jax.value_and_grad(lambda *a: 3.0 * loss(*a), argnums=(0, 1, 2, 3, 4)))

  got, want = of(losses.bpr_of_rows)(*arguments), of(written_twice)(*arguments)
  real = weight > 0  # of a weight that is 0 there is no derivative: its example does not count at all
  for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    if one.shape == weight.shape:
      one, other = one[real], other[real]
    np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)
  tangents = jax.tree.map(jnp.ones_like, arguments)
  second = [
    jax.jit(lambda *a, loss=loss: jax.jvp(jax.grad(loss, argnums=(0, 1, 2)), a, tangents)[1])(*arguments)
    for loss in (losses.bpr_of_rows, written_twice)
  ]
  for one, other in zip(*map(jax.tree.leaves, second), strict=True):
    np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-6)


def test_bpr_of_rows_ignores_padding_that_is_not_finite():
  user = jnp.asarray([[1.0, 2.0], [jnp.inf, 0.0]])
  rows = jnp.ones((2, 2)), jnp.zeros((2, 1, 2))
  value, slopes = jax.value_and_grad(losses.bpr_of_rows, argnums=(0, 1, 2))(user, *rows, jnp.asarray([1.0, 0.0]), 0.1)
  alone = losses.bpr_of_rows(user[:1], rows[0][:1], rows[1][:1], jnp.ones(1), 0.1)
  assert value == alone and all(np.isfinite(slope[0]).all() for slope in slopes)
