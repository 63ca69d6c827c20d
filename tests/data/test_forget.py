"""Forget sets: exact sizes, whole entities, proper subsets, and the stated order of ties."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from jaxunlearn.data import (
  Interactions,
  load,
  sample_forget,
  sample_interactions,
  sample_items,
  sample_users,
  select_core,
  select_edge,
)


@st.composite
def interactions(draw) -> Interactions:
  pairs = sorted(draw(st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=12)))
  return Interactions.from_pairs([u for u, _ in pairs], [i for _, i in pairs], num_users=10, num_items=10)


@given(st.integers(0, 2**32 - 1), interactions(), st.integers(10, 99))
def test_sample_interactions_is_exact(seed, whole, percent):
  forget = sample_interactions(np.random.default_rng(seed), whole, percent / 100)
  assert len(forget) == len(whole) * percent // 100
  assert whole.contains(forget).all()


@given(st.integers(0, 2**32 - 1), interactions(), st.integers(10, 60), st.sampled_from(["user", "item"]))
def test_entities_follow_lightul_s_rule(seed, whole, percent, by):
  """The naive twin: shuffle the entities, add all pairs of each until there are enough."""
  sampler = {"user": sample_users, "item": sample_items}[by]
  entity = getattr(whole, by)
  chosen, count = set(), 0
  for e in np.random.default_rng(seed).permutation(np.unique(entity)).tolist():
    if count >= len(whole) * percent // 100:
      break
    chosen.add(e)
    count += int((entity == e).sum())
  if count == len(whole):
    with pytest.raises(ValueError, match="leaves nothing to serve"):
      sampler(np.random.default_rng(seed), whole, percent / 100)
    return
  forget = sampler(np.random.default_rng(seed), whole, percent / 100)
  assert forget.digest() == whole.select(np.isin(entity, list(chosen))).digest()
  fronted = sample_forget(np.random.default_rng(seed), whole, by=by, ratio=percent / 100)
  assert fronted.digest() == forget.digest()


@given(interactions(), st.integers(20, 90), st.sampled_from(["user", "item"]), st.sampled_from(["core", "edge"]))
def test_core_and_edge_are_sorted_by_pairs_then_position(whole, percent, by, selection):
  entity = getattr(whole, by).tolist()
  sign = -1 if selection == "core" else 1
  ranked = sorted(set(entity), key=lambda e: (sign * entity.count(e), e))
  chosen = ranked[: len(ranked) * percent // 100]
  if not chosen:
    with pytest.raises(ValueError, match="is none at all"):
      sample_forget(None, whole, by=by, ratio=percent / 100, selection=selection)
    return
  expected = whole.select(np.isin(entity, chosen))
  forget = sample_forget(None, whole, by=by, ratio=percent / 100, selection=selection)
  assert forget.digest() == expected.digest()
  assert {"core": select_core, "edge": select_edge}[selection](whole, percent / 100, by).digest() == expected.digest()


def test_sampling_is_uniform_over_pairs():
  whole = Interactions.from_pairs(np.zeros(10, int), np.arange(10))
  rng, drawn = np.random.default_rng(0), np.zeros(10)
  for _ in range(2000):
    drawn[sample_interactions(rng, whole, 0.2).item] += 1
  assert abs(drawn - 400).max() < 4 * np.sqrt(400 * 0.8)  # four standard deviations


SQUARE = Interactions.from_pairs(np.repeat(np.arange(4), 4), np.tile(np.arange(4), 4))


@pytest.mark.parametrize("by", ["interaction", "user", "item"])
@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_ratio_is_between_zero_and_one(by, ratio):
  with pytest.raises(ValueError, match="Expected ratio="):
    sample_forget(np.random.default_rng(0), SQUARE, by=by, ratio=ratio)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"ratio": 0.01}, "of 16 pairs is no pair at all"),
    ({"ratio": 0.1, "by": "user", "selection": "core"}, "of 4 users with pairs is none at all"),
    ({"ratio": 0.99, "by": "user"}, "forgets all 16 pairs"),
    ({"ratio": 0.5, "selection": "core"}, "pass by='user' or 'item'"),
    ({"ratio": 0.5, "by": "users"}, "Did you mean 'user'"),
    ({"ratio": 0.5, "by": "user", "selection": "corre"}, "Did you mean 'core'"),
    ({"ratio": 2.0, "by": "user", "selection": "edge"}, "ratio=2.0 in"),
  ],
)
def test_refusals(options, message):
  with pytest.raises(ValueError, match=message):
    sample_forget(np.random.default_rng(0), SQUARE, **options)


def test_random_needs_a_generator():
  with pytest.raises(ValueError, match="default_rng"):
    sample_forget(None, SQUARE, ratio=0.5)


@pytest.mark.parametrize("by", ["interaction", "user", "item"])
def test_real_data_of_the_published_size(data_dir, by):
  train = load("ml-1m", data_dir).train
  forget = sample_forget(np.random.default_rng(0), train, by=by, ratio=0.01)
  assert train.contains(forget).all()
  assert 4455 <= len(forget) <= (4455 if by == "interaction" else 7000)
  if by != "interaction":  # whole entities: nothing of them is left
    retain = train.without(forget)
    assert not np.isin(getattr(forget, by), getattr(retain, by)).any()
