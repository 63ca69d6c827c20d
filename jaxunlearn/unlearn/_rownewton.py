"""The solves of `rownewton`: blocks and gradients of affected rows, accumulated and solved tile by tile.

Affected rows come sorted by degree and go through in tiles of `TILE` rows, and the pairs of a tile in chunks of
`CHUNK` a row. Both loops run as often as the request needs, so requests of all sizes share one program, and without a
graph the largest array of blocks is that of one tile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxunlearn.data.interactions import PaddedInteractions
from jaxunlearn.unlearn import _rownewton_terms as terms
from jaxunlearn.unlearn._rownewton_terms import Pieces, Point, Problem, Static

TILE, CHUNK = 32, 64  # rows that are solved together; pairs a row and step
_TINY = 1e-12
_DRAWS = 1 << 30  # folded into a tile's key for draws of an item as a negative, beyond any chunk's number


class Rows(struct.PyTreeNode):
  """Affected rows of one side.

  Attributes:
    index: int32 [capacity], the row with most retained pairs first; the capacity is a multiple of `TILE`.
    count: int32 scalar, how many of them there are.
    fresh: bool [rows of the side]: it has lost its last pair, so nothing of its old place is left.
  """

  index: jax.Array
  count: jax.Array
  fresh: jax.Array


class Sums(struct.PyTreeNode):
  """A tile's blocks [T, d, d], gradients [T, d], and gradients of the same terms before the request [T, d]."""

  block: jax.Array
  gradient: jax.Array
  before: jax.Array

  def add(self, now: Pieces, then: Pieces, ratios: tuple[jax.Array | None, ...]) -> Sums:
    """With terms at two points; before the request their weight was a ratio ([T, N]; None: 1) times what it is."""
    block, gradient, before = self.block, self.gradient, self.before
    for (features, curve, slope), (old_features, _, old_slope), ratio in zip(now, then, ratios, strict=True):
      old_slope = old_slope if ratio is None else old_slope * ratio
      # One product for all three: the slopes are more columns beside the weighted features.
      left = [features * curve[..., None], slope[..., None]]
      if old_features is features:
        left.append(old_slope[..., None])
      made = jnp.einsum("tnk,tne->tke", jnp.concatenate(left, axis=-1), features)
      dim = features.shape[-1]
      block, gradient = block + made[:, :dim], gradient + made[:, dim]
      before += made[:, -1] if old_features is features else jnp.einsum("tn,tne->te", old_slope, old_features)
    return self.replace(block=block, gradient=gradient, before=before)


class Stored(struct.PyTreeNode):
  """What `store` keeps of a side: [capacity, d, d] and twice [capacity, d], in the order of `Rows.index`."""

  block: jax.Array
  gradient: jax.Array
  before: jax.Array


def _ridge(problem: Problem, count: jax.Array, block: jax.Array, live: jax.Array) -> jax.Array:
  """The diagonal that L2 and damping add; 1 for a row without any term, which then stays where it is."""
  ridge = (problem.l2 + problem.damping) * count
  return jnp.where(live & (ridge + jnp.trace(block, axis1=1, axis2=2) > 0), ridge, 1.0)


def factor_blocks(block: jax.Array, ridge: jax.Array) -> jax.Array:
  """Cholesky factors of block + ridge, [T, d, d] and [T]; NaN where a block is not positive definite."""
  return jnp.linalg.cholesky(block + ridge[:, None, None] * jnp.eye(block.shape[-1])[None])


def solve_blocks(factor: jax.Array, right: jax.Array) -> jax.Array:
  """Solutions [T, d] for `factor_blocks`' factors and right-hand sides [T, d]."""
  return jax.scipy.linalg.cho_solve((factor, True), right[..., None])[..., 0]


