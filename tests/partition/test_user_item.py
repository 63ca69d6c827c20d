"""UBP, IBP and InBP against the papers' algorithms in plain Python."""

import jax
import numpy as np
import pytest

from jaxunlearn import data, partition
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.partition._types import draw_distinct
from jaxunlearn.partition.balanced import means, squared_distances
from tests.partition.twins import naive_inbp, naive_ubp
from tests.small import random_pairs


def vectors(rows, dim=6, seed=0):
  return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def planted(num_groups=4, users=10, items=8):
  """Users of a group like that group's items only; their vectors lie together."""
  user, item = np.divmod(np.arange(num_groups**2 * users * items), num_groups * items)
  keep = user // users == item // items
  pairs = Interactions.from_pairs(user[keep], item[keep])
  centers = 5 * vectors(num_groups, seed=9)
  noise = 0.1 * vectors(num_groups * (users + items), seed=8)
  u, v = np.repeat(centers, users, 0), np.repeat(centers, items, 0)
  return pairs, u + noise[: len(u)], v + noise[len(u) :]


@pytest.mark.parametrize("unit", ["user", "interaction"])
@pytest.mark.parametrize("num_shards,seed,scalar", [(1, 0, False), (4, 1, False), (4, 2, True), (7, 3, False)])
def test_ubp_is_algorithm_1(num_shards, seed, scalar, unit):
  pairs = random_pairs(seed, num_users=60, num_pairs=250)  # some users have no pair
  points, key = vectors(60, seed=seed), jax.random.key(seed)
  got = partition.ubp(key, pairs, points, num_shards, unit=unit, max_iterations=6, scalar_anchor=scalar)
  present, degree = np.unique(pairs.user, return_counts=True)
  first = draw_distinct(jax.random.key(seed), len(present), num_shards)
  weight = None if unit == "user" else degree
  want, passes = naive_ubp(points[present], np.asarray(first), got.info["cap"], 6, weight, scalar)
  assert got.shard.tolist() == [want[np.searchsorted(present, u)] for u in pairs.user]
  assert got.info["iterations"] == passes and got.derived_from == "vectors"


def test_ibp_is_ubp_of_the_other_axis():
  pairs = random_pairs()
  turned = Interactions.from_pairs(pairs.item, pairs.user, num_users=pairs.num_items, num_items=pairs.num_users)
  points = vectors(pairs.num_items)
  for unit, other in (("item", "user"), ("interaction", "interaction")):
    got = partition.ibp(jax.random.key(4), pairs, points, 5, unit=unit)
    want = partition.ubp(jax.random.key(4), turned, points, 5, unit=other)
    np.testing.assert_array_equal(got.shard[np.lexsort((pairs.user, pairs.item))], want.shard)
    assert got.info["cap"] == want.info["cap"]


@pytest.mark.parametrize("num_shards,seed,scalar", [(1, 0, False), (3, 1, False), (6, 2, True), (9, 3, False)])
def test_inbp_is_algorithm_2(num_shards, seed, scalar):
  pairs = random_pairs(seed, num_users=20, num_items=15, num_pairs=150)
  p, q, key = vectors(20, seed=seed), vectors(15, 4, seed=seed + 1), jax.random.key(seed)
  got = partition.inbp(key, pairs, p, q, num_shards, max_iterations=5, scalar_anchor=scalar)
  first = np.asarray(draw_distinct(jax.random.key(seed), len(pairs), num_shards))
  want, passes = naive_inbp(pairs.user, pairs.item, p, q, first, got.info["cap"], 5, scalar)
  assert got.shard.tolist() == want and got.info["iterations"] == passes


def test_caps_hold_and_follow_the_unit():
  pairs = random_pairs(num_users=80, num_items=60, num_pairs=1500)
  p, q = vectors(80), vectors(60)
  p[:40] = p[0]  # half of the users at one point: without a cap, one shard
  users = partition.ubp(jax.random.key(0), pairs, p, 8)
  count = np.bincount([users.shard[pairs.user == u][0] for u in np.unique(pairs.user)], minlength=8)
  assert users.info["cap"] == 12 and count.max() == 12 and count.sum() == 80
  work = partition.ubp(jax.random.key(0), pairs, p, 8, unit="interaction")
  assert work.sizes().max() <= work.info["cap"] and work.info["cap"] >= 1.2 * len(pairs) / 8
  both = partition.inbp(jax.random.key(0), pairs, p, q, 8, cap_factor=1.05)
  assert both.info["cap"] == int(np.ceil(1.05 * len(pairs) / 8)) and both.sizes().max() <= both.info["cap"]
  for parts in (users, work):
    assert all(len(set(parts.shard[pairs.user == u].tolist())) == 1 for u in range(80))


