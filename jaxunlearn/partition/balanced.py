"""Balanced clustering: the greedy assignment under caps, exact and without a sort, and the k-means around it."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn._validate import check_finite

_DIGIT = 11  # bits a histogram resolves at once: K · 2048 counters stay in cache


def _monotone(values: jax.Array) -> jax.Array:
  """float32 → uint32 with the same order, −0 equal to 0."""
  bits = jax.lax.bitcast_convert_type(jnp.where(values == 0, 0.0, values), jnp.uint32)
  top = jnp.uint32(1 << 31)
  return jnp.where(bits >= top, ~bits, bits | top)


class _Refusal(NamedTuple):
  """Whether some proposal does not fit, and the first of them in the order of (distance, unit)."""

  found: jax.Array
  unit: jax.Array


def _first_refusal(order: jax.Array, shard: jax.Array, weight: jax.Array, live: jax.Array, room: jax.Array) -> _Refusal:
  """The first live unit, by (order, number), with which its shard's proposals sum to more than the room.

  A selection, not a sort: "some shard is over its room" is monotone along the order, so the first such place is found
  digit by digit, from histograms of the proposals' weights, in a few linear passes. Integer sums do not depend on the
  order of adding, so the result is the same on every device.

  Args:
    order: uint32 [M], the distance that a unit proposes with.
    shard: int32 [M], the shard that it proposes to.
    weight: int32 [M].
    live: bool [M], whether it proposes.
    room: int32 [K].
  """
  num_units, num_shards, radix = order.shape[0], room.shape[0], 1 << _DIGIT
  number = jnp.arange(num_units, dtype=jnp.uint32)

  def narrow(carry: tuple[jax.Array, jax.Array], level: Any) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """Keeps, of the units that agree in all higher digits, those with the first digit at which a room is exceeded."""
    live, used = carry
    by_number, low = level
    digit = (jnp.where(by_number, number, order) >> low).astype(jnp.int32) & (radix - 1)
    sums = jnp.zeros(num_shards * radix, jnp.int32).at[shard * radix + digit].add(jnp.where(live, weight, 0))
    total = used[:, None] + jnp.cumsum(sums.reshape(num_shards, radix), axis=1)
    over = jnp.any(total > room[:, None], axis=0)
    first = jnp.argmax(over)
    return (live & (digit == first), jnp.where(first > 0, total[:, first - 1], used)), over[-1]

  of_order = list(reversed(range(0, 32, _DIGIT)))
  of_number = list(reversed(range(0, max(1, (num_units - 1).bit_length()), _DIGIT)))
  levels = (jnp.arange(len(of_order + of_number)) >= len(of_order), jnp.asarray(of_order + of_number, jnp.uint32))
  (live, _), found = jax.lax.scan(narrow, (live, jnp.zeros_like(room)), levels)
  return _Refusal(found[0], jnp.argmax(live))


def greedy(distance: jax.Array, cap: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
  """`greedy_assignment` for the use inside jitted code: shards lead, nothing is checked.

  Args:
    distance: float32 [K, M], finite.
    cap: int32 [K].
    weight: int32 [M], ≥ 0, of sum < 2³¹.

  Returns:
    int32 [M], −1 for a unit that fits nowhere; and the number of rounds.
  """
  num_shards, num_units = distance.shape
  number = jnp.arange(num_units, dtype=jnp.int32)

  def nearest(room: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Least distance over the shards with room for the unit, and which; ties to the lowest. −1 if there is none."""

    def better(carry: tuple[jax.Array, jax.Array], row: Any) -> tuple[tuple[jax.Array, jax.Array], None]:
      best, arg = carry
      k, far, left = row
      take = (weight <= left) & ((far < best) | (arg < 0))
      return (jnp.where(take, far, best), jnp.where(take, k, arg)), None

    start = (jnp.full(num_units, jnp.inf, distance.dtype), jnp.full(num_units, -1, jnp.int32))
    rows = (jnp.arange(num_shards, dtype=jnp.int32), distance, room)
    return jax.lax.scan(better, start, rows, unroll=min(8, num_shards))[0]

  def a_round(carry: Any) -> Any:
    placed, room, _, rounds = carry
    best, shard = nearest(room)
    live = (placed < 0) & (shard >= 0)
    order, to = _monotone(best), jnp.maximum(shard, 0)
    found, at = _first_refusal(order, to, weight, live, room)
    before = (order < order[at]) | ((order == order[at]) & (number < at))
    accepted = live & (before | ~found)
    taken = jnp.zeros_like(room).at[to].add(jnp.where(accepted, weight, 0))
    return jnp.where(accepted, shard, placed), room - taken, found, rounds + 1

  start = (jnp.full(num_units, -1, jnp.int32), cap, jnp.asarray(True), jnp.asarray(0))
  placed, _, _, rounds = jax.lax.while_loop(lambda carry: carry[2], a_round, start)
  return placed, rounds


_greedy = jax.jit(lambda distance, cap, weight: greedy(distance.T, cap, weight)[0])


