"""k-means on the device: Lloyd's iteration with distances in chunks."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn._validate import check_whole

Carry = tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # centres, assignment, iteration, whether one changed
_CHUNK = 4096  # points whose distances to all centres are held at once


class Clusters(NamedTuple):
  """Centres float [k, d]; nearest centre of each point int32 [N]; sum of squared distances (scalar)."""

  centers: jax.Array
  assignment: jax.Array
  inertia: jax.Array


@jax.jit
@jax.default_matmul_precision("highest")
def assign(points: jax.Array, centers: jax.Array, allowed: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
  """Nearest centre of each point, ties to the lowest number, and its squared distance (≥ 0).

  Args:
    points: float [N, d].
    centers: float [k, d].
    allowed: bool [k], centres that may be chosen; all when None.

  Returns:
    int32 [N], float [N].
  """
  num_points = points.shape[0]
  chunk = min(_CHUNK, num_points)
  padded = jnp.pad(points, ((0, -num_points % chunk), (0, 0))).reshape(-1, chunk, points.shape[1])
  size = jnp.sum(jnp.square(centers), axis=1)
  if allowed is not None:
    size = jnp.where(allowed, size, jnp.inf)

  def nearest(block: jax.Array) -> tuple[jax.Array, jax.Array]:
    partial = size[None, :] - 2.0 * block @ centers.T  # ‖x‖² is the same for every centre
    best = jnp.argmin(partial, axis=1)
    distance = jnp.min(partial, axis=1) + jnp.sum(jnp.square(block), axis=1)
    return best.astype(jnp.int32), jnp.maximum(distance, 0.0)

  best, distance = jax.lax.map(nearest, padded)
  return best.reshape(-1)[:num_points], distance.reshape(-1)[:num_points]


@functools.partial(jax.jit, static_argnames=("num_clusters", "num_iterations"))
@jax.default_matmul_precision("highest")
def kmeans(
  key: jax.Array, points: jax.Array, present: jax.Array, *, num_clusters: int, num_iterations: int
) -> Clusters:
  """Lloyd's k-means from `num_clusters` distinct points drawn uniformly.

  A cluster that becomes empty takes the point farthest from its centre (the j-th empty cluster the j-th farthest), so
  that k stays k. Points that are not present are assigned but move no centre.

  Args:
    key: PRNG key.
    points: float [N, d].
    present: bool [N].
    num_clusters: k ≤ N; more than the present points repeat some of them.
    num_iterations: Lloyd iterations; the loop ends early when no assignment changes.
  """
  weight = present.astype(points.dtype)
  # Present points first, in random order: a uniform draw without replacement of a traced number of rows.
  draw = jax.random.uniform(key, (points.shape[0],)) + jnp.where(present, 0.0, 2.0)
  centers = points[jnp.argsort(draw)[:num_clusters]]

  def iterate(carry: Carry) -> Carry:
    centers, old, index, _ = carry
    assignment, distance = assign(points, centers)
    total = jax.ops.segment_sum(points * weight[:, None], assignment, num_clusters)
    count = jax.ops.segment_sum(weight, assignment, num_clusters)
    farthest = jnp.argsort(-distance * weight)[:num_clusters]
    empty = count == 0
    reseed = points[farthest[jnp.clip(jnp.cumsum(empty) - 1, 0, num_clusters - 1)]]
    centers = jnp.where(empty[:, None], reseed, total / jnp.maximum(count, 1.0)[:, None])
    return centers, assignment, index + 1, jnp.any(assignment != old)

  def unfinished(carry: Carry) -> jax.Array:
    return (carry[2] < num_iterations) & carry[3]

  start = (centers, jnp.full(points.shape[0], -1, jnp.int32), jnp.asarray(0), jnp.asarray(True))
  centers, _, _, _ = jax.lax.while_loop(unfinished, iterate, start)
  assignment, distance = assign(points, centers)
  return Clusters(centers, assignment, jnp.sum(distance * weight))


def merge_small(points: jax.Array, present: jax.Array, clusters: Clusters, min_size: int) -> Clusters:
  """Dissolves clusters of fewer than `min_size` present points into their members' nearest remaining ones.

  Remaining clusters only grow, so one pass is enough. If no cluster is large enough, the largest stays.

  Raises:
    ValueError: min_size < 1.
  """
  check_whole("min_size", min_size)
  members = np.bincount(np.asarray(clusters.assignment)[np.asarray(present)], minlength=clusters.centers.shape[0])
  kept = members >= min_size
  if not kept.any():
    kept[int(members.argmax())] = True
  again, distance = assign(points, clusters.centers, jnp.asarray(kept))
  stays = jnp.asarray(kept)[clusters.assignment]
  assignment = jnp.where(stays, clusters.assignment, again)
  return Clusters(clusters.centers, assignment, jnp.sum(distance * present.astype(points.dtype)))
