"""The terms of `rownewton`'s objective: features, curvature and gradient of pairs, and what a request takes away."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxunlearn.base import Embeddings, Params
from jaxunlearn.data.interactions import PaddedInteractions
from jaxunlearn.losses import row_sum
from jaxunlearn.unlearn._rownewton_draws import draw_absent

_PAIRS = 256  # forgotten pairs a step
_USERS = 512  # whose pools are drawn together
_POSITIVES = 64  # retained pairs of a user that a forgotten item, now a possible negative, is set against

Pieces = list[tuple[jax.Array, jax.Array, jax.Array]]  # features [T, N, d], curvature [T, N], gradient [T, N]


class Static(NamedTuple):
  """What the program is compiled for."""

  family: str  # "bpr", "bce", "squares"
  score: Callable[[Params, jax.Array, jax.Array], jax.Array]
  inner_product: bool
  num_negatives: int  # a pair, in a user's block; bpr: at most twice as many
  row_negatives: int  # bpr: of a user in all, at least, as far as num_negatives allows
  pool: int  # scores of a user that those of the items it has are set against, in their blocks
  item_draws: int  # of an item as a negative, in its block
  pair_negatives: int  # a forgotten pair, in the right-hand side
  leading_axes: int  # of a vector, between which a block has off-diagonal entries; the others have a diagonal


class Problem(struct.PyTreeNode):
  """The pairs, from both sides, and the numbers of the objective.

  Attributes:
    known: pairs before the request.
    retained: by user.
    by_item: the same pairs with the two roles exchanged, so by item.
    forget: forgotten pairs.
    user_weight: float32 [num_users], weight of an example before the request; `new_weight`: after.
    user_count: float32 [num_users], weighted examples that a retained row is part of (the factor of its L2 term).
    item_count: float32 [num_items], likewise, expected draws as a negative included.
    user_removed: float32 [num_users], weighted examples that the request takes from a row, at the new weight.
    item_removed: float32 [num_items], likewise, changes of weight included.
    unobserved: c₀ of squares; the training's negatives a pair of bce; not read for bpr.
  """

  known: PaddedInteractions
  retained: PaddedInteractions
  by_item: PaddedInteractions
  forget: PaddedInteractions
  user_weight: jax.Array
  new_weight: jax.Array
  user_count: jax.Array
  item_count: jax.Array
  user_removed: jax.Array
  item_removed: jax.Array
  l2: jax.Array
  damping: jax.Array
  unobserved: jax.Array


class Point(struct.PyTreeNode):
  """Where the objective is looked at: the vectors that scores are made of, and what else `score` reads."""

  vectors: Embeddings
  rest: Any


def feature(static: Static, rest: Params, row: jax.Array, other: jax.Array, side: str) -> jax.Array:
  """∂score/∂row [T, …, d] for rows [T, d] of `side` against other vectors [T, …, d]."""
  if static.inner_product:
    return other
  wide = jnp.broadcast_to(row.reshape(row.shape[:1] + (1,) * (other.ndim - 2) + row.shape[1:]), other.shape)

  def total(row: jax.Array) -> jax.Array:
    pair = (row, other) if side == "user" else (other, row)
    return jnp.sum(static.score(rest, *pair))

  return jax.grad(total)(wide)


def scores_against(static: Static, rest: Params, row: jax.Array, other: jax.Array, side: str) -> jax.Array:
  """[T, …]: scores of rows [T, d] of `side` with other vectors [T, …, d]."""
  if static.inner_product:
    # A product of a matrix and a vector a row: XLA's CPU backend vectorises it, and a sum over products not.
    flat = other.reshape(other.shape[0], -1, other.shape[-1])
    return jnp.einsum("td,tnd->tn", row, flat).reshape(other.shape[:-1])
  wide = row.reshape(row.shape[:1] + (1,) * (other.ndim - 2) + row.shape[1:])
  return static.score(rest, *((wide, other) if side == "user" else (other, wide)))


def _slope(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """σ(x)σ(−x) and σ(−x): second derivative and minus the first of softplus(−x)."""
  miss = jax.nn.sigmoid(-x)
  return miss * (1.0 - miss), miss


def _odds(score: jax.Array) -> jax.Array:
  """exp(−score), so that σ(a − b) = 1 / (1 + odds(a) · odds(−b)); scores beyond 40 make no difference to a float32."""
  return jnp.exp(-jnp.clip(score, -40.0, 40.0))


def _flat(*arrays: jax.Array) -> list[jax.Array]:
  return [a.reshape(a.shape[0], -1, *a.shape[3:]) for a in arrays]


def user_pieces(
  static: Static, problem: Problem, at: Point, users: jax.Array, items: jax.Array, real: jax.Array,
  negatives: tuple[jax.Array, jax.Array] | None,
) -> Pieces:  # fmt: skip
  """Terms of the users' retained pairs: users [T], items [T, C], real [T, C]; negatives and weights [T, C, K]."""
  row, rest = at.vectors.user[users], at.rest
  positive = at.vectors.item[items]
  weight = real * problem.new_weight[users][:, None]
  own = scores_against(static, rest, row, positive, "user")
  toward = feature(static, rest, row, positive, "user")
  if static.family == "squares":
    rise = 2.0 * (1.0 - problem.unobserved)
    return [(toward, weight * rise, weight * (rise * own - 2.0))]
  assert negatives is not None
  drawn, share = negatives
  other = at.vectors.item[drawn]
  if static.family == "bpr":
    away = toward[:, :, None] - other  # its models score by inner products, so this is the margin's feature too
    curve, miss = _slope(scores_against(static, rest, row, away, "user"))
    share = share * weight[..., None]
    return [tuple(_flat(away, share * curve, -share * miss))]  # type: ignore[list-item]
  theirs = scores_against(static, rest, row, other, "user")
  away = feature(static, rest, row, other, "user")
  mean = 1.0 / (1.0 + problem.unobserved)
  curve, miss = _slope(own)
  curves, misses = _slope(-theirs)
  share = share * (weight * problem.unobserved * mean)[..., None]
  weight = weight * mean
  return [(toward, weight * curve, -weight * miss), tuple(_flat(away, share * curves, share * misses))]  # type: ignore[list-item]


