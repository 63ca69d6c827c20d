"""Interactions against Python sets: the same algebra, the same answers."""

from __future__ import annotations

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given

from jaxunlearn.data import Interactions, capacity_for

USERS, ITEMS = 5, 4
pair_sets = st.sets(st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1)))


def of(pairs) -> Interactions:
  rows = list(pairs)
  return Interactions.from_pairs(
    np.array([u for u, _ in rows], np.int64), np.array([i for _, i in rows], np.int64), num_users=USERS, num_items=ITEMS
  )


def as_set(interactions: Interactions) -> set[tuple[int, int]]:
  pairs = list(zip(interactions.user.tolist(), interactions.item.tolist(), strict=True))
  assert pairs == sorted(set(pairs))  # sorted and unique is part of every answer
  assert interactions.user.dtype == interactions.item.dtype == np.int32
  assert (interactions.num_users, interactions.num_items) == (USERS, ITEMS)
  return set(pairs)


@given(st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1))))
def test_from_pairs_sorts_and_merges(rows):
  assert as_set(of(rows)) == set(rows)


@given(pair_sets, pair_sets)
def test_algebra_is_that_of_sets(a, b):
  assert as_set(of(a).union(of(b))) == a | b
  assert as_set(of(a).intersection(of(b))) == a & b
  assert as_set(of(a).without(of(a & b))) == a - b
  assert of(a).contains(of(b)).tolist() == [pair in a for pair in sorted(b)]


@given(pair_sets, pair_sets)
def test_without_what_is_absent_names_it(a, b):
  if b - a:
    user, item = min(b - a)
    with pytest.raises(ValueError, match=rf"not: \({user}, {item}\)"):
      of(a).without(of(b))


@given(pair_sets)
def test_degrees_indptr_and_csr_agree_with_counting(a):
  value = of(a)
  assert value.user_degrees().tolist() == [sum(u == k for u, _ in a) for k in range(USERS)]
  assert value.item_degrees().tolist() == [sum(i == k for _, i in a) for k in range(ITEMS)]
  assert value.indptr().tolist() == [sum(u < k for u, _ in a) for k in range(USERS + 1)]
  dense = np.zeros((USERS, ITEMS), np.float32)
  for pair in a:
    dense[pair] = 1
  np.testing.assert_array_equal(value.to_csr().toarray(), dense)


@given(pair_sets)
def test_by_item_lists_every_items_users_sorted(a):
  indptr, user = of(a).by_item()
  assert indptr.shape == (ITEMS + 1,) and user.dtype == np.int32
  for item in range(ITEMS):
    assert user[indptr[item] : indptr[item + 1]].tolist() == sorted(u for u, i in a if i == item)


def test_by_item_is_sorted_once_and_cannot_be_written():
  value = Interactions.from_pairs([0, 0, 2], [1, 3, 1])
  for first, again in zip(value.by_item(), value.by_item(), strict=True):
    assert first is again
    with pytest.raises(ValueError, match="read-only"):
      first[0] = 7


def test_degrees_are_counted_once_and_cannot_be_written():
  value = Interactions.from_pairs([0, 0, 2], [1, 3, 1])
  for degrees in (value.user_degrees, value.item_degrees):
    assert degrees() is degrees()
    with pytest.raises(ValueError, match="read-only"):
      degrees()[0] = 7


@given(pair_sets, pair_sets)
def test_digest_tells_values_apart(a, b):
  assert (of(a).digest() == of(b).digest()) == (a == b)


def test_digest_depends_on_the_axes():
  pairs = ([0], [0])
  assert (
    Interactions.from_pairs(*pairs, num_users=1, num_items=1).digest()
    != Interactions.from_pairs(*pairs, num_users=1, num_items=2).digest()
  )


@pytest.mark.parametrize(("count", "capacity"), [(0, 256), (256, 256), (257, 512), (512, 512), (513, 1024)])
def test_capacity_is_the_next_power_of_two(count, capacity):
  assert capacity_for(count) == capacity


def test_padded_holds_the_pairs_and_zeros():
  value = of({(4, 3), (0, 1)})
  padded = value.padded(8)
  assert padded.user.tolist() == [0, 4] + [0] * 6
  assert padded.item.tolist() == [1, 3] + [0] * 6
  assert padded.indptr.tolist() == [0, 1, 1, 1, 1, 2]
  assert (int(padded.count), padded.capacity) == (2, 8)
  with pytest.raises(ValueError, match="capacity=1 >= 2"):
    value.padded(1)


def test_is_a_pytree_that_round_trips():
  leaves, structure = jax.tree_util.tree_flatten(of({(1, 2)}))
  assert as_set(jax.tree_util.tree_unflatten(structure, leaves)) == {(1, 2)}


@pytest.mark.parametrize(
  ("user", "item", "message"),
  [
    ([0, 1], [0], "one equal length"),
    ([0.5], [0], "integer positions in user"),
    ([-1], [0], r"user positions in \[0, 5\), got -1"),
    ([0], [4], r"item positions in \[0, 4\), got 4"),
  ],
)
def test_from_pairs_refuses(user, item, message):
  with pytest.raises(ValueError, match=message):
    Interactions.from_pairs(np.array(user), np.array(item), num_users=USERS, num_items=ITEMS)


def test_other_axes_are_refused():
  other = Interactions.from_pairs([0], [0], num_users=USERS, num_items=ITEMS + 1)
  with pytest.raises(ValueError, match="same users and items"):
    of({(0, 0)}).union(other)


@pytest.mark.parametrize("side", ["user", "item"])
def test_positions_beyond_int32_are_refused(side):
  for large in (2**31 - 1, 3_000_000_000, 2**40):
    pairs = {"user": [0, 1], "item": [0, 1], side: [large, 5]}
    with pytest.raises(ValueError, match=f"Expected {side} positions below 2,147,483,647 .*map them with a Vocabulary"):
      Interactions.from_pairs(**pairs)


def test_pairs_are_found_after_a_tree_map_put_them_on_a_device():
  """jax arrays have no int64, and user · num_items + item is beyond int32 here."""
  rng = np.random.default_rng(0)
  pairs = Interactions.from_pairs(
    rng.integers(0, 138_000, 2_000), rng.integers(0, 27_000, 2_000), num_users=138_000, num_items=27_000
  )
  some = pairs.select(np.arange(0, len(pairs), 20))
  on_device = jax.device_put(pairs)
  np.testing.assert_array_equal(on_device.keys(), pairs.keys())
  assert on_device.contains(some).all() and len(on_device.without(some)) == len(pairs) - len(some)
  assert isinstance(on_device.without(some).user, np.ndarray)
