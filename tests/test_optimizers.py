import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import optimizers


def steps(seed=0, num_rows=12, dim=3, batch=9, count=5):
  rng = np.random.default_rng(seed)
  table = jnp.asarray(rng.normal(size=(num_rows, dim)), jnp.float32)
  rows = [jnp.asarray(rng.integers(0, num_rows, batch), jnp.int32) for _ in range(count)]
  grads = [jnp.asarray(rng.normal(size=(batch, dim)), jnp.float32) for _ in range(count)]
  return table, rows, grads


def dense_gradient(table, rows, grads):
  return jnp.zeros_like(table).at[rows].add(grads)


@pytest.mark.parametrize(
  ("row", "dense"),
  [
    (optimizers.row_sgd(), optax.identity()),
    (optimizers.row_adagrad(), optax.scale_by_rss()),
    (optimizers.row_adagrad(1e-8, 0.0), optax.scale_by_rss(1e-8, 0.0)),
  ],
  ids=["sgd", "adagrad", "adagrad_tf"],
)
def test_row_optimizer_equals_the_dense_one_with_repeated_rows(row, dense):
  table, rows, grads = steps()
  expected, dense_state, row_state = table, dense.init(table), row.init(table)
  for r, g in zip(rows, grads, strict=True):
    table, row_state = row.update(table, row_state, r, g, jnp.float32(0.1))
    update, dense_state = dense.update(dense_gradient(expected, r, g), dense_state)
    expected = expected - 0.1 * update
  np.testing.assert_allclose(table, expected, rtol=2e-5, atol=2e-6)


def test_row_adam_equals_adam_when_every_row_has_a_gradient():
  table, _, _ = steps()
  rng = np.random.default_rng(1)
  row, dense = optimizers.row_adam(), optax.scale_by_adam()
  expected, dense_state, row_state = table, dense.init(table), row.init(table)
  for _ in range(6):
    rows = jnp.asarray(rng.permutation(np.concatenate([np.arange(12), rng.integers(0, 12, 8)])), jnp.int32)
    grads = jnp.asarray(rng.normal(size=(20, 3)), jnp.float32)
    table, row_state = row.update(table, row_state, rows, grads, jnp.float32(0.1))
    update, dense_state = dense.update(dense_gradient(expected, rows, grads), dense_state)
    expected = expected - 0.1 * update
  np.testing.assert_allclose(table, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(optimizers.ROW))
def test_rows_without_gradient_and_rows_out_of_range_stay(name):
  row = optimizers.ROW[name]()
  table = jnp.ones((6, 2))
  state = row.init(table)
  for _ in range(3):
    table, state = row.update(table, state, jnp.asarray([1, 6, 1]), jnp.ones((3, 2)), jnp.float32(0.1))
  changed = np.flatnonzero(np.any(np.asarray(table) != 1, axis=1))
  assert changed.tolist() == [1]
  for leaf in jax.tree.leaves(state):
    if leaf.dtype == jnp.float32:
      fresh = np.asarray(leaf)[[0, 2, 3, 4, 5]]
      assert np.all(fresh == fresh[0])


def test_repeated_rows_are_summed_whatever_the_scratch_holds():
  owner = jnp.asarray([7, 7, 7, 7], jnp.int32)
  rows, grads = jnp.asarray([2, 0, 2]), jnp.asarray([[1.0], [2.0], [4.0]])
  _, kept, summed = optimizers.sum_repeated_rows(owner, rows, grads)
  found = {int(r): float(s[0]) for r, s in zip(kept, summed, strict=True) if r < 4}
  assert found == {0: 2.0, 2: 5.0}


def test_adam_for_larger_batches_forgets_as_much_an_epoch():
  """Steps with the factor k are Adam's own with b ** k and ε ÷ √k; a factor of one is Adam's itself."""
  rng = np.random.default_rng(2)
  grads = 1e-8 * rng.normal(size=(5, 7))  # small enough that ε counts
  rule, mean, square = optimizers.dense("adam", 4.0), np.zeros(7), np.zeros(7)
  state = rule.init(jnp.zeros(7))
  for t, grad in enumerate(grads, start=1):
    direction, state = rule.update(jnp.asarray(grad, jnp.float32), state)
    mean = 0.9**4 * mean + (1 - 0.9**4) * grad
    square = 0.999**4 * square + (1 - 0.999**4) * grad**2
    expected = mean / (1 - 0.9 ** (4 * t)) / (np.sqrt(square / (1 - 0.999 ** (4 * t))) + 1e-8 / 2)
    np.testing.assert_allclose(direction, expected, rtol=2e-3)
  one, plain = optimizers.dense("adam"), optax.scale_by_adam()
  first, second = (each.update(jnp.asarray(grads[0]), each.init(jnp.zeros(7)))[0] for each in (one, plain))
  assert np.array_equal(first, second)


def test_the_gradient_of_a_row_out_of_range_is_nobodys():
  _, rows, summed = optimizers.sum_repeated_rows(
    jnp.zeros(4, jnp.int32), jnp.array([0, 4]), jnp.array([[1.0], [100.0]])
  )
  assert rows.tolist() == [0, 4] and summed[0] == 1.0
