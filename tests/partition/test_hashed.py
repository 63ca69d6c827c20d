"""The partition value, and the random partition that depends on ids alone."""

import jax
import numpy as np
import pytest

from jaxunlearn import partition
from jaxunlearn.data.interactions import Interactions
from tests.small import random_pairs


@pytest.mark.parametrize("unit", ["interaction", "user", "item"])
def test_a_pairs_shard_depends_on_no_other_pair(unit):
  whole = random_pairs(num_users=200, num_items=150, num_pairs=3000)
  before = partition.random(jax.random.key(3), whole, 7, unit=unit)
  keep = np.random.default_rng(0).random(len(whole)) < 0.4
  part = whole.select(keep)
  # Other axes as well: more users and items than the data had.
  part = Interactions(part.user, part.item, 1000, 900)
  after = partition.random(jax.random.key(3), part, 7, unit=unit)
  np.testing.assert_array_equal(after.shard, before.select(keep).shard)
  assert before.derived_from == "ids"


def test_units_share_a_shard_and_pairs_do_not():
  data = random_pairs(num_users=50, num_items=40, num_pairs=1500)
  for unit, ids in (("user", data.user), ("item", data.item)):
    shard = partition.random(jax.random.key(0), data, 6, unit=unit).shard
    assert all(len(set(shard[ids == i].tolist())) == 1 for i in set(ids.tolist()))
    assert len(set(shard.tolist())) == 6
  shard = partition.random(jax.random.key(0), data, 6).shard
  assert np.mean([len(set(shard[data.user == u].tolist())) for u in range(50)]) > 5


@pytest.mark.parametrize("unit", ["interaction", "user", "item"])
def test_shards_are_uniform_and_keys_independent(unit):
  # A grid has the least random ids there are. χ² with 9 degrees of freedom: above 27.9 once in a thousand.
  side = 300 if unit == "interaction" else 20000
  if unit == "interaction":
    user, item = np.divmod(np.arange(side * side), side)
  else:
    user, item = (np.arange(side), np.zeros(side, int))[:: 1 if unit == "user" else -1]
  data = Interactions.from_pairs(user, item)
  draws = [partition.random(jax.random.key(seed), data, 10, unit=unit).shard for seed in range(3)]
  for shard in draws:
    sizes, mean = np.bincount(shard, minlength=10), len(data) / 10
    assert np.sum((sizes - mean) ** 2 / mean) < 27.9
  for a, b in ((0, 1), (1, 2)):
    same = np.mean(draws[a] == draws[b])
    assert abs(same - 0.1) < 4 * np.sqrt(0.09 / len(data))
  # Neighbours in the grid are independent too.
  assert abs(np.mean(draws[0][1:] == draws[0][:-1]) - 0.1) < 4 * np.sqrt(0.09 / len(data))


def test_one_key_one_partition():
  data = random_pairs()
  a, b, c = (partition.random(jax.random.key(s), data, 4).shard for s in (1, 1, 2))
  np.testing.assert_array_equal(a, b)
  assert (a != c).any()


def test_shards_cover_the_pairs_once_over_the_full_axes():
  data = random_pairs()
  parts = partition.random(jax.random.key(0), data, 5)
  shards = parts.shards(data)
  assert [len(s) for s in shards] == parts.sizes().tolist() and sum(map(len, shards)) == len(data)
  assert all((s.num_users, s.num_items) == (data.num_users, data.num_items) for s in shards)
  union = shards[0]
  for s in shards[1:]:
    assert not len(union.intersection(s))
    union = union.union(s)
  assert union.digest() == data.digest()
  assert parts.balance == pytest.approx(max(map(len, shards)) / (len(data) / 5))


def test_select_follows_the_interactions_and_leaves_empty_shards():
  data = random_pairs()
  parts = partition.random(jax.random.key(0), data, 5)
  keep = parts.shard != 2
  rest = parts.select(keep)
  assert rest.num_shards == 5 and len(rest.shards(data.select(keep))[2]) == 0
  np.testing.assert_array_equal(parts.select(np.flatnonzero(keep)).shard, rest.shard)
  for before, after in zip(parts.shards(data), rest.shards(data.select(keep)), strict=True):
    assert len(after) in (0, len(before))
  nothing = parts.select(np.zeros(len(data), bool))
  assert len(nothing) == 0 and nothing.balance == 1.0 and nothing.sizes().tolist() == [0] * 5


def test_it_is_a_pytree():
  parts = partition.random(jax.random.key(0), random_pairs(), 5)
  leaves, treedef = jax.tree.flatten(parts)
  assert len(leaves) == 1 and hash(treedef) is not None
  again = jax.tree.unflatten(treedef, leaves)
  assert (again.num_shards, again.name, again.derived_from, again.info) == (5, "random", "ids", {"unit": "interaction"})


def test_wrong_arguments_name_themselves():
  data, key = random_pairs(), jax.random.key(0)
  for bad in (0, -1, 2.0, True):
    with pytest.raises(ValueError, match="num_shards="):
      partition.random(key, data, bad)
  with pytest.raises(ValueError, match="Did you mean 'interaction'"):
    partition.random(key, data, 3, unit="interactions")
  parts = partition.random(key, data, 3)
  with pytest.raises(ValueError, match="select"):
    parts.shards(data.select(np.arange(10)))
  with pytest.raises(ValueError, match="keep"):
    parts.select(np.ones(3, bool))
  with pytest.raises(ValueError, match="shards in"):
    partition.Partition.make(np.asarray([0, 3]), 3, "mine", "ids")
  with pytest.raises(ValueError, match="derived_from"):
    partition.Partition.make(np.asarray([0]), 3, "mine", "magic")