def greedy_assignment(distance: Any, cap: Any, weight: Any = None) -> jax.Array:
  """Units to shards by a greedy scan under caps (RecEraser's Algorithms 1 and 2, lines 4 to 10), exactly.

  The scan: visit all (unit, shard) pairs by ascending (distance, unit number, shard number); a unit without a shard
  goes to this one if its weight is at most what is left of the shard's cap, and the pair is passed over otherwise.

  Computed in rounds instead. In a round every unit that has no shard proposes to the nearest shard that has room for
  it; proposals are accepted in order of (distance, unit number) up to the first that no longer fits; then room is
  taken stock of, and the next round begins. This is the scan itself: up to that place the scan meets each unit's
  nearest shard with room first, and what the scan has refused, it would refuse later too, since room only shrinks.
  With weights 1 each round but the last fills a shard, so there are at most K + 1 rounds; otherwise each shows one
  more weight that does not fit a shard any more. A round is linear in M · K.

  Args:
    distance: [M, K], finite; compared as float32.
    cap: integer, or integers [K]: total weight that a shard may hold.
    weight: integers [M], ≥ 0 and of sum < 2³¹; 1 each when None. A weight of 0 always fits.

  Returns:
    int32 [M]; −1 for a unit that no shard has room for, which cannot be from cap ≥ ⌊(W + (K − 1) max w) / K⌋ on, W
    being the sum of the weights.

  Raises:
    ValueError: shapes that do not fit, NaN or infinity, negative weights or caps.
  """
  distance = jnp.asarray(distance, jnp.float32)
  if distance.ndim != 2 or 0 in distance.shape:
    raise ValueError(f"Expected distance of shape [units, shards], got {list(distance.shape)}.")
  num_units, num_shards = distance.shape
  check_finite("distance", distance)
  weight = np.ones(num_units, np.int64) if weight is None else np.asarray(weight)
  cap = np.broadcast_to(np.asarray(cap), num_shards) if np.ndim(cap) == 0 else np.asarray(cap)
  for name, array, size in (("weight", weight, num_units), ("cap", cap, num_shards)):
    if array.shape != (size,) or not np.issubdtype(array.dtype, np.integer) or int(array.min()) < 0:
      raise ValueError(f"Expected {name} as integers [{size}] >= 0, got {array.dtype} {list(array.shape)}.")
  total = int(weight.sum(dtype=np.int64))
  if total > np.iinfo(np.int32).max:
    raise ValueError(f"Expected weights of sum < 2**31, got {total}.")
  return _greedy(distance, jnp.asarray(np.minimum(cap, total), jnp.int32), jnp.asarray(weight, jnp.int32))


def squared_distances(anchors: jax.Array, points: jax.Array) -> jax.Array:
  """[K, M] from [K, d] and [M, d], as sums of squares.

  Not by ‖x‖² − 2⟨x, a⟩ + ‖a‖²: that loses the small distances, which come first in the scan, to cancellation, can be
  negative, and is not 0 for an anchor's own point. There are few rows here, so the difference costs little.
  """
  return jax.lax.map(lambda anchor: jnp.sum(jnp.square(points - anchor[None, :]), axis=1), anchors)


def means(counts: jax.Array, points: jax.Array, old: jax.Array, *, scalar: bool) -> jax.Array:
  """New anchors [K, d]: means of `points` [M, d] weighted by `counts` [K, M]; a shard without any keeps `old`.

  `scalar` puts the mean over all coordinates in each of them, which is what RecEraser's released code does.
  """
  counts = counts.astype(points.dtype)
  size = jnp.sum(counts, axis=1)[:, None]
  new = jnp.matmul(counts, points, precision=jax.lax.Precision.HIGHEST) / jnp.maximum(size, 1.0)
  if scalar:
    new = jnp.broadcast_to(jnp.mean(new, axis=1, keepdims=True), new.shape)
  return jnp.where(size > 0, new, old)


class Clustering(NamedTuple):
  """The last assignment int32 [M]; passes made; whether the anchors stood still; rounds of the last scan."""

  shard: jax.Array
  iterations: jax.Array
  still: jax.Array
  rounds: jax.Array


def iterate(assign: Any, update: Any, anchors: Any, num_units: int, max_iterations: jax.Array) -> Clustering:
  """Passes of `assign` (anchors → (shard, rounds)) and `update` ((anchors, shard) → anchors) until these stand still.

  Greedy assignment under caps is no k-means: the objective may rise and the anchors may cycle, hence the limit.
  """

  def a_pass(carry: Any) -> Any:
    anchors, _, index, _, _ = carry
    shard, rounds = assign(anchors)
    new = update(anchors, shard)
    moved = [jnp.any(a != b) for a, b in zip(jax.tree.leaves(anchors), jax.tree.leaves(new), strict=True)]
    return new, shard, index + 1, jnp.any(jnp.stack(moved)), rounds

  start = (anchors, jnp.zeros(num_units, jnp.int32), jnp.asarray(0), jnp.asarray(True), jnp.asarray(0))
  unfinished = lambda carry: (carry[2] < max_iterations) & carry[3]  # noqa: E731
  _, shard, iterations, moved, rounds = jax.lax.while_loop(unfinished, a_pass, start)
  return Clustering(shard, iterations, ~moved, rounds)


@functools.partial(jax.jit, static_argnames="scalar_anchor")
def balanced_kmeans(
  first: jax.Array,
  points: jax.Array,
  weight: jax.Array,
  cap: jax.Array,
  max_iterations: jax.Array,
  *,
  scalar_anchor: bool = False,
) -> Clustering:
  """Points into K clusters of bounded weight: greedy assignment, then anchors to their members' means.

  Args:
    first: int32 [K], the points that are the first anchors (`draw_distinct`).
    points: float32 [M, d].
    weight: int32 [M]; counts against the cap, not in the means.
    cap: int32 scalar, at least `sure_cap`, or units may stay without a shard.
    max_iterations: passes at most.
    scalar_anchor: see `means`.
  """
  num_shards = first.shape[0]
  caps = jnp.broadcast_to(cap.astype(jnp.int32), (num_shards,))

  def update(anchors: jax.Array, shard: jax.Array) -> jax.Array:
    return means(shard[None, :] == jnp.arange(num_shards)[:, None], points, anchors, scalar=scalar_anchor)

  return iterate(
    lambda anchors: greedy(squared_distances(anchors, points), caps, weight),
    update,
    points[first],
    points.shape[0],
    max_iterations,
  )