@functools.partial(jax.jit, static_argnames=("static", "side", "moved"))
def sweep(
  key: jax.Array,
  problem: Problem,
  rows: Rows,
  table: jax.Array,
  old_table: jax.Array,
  gone: jax.Array,
  at: Point,
  before: Point,
  max_step: jax.Array,
  *,
  static: Static,
  side: str,
  moved: bool,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """One Newton step of every affected row of a side, all else held fixed; for models whose vectors are their rows.

  With H and g block and gradient of the retained objective at `at`, and g⁰ the gradient before the request of the
  same terms at `before`, a row moves by −(H + damping)⁻¹ (g − g⁰ − gone): the gradient that training had left at the
  old parameters is no part of it. A fresh item moves by −(H + damping)⁻¹ g, a fresh user not at all: training has no
  example of it.

  Args:
    key: negatives; the same key for every round, so that rounds differ by the point alone.
    problem: the objective.
    rows: which.
    table: float [rows of the side, d], parameters to move.
    old_table: the same before the request.
    gone: of `_rownewton_terms.removed`, for this side.
    at: where the step is taken from.
    before: where the request found the model.
    max_step: cap of a step's length, in units of the larger of its row's and the mean row's length.
    static: static.
    side: static, "user" or "item".
    moved: static; False when `at` and `before` are the same point.

  Returns:
    The table after the step; the largest step in that unit, and how many rows the cap held.
  """
  count, lost = _counts(problem, side)
  mean_length = jnp.mean(jnp.linalg.norm(old_table, axis=1))
  sums_of = _tiles(key, problem, rows, at, before, static=static, side=side, moved=moved)

  def tile(index: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> Any:
    table, largest, capped = carry
    row, live, sums = sums_of(index)
    fresh = rows.fresh[row]
    left = sums.gradient + problem.l2 * count[row][:, None] * table[row]
    was = sums.before + gone[row] + problem.l2 * (count[row] + lost[row])[:, None] * old_table[row]
    left = jnp.where(fresh[:, None], left if side == "item" else 0.0, left - was)
    step = -solve_blocks(factor_blocks(sums.block, _ridge(problem, count[row], sums.block, live)), left)
    unit = jnp.maximum(jnp.linalg.norm(old_table[row], axis=1), mean_length)
    relative = jnp.where(live & ~fresh, jnp.linalg.norm(step, axis=1) / jnp.maximum(unit, _TINY), 0.0)
    shorter = jnp.where(relative > max_step, max_step / jnp.maximum(relative, _TINY), 1.0)
    target = jnp.where(live, row, table.shape[0])
    table = table.at[target].add(step * shorter[:, None], mode="drop")
    return table, jnp.maximum(largest, jnp.max(relative)), capped + jnp.sum(relative > max_step)

  start = (table, jnp.zeros(()), jnp.zeros((), jnp.int32))
  table, largest, capped = jax.lax.fori_loop(0, (rows.count + TILE - 1) // TILE, tile, start)
  return table, {"largest_step": largest, "capped": capped}


@functools.partial(jax.jit, static_argnames=("static", "side"))
def store(
  key: jax.Array, problem: Problem, rows: Rows, at: Point, before: Point, *, static: Static, side: str
) -> Stored:
  """Blocks and gradients, by vector, of every affected row of a side; arguments as in `sweep`."""
  sums_of = _tiles(key, problem, rows, at, before, static=static, side=side, moved=True)
  size, dim = rows.index.shape[0], at.vectors.user.shape[1]

  def tile(index: jax.Array, kept: Stored) -> Stored:
    _, live, sums = sums_of(index)
    masked = jax.tree.map(lambda x: jnp.where(live.reshape(-1, *(1,) * (x.ndim - 1)), x, 0.0), sums)
    return jax.tree.map(
      lambda all_, new: jax.lax.dynamic_update_slice_in_dim(all_, new, index * TILE, 0),
      kept,
      Stored(masked.block, masked.gradient, masked.before),
    )

  start = Stored(jnp.zeros((size, dim, dim)), jnp.zeros((size, dim)), jnp.zeros((size, dim)))
  return jax.lax.fori_loop(0, (rows.count + TILE - 1) // TILE, tile, start)


def _counts(problem: Problem, side: str) -> tuple[jax.Array, jax.Array]:
  if side == "user":
    return problem.user_count, problem.user_removed
  return problem.item_count, problem.item_removed


def _tiles(
  key: jax.Array, problem: Problem, rows: Rows, at: Point, before: Point, *, static: Static, side: str, moved: bool
) -> Callable[[jax.Array], tuple[jax.Array, jax.Array, Sums]]:
  """tile number -> (row [T], live [T], Sums): everything about a tile that depends on the pairs."""
  points = [at, before] if moved else [at]
  dim = at.vectors.user.shape[1]
  dense: list[jax.Array] | None = None
  pools: list[tuple[jax.Array, jax.Array]] | None = None
  if static.family == "squares":
    dense = [
      2.0 * problem.unobserved * _gram(point, data, side)
      for point, data in ((at, problem.retained), (before, problem.known))
    ]
  if static.family == "bpr" and side == "item":
    pools = terms.pool_scores(jax.random.fold_in(key, 1), static, problem, points)
  sums_fn = _user_sums if side == "user" else _item_sums

  def tile(index: jax.Array) -> tuple[jax.Array, jax.Array, Sums]:
    slot = index * TILE + jnp.arange(TILE, dtype=jnp.int32)
    live, row = slot < rows.count, rows.index[slot]
    sums = sums_fn(jax.random.fold_in(key, 2 + index), static, problem, points, row, pools, dim)
    if dense is not None:
      sums = sums.replace(
        block=sums.block + dense[0][None],
        gradient=sums.gradient + getattr(at.vectors, side)[row] @ dense[0],
        before=sums.before + getattr(before.vectors, side)[row] @ dense[1],
      )
    return row, live, sums

  return tile


def _num_absent(data: PaddedInteractions) -> jax.Array:
  return data.num_items - jnp.diff(data.indptr)


def _gram(point: Point, data: PaddedInteractions, side: str) -> jax.Array:
  """Sum of the other side's outer products [d, d]; of users only those with a pair, as in training."""
  table = point.vectors.item
  if side == "item":
    table = jnp.where((jnp.diff(data.indptr) > 0)[:, None], point.vectors.user, 0.0)
  return jnp.matmul(table.T, table, precision="highest")


def _empty(dim: int) -> Sums:
  return Sums(block=jnp.zeros((TILE, dim, dim)), gradient=jnp.zeros((TILE, dim)), before=jnp.zeros((TILE, dim)))


def _num_chunks(indptr: jax.Array, row: jax.Array) -> jax.Array:
  return (jnp.max(indptr[row + 1] - indptr[row]) + CHUNK - 1) // CHUNK


def _chunk(indptr: jax.Array, row: jax.Array, index: jax.Array, capacity: int) -> tuple[jax.Array, jax.Array]:
  slot = indptr[row][:, None] + index * CHUNK + jnp.arange(CHUNK, dtype=jnp.int32)[None, :]
  real = (slot < indptr[row + 1][:, None]).astype(jnp.float32)
  return jnp.minimum(slot, capacity - 1), real


def _user_sums(
  key: jax.Array, static: Static, problem: Problem, points: list[Point], row: jax.Array, pools: Any, dim: int
) -> Sums:
  del pools
  data = problem.retained
  now, then = (_num_absent(pairs)[row][:, None].astype(jnp.float32) for pairs in (data, problem.known))
  fewer = now / jnp.maximum(then, 1.0)  # a negative was more likely, before the forgotten items joined them
  ratios = {"squares": (None,), "bpr": (fewer,), "bce": (None, fewer)}[static.family]

  def chunk(index: jax.Array, sums: Sums) -> Sums:
    slot, real = _chunk(data.indptr, row, index, data.capacity)
    negatives = None
    if static.family != "squares":
      users = jnp.broadcast_to(row[:, None], slot.shape).reshape(-1)
      drawn, share = terms.draw_absent(jax.random.fold_in(key, index), data, users, static.num_negatives)
      negatives = (drawn.reshape(*slot.shape, -1), share.reshape(*slot.shape, -1))
    found = [terms.user_pieces(static, problem, at, row, data.item[slot], real, negatives) for at in points]
    return sums.add(found[0], found[-1], ratios)

  return jax.lax.fori_loop(0, _num_chunks(data.indptr, row), chunk, _empty(dim))


def _item_sums(
  key: jax.Array,
  static: Static,
  problem: Problem,
  points: list[Point],
  row: jax.Array,
  pools: list[tuple[jax.Array, jax.Array]] | None,
  dim: int,
) -> Sums:
  data, by_item, known, forget = problem.retained, problem.by_item, problem.known, problem.forget
  # A user who has lost pairs weighs more in each that is left.
  ratio_of = problem.user_weight / jnp.maximum(problem.new_weight, _TINY)

  def chunk(index: jax.Array, sums: Sums) -> Sums:
    slot, real = _chunk(by_item.indptr, row, index, by_item.capacity)
    users = by_item.item[slot]
    found = [
      terms.item_pieces(static, problem, at, row, users, real, None if pools is None else pools[number])
      for number, at in enumerate(points)
    ]
    return sums.add(found[0], found[-1], (ratio_of[users],))

  sums = jax.lax.fori_loop(0, _num_chunks(by_item.indptr, row), chunk, _empty(dim))
  if static.family == "squares":
    return sums
  shape = (TILE, static.item_draws)
  num_absent, num_absent_before = _num_absent(data), jnp.maximum(_num_absent(known), 1)
  pair, stands_for = terms.draw_pairs(jax.random.fold_in(key, _DRAWS), data.count, shape)
  users, positives = data.user[pair], data.item[pair]
  absent = ~terms.contains(data, users, row[:, None])
  weight = stands_for * absent * problem.new_weight[users] / jnp.maximum(num_absent[users], 1)
  found = [terms.drawn_pieces(static, problem, at, row, users, positives, weight) for at in points]
  # A forgotten item is new among its user's negatives: that is part of `gone`, so here it is as it was before.
  was_absent = ~terms.contains(known, users, row[:, None])
  ratio = jnp.where(was_absent, ratio_of[users] * num_absent[users] / num_absent_before[users], 1.0)
  sums = sums.add(found[0], found[-1], (ratio,))
  # Forgotten pairs drew it too, and do so no more.
  pair, stands_for = terms.draw_pairs(jax.random.fold_in(key, _DRAWS + 1), forget.count, shape)
  users, positives = forget.user[pair], forget.item[pair]
  absent = ~terms.contains(known, users, row[:, None])
  weight = stands_for * absent * problem.user_weight[users] / num_absent_before[users]
  [(features, _, slope)] = terms.drawn_pieces(static, problem, points[-1], row, users, positives, weight)
  return sums.replace(before=sums.before + jnp.einsum("tn,tne->te", slope, features))
