"""Splits: exact sizes, disjoint parts, and what each rule promises."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from jaxunlearn.data import Interactions, Split, hold_out, leave_n_out, random_split, time_split
from tests.small import random_pairs

seeds = st.integers(0, 2**32 - 1)


@st.composite
def interactions(draw) -> Interactions:
  pairs = sorted(draw(st.sets(st.tuples(st.integers(0, 4), st.integers(0, 14)), min_size=1)))
  return Interactions.from_pairs([u for u, _ in pairs], [i for _, i in pairs], num_users=6, num_items=15)


def parts(split: Split) -> tuple[Interactions, Interactions, Interactions]:
  return split.train, split.validation, split.test


def assert_partition(split: Split, whole: Interactions) -> None:
  train, validation, test = parts(split)
  assert len(train) + len(validation) + len(test) == len(whole)
  assert train.union(validation).union(test).digest() == whole.digest()


@given(seeds, interactions())
def test_random_split_by_user_gives_each_user_its_share(seed, whole):
  split = random_split(np.random.default_rng(seed), whole, (0.5, 0.2, 0.3))
  assert_partition(split, whole)
  counts = whole.user_degrees()
  np.testing.assert_array_equal(split.validation.user_degrees(), counts * 2 // 10)
  np.testing.assert_array_equal(split.test.user_degrees(), counts * 3 // 10)


@given(seeds, interactions())
def test_random_split_by_pair_has_exact_sizes(seed, whole):
  split = random_split(np.random.default_rng(seed), whole, (0.5, 0.2, 0.3), by="pair")
  assert_partition(split, whole)
  assert (len(split.validation), len(split.test)) == (len(whole) * 2 // 10, len(whole) * 3 // 10)


@pytest.mark.parametrize("by", ["user", "pair"])
def test_random_split_depends_on_the_generator_alone(by):
  whole = Interactions.from_pairs(np.repeat(np.arange(20), 20), np.tile(np.arange(20), 20))
  first, again, other = (random_split(np.random.default_rng(s), whole, by=by).test.digest() for s in (1, 1, 2))
  assert first == again != other


def test_random_split_is_uniform_over_a_user_s_pairs():
  whole = Interactions.from_pairs(np.zeros(10, int), np.arange(10))
  drawn = np.zeros(10)
  rng = np.random.default_rng(0)
  for _ in range(2000):
    drawn[random_split(rng, whole, (0.8, 0.1, 0.1)).test.item] += 1
  assert abs(drawn - 200).max() < 4 * np.sqrt(200 * 0.9)  # four standard deviations


@given(st.lists(st.integers(0, 5), min_size=75, max_size=75), st.integers(1, 3), st.booleans(), interactions())
def test_leave_n_out_takes_the_latest(times, n, validation, whole):
  times = np.array(times[: len(whole)])
  split = leave_n_out(times, whole, n, validation=validation)
  assert_partition(split, whole)
  for user in range(whole.num_users):
    rows = np.flatnonzero(whole.user == user)
    by_time = [int(whole.item[r]) for r in sorted(rows, key=lambda r: (times[r], r))]
    held = n * (1 + validation)
    if len(by_time) <= held:
      held = 0
    expected_test = by_time[len(by_time) - n :] if held else []
    assert split.test.item[split.test.user == user].tolist() == sorted(expected_test)
    assert (split.validation.user == user).sum() == (n if held and validation else 0)
    assert split.train.item[split.train.user == user].tolist() == sorted(by_time[: len(by_time) - held])


def test_leave_n_out_at_random_leaves_everyone_a_training_pair():
  whole = Interactions.from_pairs([0, 0, 0, 1, 1], [0, 1, 2, 0, 1])
  split = leave_n_out(np.random.default_rng(0), whole, 1)
  assert split.train.user_degrees().tolist() == [1, 2]
  with pytest.raises(ValueError, match="n=0 to be a whole number > 0"):
    leave_n_out(np.random.default_rng(0), whole, 0)


@given(st.lists(st.integers(0, 5), min_size=75, max_size=75), interactions())
def test_time_split_never_trains_on_the_future(times, whole):
  times = np.array(times[: len(whole)])
  split = time_split(times, whole, (0.5, 0.2, 0.3))
  assert_partition(split, whole)
  assert (len(split.validation), len(split.test)) == (len(whole) * 2 // 10, len(whole) * 3 // 10)
  when = [times[np.searchsorted(whole.keys(), part.keys())] for part in parts(split)]
  for earlier, later in itertools.combinations(when, 2):
    assert earlier.max(initial=-1) <= later.min(initial=6)


@given(seeds, interactions(), st.sampled_from([0.1, 0.29, 0.5]))
def test_hold_out_takes_exactly_its_share(seed, whole, fraction):
  count = round(len(whole) * fraction * 100) // 100
  if count == 0:
    with pytest.raises(ValueError, match="no pair at all"):
      hold_out(np.random.default_rng(seed), whole, fraction)
    return
  train, validation = hold_out(np.random.default_rng(seed), whole, fraction)
  assert len(validation) == count
  assert whole.without(validation).digest() == train.digest()


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_hold_out_refuses_other_fractions(fraction):
  whole = Interactions.from_pairs([0, 1], [0, 1])
  with pytest.raises(ValueError, match="fraction="):
    hold_out(np.random.default_rng(0), whole, fraction)


@pytest.mark.parametrize("ratios", [(0.8, 0.2), (8, 1, 1), (0, 0.5, 0.5), (1.1, 0, -0.1), (0.5, 0.1, 0.1)])
def test_ratios_are_checked(ratios):
  whole = Interactions.from_pairs([0], [0])
  with pytest.raises(ValueError, match="Expected ratios="):
    random_split(np.random.default_rng(0), whole, ratios)
  with pytest.raises(ValueError, match="Expected ratios="):
    time_split(np.zeros(1), whole, ratios)


def test_other_refusals():
  whole = Interactions.from_pairs([0, 1], [0, 1])
  with pytest.raises(ValueError, match="Did you mean 'user'"):
    random_split(np.random.default_rng(0), whole, by="users")
  with pytest.raises(ValueError, match="one timestamp for each of 2 pairs"):
    time_split(np.zeros(3), whole)
  with pytest.raises(ValueError, match="finite numbers"):
    time_split(np.array([0, np.nan]), whole)
  with pytest.raises(ValueError, match="disjoint train and test"):
    Split(whole, whole.select(np.zeros(2, bool)), whole)


def test_save_and_load_round_trip(tmp_path):
  whole = Interactions.from_pairs([0, 0, 1, 3], [2, 0, 1, 0], num_users=5, num_items=7)
  split = random_split(np.random.default_rng(0), whole, (0.5, 0.0, 0.5), by="pair")
  split.save(tmp_path / "split.npz")
  loaded = Split.load(tmp_path / "split.npz")
  assert [p.digest() for p in parts(loaded)] == [p.digest() for p in parts(split)]
  assert [p.name for p in tmp_path.iterdir()] == ["split.npz"]  # no temporary file stays


def test_load_refuses_what_is_not_a_split(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"none\.npz"):
    Split.load(tmp_path / "none.npz")
  (tmp_path / "junk.npz").write_bytes(b"junk")
  with pytest.raises(ValueError, match="not a split saved by"):
    Split.load(tmp_path / "junk.npz")
  np.savez(tmp_path / "other.npz", a=np.zeros(1))
  with pytest.raises(ValueError, match="not a split saved by"):
    Split.load(tmp_path / "other.npz")


def test_load_notices_altered_pairs(tmp_path):
  whole = Interactions.from_pairs([0, 0, 1, 3], [2, 0, 1, 0])
  path = tmp_path / "split.npz"
  random_split(np.random.default_rng(0), whole, (0.5, 0.0, 0.5), by="pair").save(path)
  with np.load(path) as stored:
    arrays = dict(stored)
  arrays["test_item"] = arrays["test_item"][::-1].copy()
  np.savez(path, **arrays)
  with pytest.raises(ValueError, match="altered since it was saved: test"):
    Split.load(path)


def test_save_names_the_path_it_cannot_write(tmp_path):
  whole = Interactions.from_pairs([0, 1], [0, 1])
  split = Split(whole.select(np.array([True, False])), whole.select(np.zeros(2, bool)), whole.select(np.array([1])))
  with pytest.raises(OSError, match="absent/split.npz"):
    split.save(tmp_path / "absent" / "split.npz")


def test_shares_and_numbers_that_are_none_are_refused():
  data = random_pairs()
  with pytest.raises(ValueError, match="Expected ratios"):
    random_split(np.random.default_rng(0), data, (0.8, float("nan"), 0.1))
  with pytest.raises(ValueError, match="n=1.5 to be a whole number"):
    leave_n_out(np.random.default_rng(0), data, 1.5)