def item_pieces(
  static: Static, problem: Problem, at: Point, items: jax.Array, users: jax.Array, real: jax.Array,
  pool: tuple[jax.Array, jax.Array] | None,
) -> Pieces:  # fmt: skip
  """Terms of the items' retained pairs: items [T], users [T, C], real [T, C]; odds of absent items and their shares
  [num_users, S], from `pool_odds`."""
  row, rest = at.vectors.item[items], at.rest
  other = at.vectors.user[users]
  weight = real * problem.new_weight[users]
  own = scores_against(static, rest, row, other, "item")
  toward = feature(static, rest, row, other, "item")
  if static.family == "squares":
    rise = 2.0 * (1.0 - problem.unobserved)
    return [(toward, weight * rise, weight * (rise * own - 2.0))]
  if static.family == "bce":
    curve, miss = _slope(own)
    weight = weight / (1.0 + problem.unobserved)
  else:
    assert pool is not None
    odds, share = pool
    missed = 1.0 / (1.0 + _odds(-own)[..., None] * odds[users])  # σ(score of the absent − own), without exponentials
    share = share[users]
    curve, miss = row_sum(share * missed * (1.0 - missed)), row_sum(share * missed)
  return [(toward, weight * curve, -weight * miss)]


def drawn_pieces(
  static: Static, problem: Problem, at: Point, items: jax.Array, users: jax.Array, positives: jax.Array,
  weight: jax.Array,
) -> Pieces:  # fmt: skip
  """Terms of the items as negatives: items [T] against examples (users, positives) [T, M] of weight [T, M]."""
  row, rest = at.vectors.item[items], at.rest
  other = at.vectors.user[users]
  own = scores_against(static, rest, row, other, "item")
  toward = feature(static, rest, row, other, "item")
  if static.family == "bpr":
    curve, miss = _slope(row_sum(other * at.vectors.item[positives]) - own)
  else:
    curve, miss = _slope(-own)
    weight = weight * problem.unobserved / (1.0 + problem.unobserved)
  return [(toward, weight * curve, weight * miss)]


