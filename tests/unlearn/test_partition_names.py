"""The partitions that methods name, against the functions that make them."""

import jax
import numpy as np
import pytest

from jaxunlearn import partition
from jaxunlearn.base import Embeddings
from jaxunlearn.unlearn._partitions import NAMES, partitioner
from tests.small import checkerboard

SHARDS = 3


def vectors(key, interactions):
  rng = np.random.default_rng(0)
  return Embeddings(
    *(rng.normal(size=(n, 4)).astype(np.float32) for n in (interactions.num_users, interactions.num_items))
  )


DIRECT = {
  "random": lambda key, data, v: partition.random(key, data, SHARDS),
  "random-users": lambda key, data, v: partition.random(key, data, SHARDS, unit="user"),
  "random-items": lambda key, data, v: partition.random(key, data, SHARDS, unit="item"),
  "ubp": lambda key, data, v: partition.ubp(key, data, v.user, SHARDS),
  "ubp-pairs": lambda key, data, v: partition.ubp(key, data, v.user, SHARDS, unit="interaction"),
  "ibp": lambda key, data, v: partition.ibp(key, data, v.item, SHARDS),
  "inbp": lambda key, data, v: partition.inbp(key, data, v.user, v.item, SHARDS),
  "inbp-released": lambda key, data, v: partition.inbp(key, data, v.user, v.item, SHARDS, scalar_anchor=True),
  "blpa": lambda key, data, v: partition.blpa(key, data, SHARDS),
  "bekm": lambda key, data, v: partition.bekm(key, data, v.user, v.item, SHARDS),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_function(name):
  data = checkerboard()
  found = partitioner(name, SHARDS, vectors=vectors)(jax.random.key(3), data)
  _, key = jax.random.split(jax.random.key(3))
  wanted = DIRECT[name](key, data, vectors(key, data))
  np.testing.assert_array_equal(found.shard, wanted.shard)
  assert found.info == wanted.info and found.name == wanted.name


def test_names_that_differ_in_a_setting_say_so():
  data = checkerboard()
  info = {name: partitioner(name, SHARDS, vectors=vectors)(jax.random.key(3), data).info for name in NAMES}
  assert info["ubp"]["unit"] == "user" and info["ubp-pairs"]["unit"] == "interaction"
  assert not info["inbp"]["scalar_anchor"] and info["inbp-released"]["scalar_anchor"]
