"""GraphEraser's balanced partitions of the user-item graph: label propagation (BLPA) and embedding k-means (BEKM)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from jaxunlearn._validate import check_non_negative, check_whole
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.partition._types import Partition, check_num_shards, check_vectors, draw_distinct, host_rng, sure_cap
from jaxunlearn.partition.balanced import balanced_kmeans


def _node_cap(num_nodes: int, num_shards: int, slack: float) -> int:
  """δ = ⌈V / K + ε (V − V / K)⌉."""
  even = num_nodes / num_shards
  return sure_cap(np.ones(num_nodes, np.int32), num_shards, even + slack * (num_nodes - even))


def accept_moves(
  wanted: np.ndarray, count: np.ndarray, source: np.ndarray, room: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Which of M nodes that want to move may: in rounds, each community takes its best candidates while it has room.

  A round looks at the room that there is at its beginning and lets each community accept that many of the candidates
  that still wait, by descending count, ties by number. Those who leave make room for the next round; it ends with a
  round that accepts nobody. A community never holds more than its cap, not even within a round.

  Args:
    wanted: int [M], the community that a node wants.
    count: int [M], its neighbours there.
    source: int [M], the community that it is in.
    room: int [K], free places.

  Returns:
    bool [M]; int [K], the room that is left.
  """
  num_shards = room.shape[0]
  queue = np.lexsort((np.arange(wanted.size), -count, wanted))  # by community, then best first: accepted are prefixes
  leaves = source[queue]
  head = np.searchsorted(wanted[queue], np.arange(num_shards))
  end = np.append(head[1:], wanted.size)
  room, accepted = room.copy(), np.zeros(wanted.size, bool)
  while True:
    take = np.minimum(room, end - head)
    total = int(take.sum())
    if not total:
      return accepted, room
    # The places head[k] … head[k] + take[k] − 1 of all communities, in one array.
    places = np.arange(total) + np.repeat(head - np.cumsum(take) + take, take)
    accepted[queue[places]] = True
    room += np.bincount(leaves[places], minlength=num_shards) - take
    head = head + take


def blpa(
  key: jax.Array, interactions: Interactions, num_shards: int, *, slack: float = 0.005, max_passes: int = 100
) -> Partition:
  """Balanced label propagation (GraphEraser, BLPA) over users and items; a pair goes to its user's community.

  Users and items with a pair are the V nodes, dealt at random into K equal communities. In a pass each node wants the
  community where, at the beginning of the pass, it has the most neighbours (ties at random), and is a candidate if it
  has strictly more there than where it is. `accept_moves` says who may go: the candidates with the most neighbours at
  the target first, under the cap ⌈V / K + slack · (V − V / K)⌉, which no community exceeds at any time. It ends with a
  pass that moves nobody, or after `max_passes`: as all want at once, two neighbours may swap communities for ever.

  Against GraphEraser's code: there a node moves for an equal count too, and isolated nodes drift to the first
  community; here nothing moves without a gain. There the queue is served move by move, here round by round: on ML-1M
  0.15 of the pairs end within a community, there 0.16, by chance 0.10. The adjacency is sparse: N + V · K, not V². How
  pairs follow from communities the RecEraser paper, which uses BLPA as a baseline, does not say; we take the user's.

  The cap counts nodes: shards need not hold as many pairs, see `Partition.balance`.

  Leak: derived from all pairs (`derived_from="pairs"`), also those to be forgotten; `random` is not.

  Args:
    key: PRNG key; the same key gives the same partition.
    interactions: N pairs.
    num_shards: K, from 1 to the number of users with a pair.
    slack: ε ≥ 0; 0 leaves no room to move in where K divides V.
    max_passes: ≥ 1.

  Returns:
    A partition; `info` has cap, passes, still (whether the last one moved nobody), and within: the share of pairs
    whose user and item are in one community.

  Raises:
    ValueError: any of these out of range.
  """
  check_non_negative("slack", slack)
  check_whole("max_passes", max_passes)
  users, row = np.unique(interactions.user, return_inverse=True)
  items, column = np.unique(interactions.item, return_inverse=True)
  check_num_shards(num_shards, users.size, "users with a pair")
  rng = host_rng(key)
  num_nodes = users.size + items.size
  edges = (np.concatenate([row, column + users.size]), np.concatenate([column + users.size, row]))
  adjacency = scipy.sparse.csr_matrix((np.ones(2 * row.size, np.float32), edges), (num_nodes, num_nodes))
  cap = _node_cap(num_nodes, num_shards, slack)
  label = rng.permutation(num_nodes) % num_shards
  room = cap - np.bincount(label, minlength=num_shards)
  everyone, passes, still = np.arange(num_nodes), 0, False
  while passes < max_passes and not still:
    counts = adjacency @ np.eye(num_shards, dtype=np.float32)[label]
    wanted = np.argmax(counts + 0.5 * rng.random(counts.shape, np.float32), axis=1)
    best = counts[everyone, wanted]
    mover = np.flatnonzero(best > counts[everyone, label])
    accepted, room = accept_moves(wanted[mover], best[mover], label[mover], room)
    moved = mover[accepted]
    label[moved] = wanted[moved]
    passes, still = passes + 1, not moved.size
  within = float(np.mean(label[row] == label[users.size + column]))
  info = {"cap": cap, "passes": passes, "still": still, "within": within}
  return Partition.make(label[row], num_shards, "blpa", "pairs", **info)


