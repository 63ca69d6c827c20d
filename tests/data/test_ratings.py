"""Merging, thresholds and k-core against plain Python over the same rows."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from jaxunlearn.data import Interactions, RatingTable, index_ratings, k_core

rows = st.lists(
  st.tuples(st.integers(10, 14), st.sampled_from("abcd"), st.integers(1, 5), st.integers(0, 6)), min_size=1, max_size=30
)


def table(rows) -> RatingTable:
  user, item, rating, time = zip(*rows, strict=True)
  return RatingTable(np.array(user), np.array(item), np.array(rating, np.float32), np.array(time))


def naive_core(pairs: set, k: int) -> set:
  while True:
    kept = {(u, i) for u, i in pairs if sum(v == u for v, _ in pairs) >= k and sum(j == i for _, j in pairs) >= k}
    if kept == pairs:
      return kept
    pairs = kept


@given(rows, st.sampled_from([None, 2, 4]), st.integers(0, 3))
def test_index_ratings_is_its_naive_twin(rows, min_rating, k):
  best = {}
  for user, item, rating, time in rows:  # the latest row of a pair, then the highest rated
    best[user, item] = max(best.get((user, item), (-1, -1)), (time, rating))
  kept = naive_core({pair for pair, (_, r) in best.items() if min_rating is None or r >= min_rating}, k)
  if not kept:
    with pytest.raises(ValueError, match="No pair is left"):
      index_ratings(table(rows), min_rating=min_rating, k_core=k)
    return
  indexed = index_ratings(table(rows), min_rating=min_rating, k_core=k)
  users = indexed.users.decode(indexed.interactions.user).tolist()
  items = indexed.items.decode(indexed.interactions.item).tolist()
  assert list(zip(users, items, strict=True)) == sorted(kept)
  found = list(zip(indexed.timestamp.tolist(), indexed.rating.tolist(), strict=True))
  assert found == [best[pair] for pair in sorted(kept)]
  assert indexed.duplicates == len(rows) - len(best)
  assert (len(indexed.users), len(indexed.items)) == (len({u for u, _ in kept}), len({i for _, i in kept}))
  assert (indexed.interactions.num_users, indexed.interactions.num_items) == (len(indexed.users), len(indexed.items))


@given(rows, st.randoms(use_true_random=False))
def test_positions_do_not_depend_on_row_order(rows, random):
  shuffled = random.sample(rows, len(rows))
  first, second = index_ratings(table(rows)), index_ratings(table(shuffled))
  assert first.interactions.digest() == second.interactions.digest()
  assert first.users == second.users


def test_k_core_keeps_the_axes():
  pairs = Interactions.from_pairs([0, 0, 1, 1, 2], [0, 1, 0, 1, 2], num_users=4, num_items=4)
  core = k_core(pairs, 2)
  assert core.user.tolist() == [0, 0, 1, 1]
  assert (core.num_users, core.num_items) == (4, 4)
  assert len(k_core(pairs, 3)) == 0
  with pytest.raises(ValueError, match="k=-1 to be a whole number >= 0"):
    k_core(pairs, -1)


def test_refusals():
  with pytest.raises(ValueError, match="min_rating=3 needs ratings"):
    index_ratings(RatingTable(np.array([1]), np.array([1])), min_rating=3)
  with pytest.raises(ValueError, match="empty table"):
    index_ratings(RatingTable(np.zeros(0, int), np.zeros(0, int)))
  with pytest.raises(ValueError, match="item_ids of shape"):
    RatingTable(np.array([1]), np.array([1, 2]))
  with pytest.raises(ValueError, match="rating, got nan in row 1"):
    RatingTable(np.array([1, 2]), np.array([1, 2]), np.array([1, np.nan]))
