"""The random partition by a keyed hash of the ids: the one that no pair but the one itself has a say in."""

from __future__ import annotations

import jax
import numpy as np

from jaxunlearn._validate import check_choice
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.partition._types import Partition, check_num_shards

UNITS = ("interaction", "user", "item")


def _mix(x: np.ndarray) -> np.ndarray:
  """A 64-bit finaliser (SplitMix64's): a bijection in which every input bit moves every output bit."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


def random(key: jax.Array, interactions: Interactions, num_shards: int, *, unit: str = "interaction") -> Partition:
  """Each unit in a shard of its own draw, uniform, by a keyed hash of its position(s).

  A pair's shard is a function of the key, its user's and item's positions and K, and of nothing else: not of N, not
  of the other pairs. So the partition of D∖F is that of D with F's rows left out, and shard models that are retrained
  on it are what training on D∖F from the start gives: no leak. (Positions come from a vocabulary; if that is built
  anew after a deletion, positions move and so do shards.)

  SISA's released descendants shuffle the pairs and cut blocks of ⌊N / K⌋ instead: a deletion moves every later pair.
  The price of the hash is that sizes are binomial, N / K ± √(N / K), not equal; a shard of few pairs may be empty, and
  `num_shards` may exceed the number of units. The hash mixes well but is not cryptographic: do not rely on it
  against someone who picks ids.

  Args:
    key: PRNG key.
    interactions: N pairs.
    num_shards: K ≥ 1.
    unit: "interaction" (each pair on its own), "user" or "item" (all of one's pairs in one shard, so that a request of
      one user, or item, retrains one shard).

  Returns:
    A partition derived from "ids".

  Raises:
    ValueError: num_shards < 1, or an unknown unit.
  """
  check_choice("unit", unit, UNITS)
  check_num_shards(num_shards)
  words = np.asarray(jax.random.bits(key, (4,), "uint32")).astype(np.uint64)
  user_key, item_key = (words[0] << np.uint64(32)) | words[1], (words[2] << np.uint64(32)) | words[3]
  # 0 stands for "not part of the unit", so that a user's shard under unit="user" is not that of the pair (user, 0).
  ones = np.ones(len(interactions), np.uint64)
  user = interactions.user.astype(np.uint64) + ones if unit != "item" else 0 * ones
  item = interactions.item.astype(np.uint64) + ones if unit != "user" else 0 * ones
  mixed = _mix(_mix(user ^ user_key) + item ^ item_key)
  # The high half times K, its high half again: uniform to within K / 2³², without a division.
  shard = ((mixed >> np.uint64(32)) * np.uint64(num_shards)) >> np.uint64(32)
  return Partition.make(shard.astype(np.int32), num_shards, "random", "ids", unit=unit)