def bekm(
  key: jax.Array,
  interactions: Interactions,
  user_vectors: Any,
  item_vectors: Any,
  num_shards: int,
  *,
  slack: float = 0.005,
  max_iterations: int = 20,
) -> Partition:
  """Balanced embedding k-means (GraphEraser, BEKM) over users and items; a pair goes to its user's shard.

  `ubp`'s algorithm, with users and items with a pair as the V points, squared Euclidean distance, and GraphEraser's
  tighter cap ⌈V / K + slack · (V − V / K)⌉ on the nodes. The RecEraser paper, which uses it as a baseline, gives no
  details; that both are nodes and that the user's shard decides is our choice. Where users and items lie apart, whole
  shards may hold items only, and so no pair: see `Partition.sizes`.

  Leak: as for `ubp`, from both tables.

  Args:
    key: PRNG key; the same key gives the same partition.
    interactions: N pairs.
    user_vectors: float [num_users, d], pre-trained.
    item_vectors: float [num_items, d], of the same d.
    num_shards: K, from 1 to the number of users with a pair.
    slack: ε ≥ 0.
    max_iterations: passes at most, ≥ 1.

  Returns:
    A partition; `info` has cap, iterations, still (whether the anchors stood still), and within: the share of pairs
    whose user and item are in one cluster.

  Raises:
    ValueError: any of these out of range, or vectors of wrong or unequal shapes or with NaN.
  """
  check_non_negative("slack", slack)
  check_whole("max_iterations", max_iterations)
  user_vectors = check_vectors("user_vectors", user_vectors, interactions.num_users)
  item_vectors = check_vectors("item_vectors", item_vectors, interactions.num_items)
  if user_vectors.shape[1] != item_vectors.shape[1]:
    raise ValueError(
      "Expected user_vectors and item_vectors of one dimension, got "
      f"{list(user_vectors.shape)} and {list(item_vectors.shape)}."
    )
  users, row = np.unique(interactions.user, return_inverse=True)
  items, column = np.unique(interactions.item, return_inverse=True)
  check_num_shards(num_shards, users.size, "users with a pair")
  points = np.concatenate([user_vectors[users], item_vectors[items]])
  cap = _node_cap(len(points), num_shards, slack)
  found = balanced_kmeans(
    draw_distinct(key, len(points), num_shards),
    jnp.asarray(points),
    jnp.ones(len(points), jnp.int32),
    jnp.asarray(cap, jnp.int32),
    jnp.asarray(max_iterations),
  )
  shard = np.asarray(found.shard)
  within = float(np.mean(shard[row] == shard[users.size + column]))
  info = {"cap": cap, "iterations": int(found.iterations), "still": bool(found.still), "within": within}
  return Partition.make(shard[row], num_shards, "bekm", "vectors", **info)