def pool_odds(
  key: jax.Array, static: Static, problem: Problem, points: list[Point], users: jax.Array, count: jax.Array
) -> list[tuple[jax.Array, jax.Array]]:
  """For each point, exp(−score) of items that a user has no pair with, and their shares: both [num_users, S].

  Of the first `count` of `users` (int32 [num_users]); rows of others are 0.
  """
  num_users, num_items = problem.retained.num_users, problem.retained.num_items
  step = min(_USERS, num_users)
  users = jnp.pad(users, (0, -num_users % step))
  shape = (num_users, min(static.pool, num_items))

  def some(at_step: jax.Array, kept: tuple[list[jax.Array], jax.Array]) -> tuple[list[jax.Array], jax.Array]:
    tables, shares = kept
    user = jax.lax.dynamic_slice_in_dim(users, at_step * step, step)
    items, share = draw_absent(jax.random.fold_in(key, at_step), problem.retained, user, static.pool)
    target = jnp.where(at_step * step + jnp.arange(step) < count, user, num_users)
    scores = [scores_against(static, at.rest, at.vectors.user[user], at.vectors.item[items], "user") for at in points]
    tables = [table.at[target].set(_odds(score), mode="drop") for table, score in zip(tables, scores, strict=True)]
    return tables, shares.at[target].set(share, mode="drop")

  start = [jnp.zeros(shape) for _ in points], jnp.zeros(shape)
  tables, share = jax.lax.fori_loop(0, (count + step - 1) // step, some, start)
  return [(odds, share) for odds in tables]


@functools.partial(jax.jit, static_argnames=("static",))
@jax.default_matmul_precision("highest")
def removed(key: jax.Array, problem: Problem, at: Point, *, static: Static) -> Embeddings:
  """Gradient, by vector, of what the request takes out of the objective; without L2 terms and draws as a negative.

  A forgotten pair is an example less, with the negatives that it had; and from now on its item is a negative that its
  user's retained pairs may draw. A user's gradient is in units of the new weight, an item's of the old: the weight of
  a user's examples is common to all terms of its row and moves nothing there.

  Returns:
    float [num_users, d], [num_items, d].
  """
  forget, retained, rest = problem.forget, problem.retained, at.rest
  zeros = jax.tree.map(jnp.zeros_like, at.vectors)
  mean = 1.0 / (1.0 + problem.unobserved)

  def step(index: jax.Array, total: Embeddings) -> Embeddings:
    slot = index * _PAIRS + jnp.arange(_PAIRS, dtype=jnp.int32)
    real = (slot < forget.count).astype(jnp.float32)
    slot = jnp.minimum(slot, forget.capacity - 1)
    users, items = forget.user[slot], forget.item[slot]
    user, item = at.vectors.user[users], at.vectors.item[items]
    own = scores_against(static, rest, user, item[:, None], "user")[:, 0]
    by_user, by_item = feature(static, rest, user, item, "user"), feature(static, rest, item, user, "item")
    old, new = problem.user_weight[users] * real, problem.new_weight[users] * real
    if static.family == "squares":
      slope = (2.0 * (1.0 - problem.unobserved) * own - 2.0)[:, None]
      gone = Embeddings(old[:, None] * slope * by_user, old[:, None] * slope * by_item)
    else:
      drawn, share = draw_absent(jax.random.fold_in(key, index), problem.known, users, static.pair_negatives)
      other = at.vectors.item[drawn]
      theirs = scores_against(static, rest, user, other, "user")
      away = feature(static, rest, user, other, "user")
      degree = retained.indptr[users + 1] - retained.indptr[users]
      lost = problem.known.indptr[users + 1] - problem.known.indptr[users] - degree
      absent = retained.num_items - degree
      # Of its item, at each draw of a negative: for its own row the new odds, and for its user's the old, since the
      # user's other negatives are counted as drawn with the old odds too.
      odds, old_odds = 1.0 / jnp.maximum(absent, 1), 1.0 / jnp.maximum(absent - lost, 1)
      if static.family == "bpr":
        miss = share * _slope(own[:, None] - theirs)[1]
        push = -jnp.sum(miss, axis=1)
        pull = jnp.einsum("bk,bkd->bd", miss, away) + push[:, None] * by_user
        # Its user's retained pairs, evenly spaced, each standing for as many as it takes.
        count = jnp.minimum(degree, _POSITIVES)[:, None]
        place = jnp.arange(_POSITIVES, dtype=jnp.int32)[None, :]
        at_row = retained.indptr[users][:, None] + (place * degree[:, None]) // jnp.maximum(count, 1)
        each = jnp.where(place < count, degree[:, None] / jnp.maximum(count, 1), 0.0)
        kept = at.vectors.item[retained.item[jnp.minimum(at_row, retained.capacity - 1)]]
        wrong = each * _slope(scores_against(static, rest, user, kept, "user") - own[:, None])[1]
        toward = feature(static, rest, user, kept, "user")
        rise = jnp.sum(wrong, axis=1)
        gained = old_odds[:, None] * (rise[:, None] * by_user - jnp.einsum("bk,bkd->bd", wrong, toward))
        rise *= odds
      else:
        push = -mean * _slope(own)[1]
        miss = share * mean * problem.unobserved * _slope(-theirs)[1]
        pull = push[:, None] * by_user + jnp.einsum("bk,bkd->bd", miss, away)
        rise = degree * mean * problem.unobserved * _slope(-own)[1]
        gained = (old_odds * rise)[:, None] * by_user
        rise *= odds
      gone = Embeddings(
        new[:, None] * (pull - gained), old[:, None] * push[:, None] * by_item - (new * rise)[:, None] * by_item
      )
    return Embeddings(total.user.at[users].add(gone.user), total.item.at[items].add(gone.item))

  return jax.lax.fori_loop(0, (forget.count + _PAIRS - 1) // _PAIRS, step, zeros)
