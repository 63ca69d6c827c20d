import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxunlearn.metrics import topk
from tests import oracles

FEW_VALUES = [-np.inf, -2.0, -0.0, 0.0, 1e-30, 1.0, 1.5, np.inf]  # few, so that rows are full of ties
ROWS, ITEMS = 3, 67  # 8 blocks of 8 and a tail of 3

in_blocks = jax.jit(topk._top_k_in_blocks, static_argnames=("k", "block"))
public = jax.jit(topk.top_k, static_argnames="k")


def same(got, want):
  for one, other in zip(got, want, strict=True):
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@settings(max_examples=150, deadline=None)
@given(hnp.arrays(np.float32, (ROWS, ITEMS), elements=st.sampled_from(FEW_VALUES)), st.sampled_from([1, 2, 5, 8]))
def test_blocks_equal_lax_with_ties_and_infinities(scores, k):
  values, items = in_blocks(jnp.asarray(scores), k=k)
  want_values, want_items = jax.lax.top_k(jnp.asarray(scores), k)
  same((values, items), (want_values, want_items))
  np.testing.assert_array_equal(np.signbit(values), np.signbit(want_values))


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float32, (ROWS, ITEMS), elements=st.sampled_from([-np.inf, -1.0, 0.0, 2.0, 3.0])))
def test_blocks_equal_a_stable_argsort(scores):
  _, items = in_blocks(jnp.asarray(scores), k=6)
  np.testing.assert_array_equal(items, [oracles.naive_top_k(row, 6) for row in scores])


@pytest.mark.parametrize("num_items", [200, 1000, 1001, 1607])
def test_public_equals_lax_on_either_side_of_the_switch(num_items):
  scores = np.random.default_rng(num_items).integers(0, 30, (4, num_items)).astype(np.float32)
  scores[1] = -np.inf
  scores[2, 5:] = -np.inf
  scores[3] = 0
  same(public(jnp.asarray(scores), k=10), jax.lax.top_k(jnp.asarray(scores), 10))


def test_long_rows_take_the_blocks(monkeypatch):
  def fail(*args, **kwargs):
    raise AssertionError("blocks used")

  monkeypatch.setattr(topk, "_top_k_in_blocks", fail)
  topk.top_k(jnp.zeros((2, 999)), 10)
  with pytest.raises(AssertionError, match="blocks used"):
    topk.top_k(jnp.zeros((2, 1000)), 10)


def test_ties_across_blocks_go_to_the_lowest_item():
  scores = jnp.zeros((1, 400)).at[0, 399].set(1.0)
  values, items = public(scores, k=4)
  assert items.tolist() == [[399, 0, 1, 2]]
  assert values.tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_edges():
  assert topk.top_k(jnp.zeros((0, 500)), 3)[0].shape == (0, 3)
  assert topk.top_k(jnp.zeros((2, 5)), 0)[1].shape == (2, 0)
  assert topk.top_k(jnp.zeros((2, 5)), 5)[1].tolist() == [[0, 1, 2, 3, 4]] * 2
  assert topk.top_k(jnp.zeros((2, 5), jnp.bfloat16), 2)[0].dtype == jnp.bfloat16
  assert topk.top_k(jnp.zeros((2, 500)), 2)[1].dtype == jnp.int32
  for bad in (-1, 6):
    with pytest.raises(ValueError, match=r"Expected k=.* in \[0, 5\]"):
      topk.top_k(jnp.zeros((2, 5)), bad)
  with pytest.raises(ValueError, match="shape"):
    topk.top_k(jnp.zeros(5), 1)