def test_planted_groups_are_found():
  pairs, p, q = planted()
  # Greedy assignment ends in a local optimum if two first anchors share a group; one of a few keys does not.
  for make in (
    lambda key: partition.ubp(key, pairs, p, 4),
    lambda key: partition.ibp(key, pairs, q, 4, unit="interaction"),
    lambda key: partition.inbp(key, pairs, p, q, 4),
  ):
    tries = [make(jax.random.key(seed)) for seed in range(12)]
    pure = [all(len(set((s.user // 10).tolist())) == 1 for s in t.shards(pairs) if len(s)) for t in tries]
    assert any(pure)
    assert all(t.info["still"] for t, is_pure in zip(tries, pure, strict=True) if is_pure)


def test_the_same_key_gives_the_same_partition_and_another_another():
  pairs, p, q = random_pairs(), vectors(40), vectors(30)
  a, b, c = (partition.inbp(jax.random.key(s), pairs, p, q, 4).shard for s in (5, 5, 6))
  np.testing.assert_array_equal(a, b)
  assert (a != c).any()


def test_an_empty_shard_keeps_its_anchor():
  old = np.asarray([[1.0, 2.0], [3.0, 4.0]], np.float32)
  points = np.asarray([[1.0, 1.0], [3.0, 5.0]], np.float32)
  new = means(np.asarray([[1, 1], [0, 0]]), points, old, scalar=False)
  np.testing.assert_array_equal(new, [[2.0, 3.0], [3.0, 4.0]])
  # Two points only: six shards of cap ⌈1.2 · 12 / 6⌉ leave some empty, and nothing becomes NaN.
  pairs = Interactions.from_pairs(np.arange(12), np.zeros(12, int))
  points = np.repeat(points, 6, 0)
  parts = partition.ubp(jax.random.key(1), pairs, points, 6, cap_factor=3.0)
  assert parts.sizes().min() == 0 and len(parts) == 12 and parts.info["still"]


def test_an_anchors_own_point_is_at_distance_zero_and_none_is_negative():
  points = 1000 + 1e-3 * vectors(50)
  distance = np.asarray(squared_distances(points[:5], points))
  assert (distance[np.arange(5), np.arange(5)] == 0).all() and (distance >= 0).all()
  exact = ((points[:5, None].astype(np.float64) - points[None].astype(np.float64)) ** 2).sum(-1)
  np.testing.assert_allclose(distance, exact, rtol=1e-5)


def test_wrong_arguments_name_themselves():
  pairs, p, q, key = random_pairs(), vectors(40), vectors(30), jax.random.key(0)
  with pytest.raises(ValueError, match="num_shards=0"):
    partition.ubp(key, pairs, p, 0)
  with pytest.raises(ValueError, match="num_shards=41 <= 40 users"):
    partition.ubp(key, pairs, p, 41)
  with pytest.raises(ValueError, match="pairs to distribute"):
    partition.inbp(key, pairs, p, q, len(pairs) + 1)
  with pytest.raises(ValueError, match=r"user_vectors of shape \[40, d\]"):
    partition.ubp(key, pairs, vectors(41), 3)
  with pytest.raises(ValueError, match="item_vectors"):
    partition.inbp(key, pairs, p, vectors(29), 3)
  with pytest.raises(ValueError, match="finite values in item_vectors"):
    partition.ibp(key, pairs, np.where(q == q[3, 2], np.nan, q), 3)
  with pytest.raises(ValueError, match="floating point"):
    partition.ubp(key, pairs, np.ones((40, 3), int), 3)
  with pytest.raises(ValueError, match="cap_factor=0.9"):
    partition.inbp(key, pairs, p, q, 3, cap_factor=0.9)
  with pytest.raises(ValueError, match="max_iterations=0"):
    partition.inbp(key, pairs, p, q, 3, max_iterations=0)
  with pytest.raises(ValueError, match="unit='item'"):
    partition.ubp(key, pairs, p, 3, unit="item")
  with pytest.raises(ValueError, match="num_shards=1 <= 0"):
    partition.ubp(key, pairs.select(np.zeros(len(pairs), bool)), p, 1)


@pytest.mark.slow
def test_inbp_of_real_size(data_dir):
  pairs = data.load("ml-1m-receraser", data_dir, download=False).train
  p, q = vectors(pairs.num_users, 64), vectors(pairs.num_items, 64, 1)
  parts = partition.inbp(jax.random.key(0), pairs, p, q, 10, max_iterations=3)
  assert parts.sizes().max() <= parts.info["cap"] == 86419 and parts.sizes().sum() == 720152
  assert parts.sizes().min() > 0
