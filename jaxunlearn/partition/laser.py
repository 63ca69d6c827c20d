"""LASER's groups: users by spectral embedding of the item hypergraph, in equal groups, the most cohesive first."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from jaxunlearn._validate import check_whole
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.partition._types import Partition, check_num_shards, draw_distinct, host_rng, sure_cap
from jaxunlearn.partition.balanced import balanced_kmeans

MAX_RESTARTS = 300  # of Lanczos; data in few pieces take ten
_POWERS, _MORE = 30, 8  # of subspace iteration: passes, and vectors beyond those asked for


def _leading(operator: scipy.sparse.linalg.LinearOperator, dim: int, rng: np.random.Generator) -> np.ndarray:
  """Left singular vectors of the `dim` largest singular values, [rows, dim].

  As `scipy.sparse.linalg.svds`, which does not hand its generator on: where Lanczos iteration meets an invariant
  subspace (blocks, low rank), it goes on from a vector that is drawn, and the same key has to give the same groups.

  Of data in more pieces than `dim` the largest value is multiple that often, any basis of its space is as good as
  another, and Lanczos iteration, which wants to tell them apart, may never end; nor does it start where the operator is
  zero (every user has every item). Subspace iteration serves then.
  """
  tall = operator.shape[0] >= operator.shape[1]
  wide, back = (operator, operator.adjoint()) if tall else (operator.adjoint(), operator)
  size = wide.shape[1]
  try:
    square = scipy.sparse.linalg.LinearOperator((size, size), matvec=lambda x: back.matvec(wide.matvec(x)), dtype=float)
    start = rng.standard_normal(size)
    basis = np.linalg.qr(scipy.sparse.linalg.eigsh(square, k=dim, v0=start, maxiter=MAX_RESTARTS, rng=rng)[1])[0]
  except scipy.sparse.linalg.ArpackError:
    basis = rng.standard_normal((size, min(dim + _MORE, size)))
    for _ in range(_POWERS):
      basis = np.linalg.qr(back.matmat(np.linalg.qr(wide.matmat(basis))[0]))[0]
  image, _, mix = np.linalg.svd(wide.matmat(basis), full_matrices=False)
  return np.asarray((image if tall else basis @ mix.T)[:, :dim])


def hypergraph_embedding(incidence: scipy.sparse.csr_matrix, dim: int, rng: np.random.Generator) -> np.ndarray:
  """Users' rows of the leading eigenvectors of the hypergraph's D_v^−½ H D_e^−1 Hᵀ D_v^−½, without the trivial one.

  They are left singular vectors of B = D_v^−½ H D_e^−½, found by iteration on products with B (`_leading`); no matrix
  of users × users is formed. The trivial pair (D_v^½ 1 and D_e^½ 1, singular value 1) is subtracted from B rather than
  dropped from the result: where the hypergraph falls apart the value 1 is multiple, and "the first" is any of them.

  Args:
    incidence: H, [U, I] of ones, no empty row or column.
    dim: vectors, 1 ≤ dim < min(U, I).
    rng: draws the start vector.

  Returns:
    float32 [U, dim], rows of norm 1 (0 for a user on whom all vectors vanish).
  """
  users, items = np.asarray(incidence.sum(1)).ravel(), np.asarray(incidence.sum(0)).ravel()
  scaled = scipy.sparse.diags(users**-0.5) @ incidence.astype(np.float64) @ scipy.sparse.diags(items**-0.5)
  left, right = np.sqrt(users / users.sum()), np.sqrt(items / items.sum())
  deflated = scipy.sparse.linalg.LinearOperator(
    scaled.shape,
    matvec=lambda x: scaled @ x.ravel() - left * (right @ x.ravel()),
    rmatvec=lambda y: scaled.T @ y.ravel() - right * (left @ y.ravel()),
    matmat=lambda x: scaled @ x - np.outer(left, right @ x),
    rmatmat=lambda y: scaled.T @ y - np.outer(right, left @ y),
    dtype=np.float64,
  )
  vectors = _leading(deflated, dim, rng)
  norm = np.linalg.norm(vectors, axis=1, keepdims=True)
  return np.asarray(vectors / np.where(norm > 1e-12, norm, 1.0), np.float32)


def spread(points: np.ndarray, group: np.ndarray, num_groups: int) -> tuple[np.ndarray, np.ndarray]:
  """How far apart the members of each group lie.

  Both numbers from sums, the second by Σ over pairs of ‖x − y‖² = 2 n Σ ‖x − mean‖², so that no pairs are formed.

  Args:
    points: [M, d].
    group: int [M].
    num_groups: K.

  Returns:
    float64 [K], the sum of squared distances to the mean; float64 [K], the mean squared distance between two different
    members, ∞ for a group without two.
  """
  points, size = points.astype(np.float64), np.bincount(group, minlength=num_groups)
  members = scipy.sparse.csr_matrix((np.ones(group.size), (group, np.arange(group.size))), (num_groups, group.size))
  mean = members @ points / np.maximum(size, 1)[:, None]
  inertia = members @ np.sum((points - mean[group]) ** 2, axis=1)
  return inertia, np.where(size > 1, 2.0 * inertia / np.maximum(size - 1, 1), np.inf)


def laser(
  key: jax.Array,
  interactions: Interactions,
  num_groups: int,
  *,
  dim: int = 16,
  max_iterations: int = 10,
  restarts: int = 5,
) -> Partition:
  """Groups of similar users, equal in size, numbered in curriculum order: 0 is the most cohesive, trained first.

  Users are vertices and items hyperedges; a user's vector is their row of the leading eigenvectors of the normalised
  hypergraph (`hypergraph_embedding`). Balanced k-means gives groups of at most ⌈users / K⌉, from several random
  starts of which the one of least inertia is kept. Groups are then ordered by ascending mean squared distance between
  members; one of a single user, which has none, comes last. All pairs of a user are in the user's group.

  The LASER paper was not available to us beyond its abstract: that the embedding is spectral, and the constants (10
  passes and 5 starts are those of its authors' shared code), are our choice. LightUL's baseline orders by mean
  distance, we by mean squared distance, which needs no pairs. Groups are equal in users, not in pairs.

  Leak: derived from all pairs (`derived_from="pairs"`), also those to be forgotten: exact given the groups.

  Args:
    key: PRNG key; the same key gives the same groups.
    interactions: N pairs.
    num_groups: K, from 1 to the number of users with a pair.
    dim: eigenvectors, ≥ 1; one less than there are users or items with a pair, where those are fewer.
    max_iterations: passes of k-means at most, ≥ 1.
    restarts: ≥ 1.

  Returns:
    A partition; `info` has cap, iterations and still of the start kept, inertia, and dim.

  Raises:
    ValueError: any of these out of range.
  """
  check_whole("max_iterations", max_iterations)
  check_whole("restarts", restarts)
  users, row = np.unique(interactions.user, return_inverse=True)
  items, column = np.unique(interactions.item, return_inverse=True)
  check_num_shards(num_groups, users.size, "users with a pair", name="num_groups")
  check_whole("dim", dim)
  limit = min(users.size, items.size)
  if limit < 2:
    raise ValueError(f"Expected two users and two items with a pair to group by, got {users.size} and {items.size}.")
  dim = min(dim, limit - 1)
  incidence = scipy.sparse.csr_matrix((np.ones(row.size, np.float32), (row, column)), (users.size, items.size))
  key, embedding_key = jax.random.split(key)
  points = hypergraph_embedding(incidence, dim, host_rng(embedding_key))
  ones = np.ones(users.size, np.int32)
  cap = sure_cap(ones, num_groups, users.size / num_groups)

  tries = []
  for start in jax.random.split(key, restarts):
    found = balanced_kmeans(
      draw_distinct(start, users.size, num_groups),
      jnp.asarray(points),
      jnp.asarray(ones),
      jnp.asarray(cap, jnp.int32),
      jnp.asarray(max_iterations),
    )
    group = np.asarray(found.shard)
    within, apart = spread(points, group, num_groups)
    tries.append((float(within.sum()), group, apart, found))
  inertia, group, apart, found = tries[int(np.argmin([t[0] for t in tries]))]
  rank = np.empty(num_groups, np.int32)
  rank[np.argsort(apart, kind="stable")] = np.arange(num_groups)
  info = {"cap": cap, "iterations": int(found.iterations), "still": bool(found.still), "inertia": inertia, "dim": dim}
  return Partition.make(rank[group][row], num_groups, "laser", "pairs", **info)
