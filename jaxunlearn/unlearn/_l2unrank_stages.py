"""L2UnRank's first two stages, on the host: what is near the request, and how much each of it matters."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxunlearn.base import Embeddings
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.graph import Scope, scope

_TINY = 1e-12  # added to a norm before dividing by it


class Region(NamedTuple):
  """Stage 1: what a request reaches.

  Attributes:
    scope: N_p, the users and items within p hops: the only rows that move.
    support: bool [len(retained)], S_p: the retained pairs with an end in N_p, which the Hessian is taken on.
  """

  scope: Scope
  support: np.ndarray


class Influence(NamedTuple):
  """Stage 2: a number in [0, 1] a user and an item, float64 [num_users] and [num_items], 0 outside the scope."""

  user: np.ndarray
  item: np.ndarray


def influence_region(interactions: Interactions, retained: Interactions, forget: Interactions, hops: int) -> Region:
  """N_p and S_p (facts A.3).

  S_p holds a pair as soon as *one* end is in N_p: these are the pairs with a second derivative in a moved row. With
  both ends asked for, curvature would be missing and the step too long.

  Args:
    interactions: the pairs before the request, whose graph is walked.
    retained: the same without `forget`.
    forget: the pairs to be forgotten.
    hops: p ≥ 0.

  Raises:
    ValueError: hops is negative.
  """
  near = scope(interactions, forget, hops)
  return Region(near, near.user[retained.user] | near.item[retained.item])


def structural_influence(interactions: Interactions, near: Scope) -> Influence:
  """a_v: degree inside the scope's own subgraph, over the largest of the same type, so that users and items compare."""
  inside = near.user[interactions.user] & near.item[interactions.item]
  user = np.bincount(interactions.user[inside], minlength=interactions.num_users)
  item = np.bincount(interactions.item[inside], minlength=interactions.num_items)
  return Influence(user / max(1, user.max(initial=0)), item / max(1, item.max(initial=0)))


def semantic_influence(vectors: Embeddings, near: Scope, forget: Interactions, *, joint: bool = True) -> Influence:
  """b_v = (1 + cos(e_v, c)) / 2, c being the mean direction of the users and items of the forgotten pairs.

  Args:
    vectors: of the model before the request.
    near: the scope.
    forget: the forgotten pairs.
    joint: users and items share one space, so one c; False (NeuMF, whose score is no inner product): a c each.
  """
  own = (np.unique(forget.user), np.unique(forget.item))
  tables = [np.asarray(table) for table in vectors]
  rows = [_directions(table[at]) for table, at in zip(tables, own, strict=True)]
  total = [part.sum(axis=0) for part in rows]
  centers = [_directions((total[0] + total[1])[None])[0]] * 2 if joint else [_directions(t[None])[0] for t in total]
  out = []
  for table, center, inside in zip(tables, centers, near, strict=True):
    values = np.zeros(len(table))
    at = np.flatnonzero(inside)
    values[at] = np.clip(0.5 * (1.0 + _directions(table[at]) @ center), 0.0, 1.0)
    out.append(values)
  return Influence(*out)


def _directions(rows: np.ndarray) -> np.ndarray:
  return rows / (np.linalg.norm(rows, axis=-1, keepdims=True) + _TINY)


def combined_influence(
  structural: Influence, semantic: Influence, near: Scope, degree_weight: float, score_weight: float
) -> Influence:
  """ω, one distribution over the users and items of the scope: z = degree_weight · a + score_weight · b over Σ z.

  Where both weights are 0 there is nothing to distribute, all of ω is 0, and `pair_weights` weighs pairs alike.
  """
  mixed = [
    np.where(inside, degree_weight * a + score_weight * b, 0.0)
    for a, b, inside in zip(structural, semantic, near, strict=True)
  ]
  total = sum(float(part.sum()) for part in mixed)
  return Influence(*(part / total if total > 0 else part for part in mixed))


def pair_weights(influence: Influence, pairs: Interactions) -> np.ndarray:
  """w_ui = (ω_u + ω_i) over its mean over `pairs`: float32 [n], of mean 1, so that a step keeps its size.

  Each set of pairs is normalised on its own. Scaled together, forgotten pairs, with both ends in scope, would weigh
  twice as much as retained ones, and the step would double. The sum of the two ends, not the product: a retained pair
  with one end outside the scope has to stay in the Hessian.
  """
  raw = influence.user[pairs.user] + influence.item[pairs.item]
  mean = raw.mean() if len(pairs) else 0.0
  return (raw / mean if mean > 0 else np.ones(len(pairs))).astype(np.float32)


def high_impact(support: np.ndarray, weight: np.ndarray, ratio: float) -> np.ndarray:
  """Row numbers, ascending, of the share `ratio` of the pairs in S_p with the largest weights; ties to the first."""
  rows = np.flatnonzero(support)
  if ratio >= 1.0 or not len(rows):
    return rows
  best = np.argsort(-weight, kind="stable")[: max(1, int(np.ceil(ratio * len(rows))))]
  return rows[np.sort(best)]


class NegativeRoles(NamedTuple):
  """Retained pairs outside S_p that meet a scoped item as their negative: int32 [n] thrice, float32 [n]."""

  user: np.ndarray
  positive: np.ndarray
  negative: np.ndarray
  weight: np.ndarray


def negative_roles(
  rng: np.random.Generator, interactions: Interactions, retained: Interactions, region: Region, draws: int
) -> NegativeRoles:
  """An unbiased sample of the curvature that scoped items have as *negatives* of pairs outside S_p.

  A pair of user u draws item j as its negative with probability 1 / (num_items − degree of u), if u has no pair
  with j. For each item of the scope `draws` of the pairs outside S_p are taken, weighing that probability times the
  number of pairs over `draws`. Without them an item that is rare, or wholly forgotten, would have no curvature at all.

  Args:
    rng: of the draws.
    interactions: the pairs that negatives avoid.
    retained: the retained pairs.
    region: of the request.
    draws: pairs an item, ≥ 0.
  """
  outside, items = np.flatnonzero(~region.support), np.flatnonzero(region.scope.item)
  if not draws or not len(outside) or not len(items):
    empty = np.zeros(0, np.int32)
    return NegativeRoles(empty, empty, empty, np.zeros(0, np.float32))
  at = outside[rng.integers(0, len(outside), len(items) * draws)]
  negative = np.repeat(items, draws).astype(np.int32)
  user, positive = retained.user[at], retained.item[at]
  absent = interactions.num_items - interactions.user_degrees()[user]
  known = interactions.keys()
  wanted = user.astype(np.int64) * max(interactions.num_items, 1) + negative
  taken = known[np.minimum(np.searchsorted(known, wanted), len(known) - 1)] == wanted
  weight = np.where(taken, 0.0, len(outside) / draws / np.maximum(absent, 1)).astype(np.float32)
  kept = weight > 0
  return NegativeRoles(user[kept], positive[kept], negative[kept], weight[kept])
