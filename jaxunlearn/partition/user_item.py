"""RecEraser's balanced partitions: by users (UBP), by items (IBP), by interactions (InBP)."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn._validate import check_choice, check_whole
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.partition._types import Partition, check_num_shards, check_vectors, draw_distinct, sure_cap
from jaxunlearn.partition.balanced import Clustering, balanced_kmeans, greedy, iterate, means, squared_distances


def _check(cap_factor: float, max_iterations: int) -> None:
  if not (np.isfinite(cap_factor) and cap_factor >= 1):
    raise ValueError(f"Expected cap_factor={cap_factor} >= 1: below, not everything has a place.")
  check_whole("max_iterations", max_iterations)


def _by_entity(
  name: str,
  entity: str,
  key: jax.Array,
  positions: np.ndarray,
  vectors: Any,
  num_rows: int,
  num_shards: int,
  cap_factor: float,
  unit: str,
  max_iterations: int,
  scalar_anchor: bool,
) -> Partition:
  """UBP over `positions` int32 [N] of users, IBP of items."""
  check_choice("unit", unit, (entity, "interaction"))
  _check(cap_factor, max_iterations)
  vectors = check_vectors(f"{entity}_vectors", vectors, num_rows)
  # One without a pair has nothing to place, and must not take up the room of those who have.
  present, where, degree = np.unique(positions, return_inverse=True, return_counts=True)
  check_num_shards(num_shards, present.size, f"{entity}s with a pair")
  weight = np.ones_like(degree) if unit == entity else degree
  cap = sure_cap(weight, num_shards, cap_factor * int(weight.sum()) / num_shards)
  found = balanced_kmeans(
    draw_distinct(key, present.size, num_shards),
    jnp.asarray(vectors[present]),
    jnp.asarray(weight, jnp.int32),
    jnp.asarray(cap, jnp.int32),
    jnp.asarray(max_iterations),
    scalar_anchor=bool(scalar_anchor),
  )
  shard = np.asarray(found.shard)[where]
  info = {"unit": unit, "cap": cap, "iterations": int(found.iterations), "still": bool(found.still)}
  return Partition.make(shard, num_shards, name, "vectors", scalar_anchor=bool(scalar_anchor), **info)


def ubp(
  key: jax.Array,
  interactions: Interactions,
  user_vectors: Any,
  num_shards: int,
  *,
  cap_factor: float = 1.2,
  unit: str = "user",
  max_iterations: int = 50,
  scalar_anchor: bool = False,
) -> Partition:
  """User-based balanced partition (RecEraser, Algorithm 1): all pairs of similar users in one shard.

  K users drawn uniformly are the first anchors. A pass visits all (user, shard) by ascending (distance, user, shard)
  and gives a user to the first shard that has room (`greedy_assignment`), then moves each anchor to the mean of its
  users' vectors (eq. 2); a shard without users keeps its anchor. It ends when the anchors stand still.

  Leak: `user_vectors` were trained on the pairs, those to be forgotten included, so the partition is derived data
  (`derived_from="vectors"`), and unlearning over it is exact given the partition only. `random` has no such leak.

  Against the sources: the paper gives no value for the cap, the released code 1.2 · users / K. Squared distances, of
  the same order. The code's new anchor is the mean over all coordinates too, a multiple of the vector of ones, after
  which only the sum of a user's coordinates decides; `scalar_anchor=True` reproduces that. The code has no stop and no
  seed, and an empty shard makes its anchors NaN. Ties are arbitrary there.

  Args:
    key: PRNG key; the same key gives the same partition.
    interactions: N pairs.
    user_vectors: float [num_users, d], pre-trained (the paper: WMF, d = 64).
    num_shards: K, from 1 to the number of users with a pair.
    cap_factor: a shard holds at most ⌈cap_factor / K⌉ of the units, ≥ 1.
    unit: "user" caps the number of users, as the released code does; shards may differ in pairs by a factor of two.
      "interaction" caps the number of pairs: a user goes to the nearest shard with room for all of theirs. The cap
      is raised, where needed, so that everyone surely has a place: see `info["cap"]`.
    max_iterations: passes at most, ≥ 1.
    scalar_anchor: reproduce the released code's anchors.

  Returns:
    A partition; `info` has unit, cap, iterations, still (whether the anchors stood still), scalar_anchor.

  Raises:
    ValueError: any of these out of range, or vectors of a wrong shape or with NaN.
  """
  return _by_entity(
    "ubp", "user", key, interactions.user, user_vectors, interactions.num_users,
    num_shards, cap_factor, unit, max_iterations, scalar_anchor,
  )  # fmt: skip


def ibp(
  key: jax.Array,
  interactions: Interactions,
  item_vectors: Any,
  num_shards: int,
  *,
  cap_factor: float = 1.2,
  unit: str = "item",
  max_iterations: int = 50,
  scalar_anchor: bool = False,
) -> Partition:
  """Item-based balanced partition: `ubp` with items (RecEraser describes it in a sentence; no code was released).

  Items differ in popularity by far more than users in activity, so `unit="item"` leaves shards of very different
  sizes; "interaction" caps the pairs. The leak is that of `ubp`.

  Args:
    key: PRNG key.
    interactions: N pairs.
    item_vectors: float [num_items, d], pre-trained.
    num_shards: K, from 1 to the number of items with a pair.
    cap_factor: as for `ubp`.
    unit: "item" or "interaction".
    max_iterations: passes at most, ≥ 1.
    scalar_anchor: as for `ubp`.

  Raises:
    ValueError: as for `ubp`.
  """
  return _by_entity(
    "ibp", "item", key, interactions.item, item_vectors, interactions.num_items,
    num_shards, cap_factor, unit, max_iterations, scalar_anchor,
  )  # fmt: skip


@functools.partial(jax.jit, static_argnames="scalar_anchor")
def _inbp(
  first: jax.Array,
  user: jax.Array,
  item: jax.Array,
  user_vectors: jax.Array,
  item_vectors: jax.Array,
  cap: jax.Array,
  max_iterations: jax.Array,
  *,
  scalar_anchor: bool,
) -> Clustering:
  num_pairs, num_shards = user.shape[0], first.shape[0]
  caps = jnp.broadcast_to(cap.astype(jnp.int32), (num_shards,))
  ones = jnp.ones(num_pairs, jnp.int32)

  def assign(anchors: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    of_users, of_items = squared_distances(anchors[0], user_vectors), squared_distances(anchors[1], item_vectors)
    product = jax.lax.map(lambda rows: rows[0][user] * rows[1][item], (of_users, of_items))
    return greedy(product, caps, ones)

  def update(anchors: tuple[jax.Array, jax.Array], shard: jax.Array) -> tuple[jax.Array, jax.Array]:
    new = []
    for old, at, vectors in zip(anchors, (user, item), (user_vectors, item_vectors), strict=True):
      # A row's number of pairs in each shard: the mean over pairs is then a small matrix product.
      counts = jnp.zeros((num_shards, vectors.shape[0]), jnp.int32).at[shard, at].add(1)
      new.append(means(counts, vectors, old, scalar=scalar_anchor))
    return new[0], new[1]

  return iterate(assign, update, (user_vectors[user[first]], item_vectors[item[first]]), num_pairs, max_iterations)


def inbp(
  key: jax.Array,
  interactions: Interactions,
  user_vectors: Any,
  item_vectors: Any,
  num_shards: int,
  *,
  cap_factor: float = 1.2,
  max_iterations: int = 50,
  scalar_anchor: bool = False,
) -> Partition:
  """Interaction-based balanced partition (RecEraser, Algorithm 2): similar pairs in one shard.

  As `ubp`, over pairs: an anchor is a pair of vectors, the distance of a pair to it the product of the user's and the
  item's distance (eq. 3; squared here, of the same order), and an anchor moves to the means of the users' and of the
  items' vectors over its pairs (eq. 4), so that a user counts once a pair. In the first pass the anchors are pairs
  themselves, so all pairs of an anchor's user and all of its item are at distance 0: the order among them, and with
  a popular item the first pass, is that of the positions.

  A user's pairs are spread over several shards (four of ten on ML-1M), so a request of a whole user retrains those.

  Leak: as for `ubp`, from both tables.

  A pass costs (num_users + num_items) · K · d for the distances and a few passes over N · K for the scan; the memory
  is N · K floats.

  Args:
    key: PRNG key; the same key gives the same partition.
    interactions: N pairs.
    user_vectors: float [num_users, d], pre-trained.
    item_vectors: float [num_items, d], pre-trained.
    num_shards: K, from 1 to N.
    cap_factor: a shard holds at most ⌈cap_factor · N / K⌉ pairs, ≥ 1.
    max_iterations: passes at most, ≥ 1.
    scalar_anchor: reproduce the released code's anchors, see `ubp`.

  Returns:
    A partition; `info` has cap, iterations, still, scalar_anchor.

  Raises:
    ValueError: any of these out of range, or vectors of a wrong shape or with NaN.
  """
  _check(cap_factor, max_iterations)
  users = check_vectors("user_vectors", user_vectors, interactions.num_users)
  items = check_vectors("item_vectors", item_vectors, interactions.num_items)
  check_num_shards(num_shards, len(interactions), "pairs")
  cap = sure_cap(np.ones(len(interactions), np.int32), num_shards, cap_factor * len(interactions) / num_shards)
  found = _inbp(
    draw_distinct(key, len(interactions), num_shards),
    jnp.asarray(interactions.user),
    jnp.asarray(interactions.item),
    jnp.asarray(users),
    jnp.asarray(items),
    jnp.asarray(cap, jnp.int32),
    jnp.asarray(max_iterations),
    scalar_anchor=bool(scalar_anchor),
  )
  info = {"cap": cap, "iterations": int(found.iterations), "still": bool(found.still)}
  shard = np.asarray(found.shard)
  return Partition.make(shard, num_shards, "inbp", "vectors", scalar_anchor=bool(scalar_anchor), **info)
