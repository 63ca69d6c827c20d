"""The greedy assignment against the scan over the sorted list of all pairs."""

import numpy as np
import pytest

from jaxunlearn.partition import greedy_assignment
from jaxunlearn.partition._types import sure_cap
from tests.partition.twins import naive_greedy

SHAPES = ((37, 5), (60, 3), (8, 8), (25, 1))


@pytest.mark.parametrize("num_units,num_shards", SHAPES)
@pytest.mark.parametrize("values", ["distinct", "ties", "negative"])
def test_it_is_the_greedy_scan(num_units, num_shards, values):
  rng = np.random.default_rng(num_units)
  for _ in range(12):
    distance = rng.normal(size=(num_units, num_shards)).astype(np.float32)
    if values == "ties":
      distance = np.abs(np.round(distance * 2))
    elif values == "distinct":
      distance = np.square(distance)
    cap = -(-num_units // num_shards) + int(rng.integers(0, 3))
    assert greedy_assignment(distance, cap).tolist() == naive_greedy(distance, cap)


@pytest.mark.parametrize("heavy", [2, 9, 40])
def test_it_is_the_greedy_scan_with_weights(heavy):
  rng = np.random.default_rng(heavy)
  for trial in range(40):
    distance = rng.normal(size=(37, 5)).astype(np.float32) ** 2
    if trial % 2:
      distance = np.round(distance)
    weight = rng.integers(0, heavy + 1, 37)
    cap = sure_cap(weight, 5, weight.sum() / 5)
    got = greedy_assignment(distance, cap, weight)
    assert got.tolist() == naive_greedy(distance, cap, weight)
    assert min(got.tolist()) >= 0 and np.bincount(np.asarray(got), weight).max() <= cap


def test_it_is_the_greedy_scan_where_not_everything_fits():
  rng = np.random.default_rng(0)
  left_over = 0
  for _ in range(30):
    distance, weight = rng.random((37, 5)).astype(np.float32), rng.integers(1, 30, 37)
    cap = rng.integers(0, 2 * weight.sum() // 5, 5)
    got = greedy_assignment(distance, cap, weight).tolist()
    assert got == naive_greedy(distance, cap, weight)
    left_over += got.count(-1)
  assert left_over > 0


def test_thousands_of_ties_across_the_digits_of_a_number_go_by_unit_number():
  # 5,000 units need two digits of 11 bits; all at distance 0 of shard 1, which takes 3,000.
  distance = np.asarray([[1.0, 0.0, 2.0]] * 5000, np.float32)
  got = np.asarray(greedy_assignment(distance, np.asarray([1500, 3000, 700])))
  assert got.tolist() == [1] * 3000 + [0] * 1500 + [2] * 500


def test_minus_zero_and_zero_are_a_tie():
  distance = np.asarray([[0.0, 1.0], [-0.0, 1.0]], np.float32)
  assert greedy_assignment(distance, 1).tolist() == [0, 1]


def test_the_raised_cap_places_every_unit_and_is_the_least_sure_one():
  rng = np.random.default_rng(1)
  tight = 0
  for _ in range(60):
    weight = rng.integers(1, 50, 12)
    cap = sure_cap(weight, 4, 0)
    distance = rng.random((12, 4))
    assert min(naive_greedy(distance, cap, weight)) >= 0
    tight += min(naive_greedy(distance, int(weight.sum()) // 4, weight)) < 0
  assert tight > 0  # the plain mean would not do
  # One less, and three units of 3 fill two shards of 4 so that the third has no place.
  assert sure_cap(np.asarray([3, 3, 3]), 2, 0) == 6
  assert naive_greedy(np.zeros((3, 2)), 5, [3, 3, 3]) == [0, 1, -1]
  assert sure_cap(np.ones(50, int), 10, 1.2 * 50 / 10) == 6


def test_wrong_arguments_name_themselves():
  distance = np.ones((4, 2))
  with pytest.raises(ValueError, match="finite values in distance"):
    greedy_assignment(np.full((4, 2), np.nan), 2)
  with pytest.raises(ValueError, match="weight as integers"):
    greedy_assignment(distance, 2, [1, 1, 1])
  with pytest.raises(ValueError, match="weight as integers"):
    greedy_assignment(distance, 2, [1, 1, 1, -1])
  with pytest.raises(ValueError, match="cap as integers"):
    greedy_assignment(distance, 2.5)
  with pytest.raises(ValueError, match="units, shards"):
    greedy_assignment(np.ones(4), 2)
  with pytest.raises(ValueError, match="sum < 2"):
    greedy_assignment(distance, 2, np.full(4, 2**30))
