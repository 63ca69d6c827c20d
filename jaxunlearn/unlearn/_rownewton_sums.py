"""Sums over pairs for the solves of `rownewton`: blocks and gradients of affected rows, tile by tile.

Affected rows come sorted by degree and go through in tiles of `TILE` rows, or of all where these are fewer, and the
examples of a tile in chunks of `CHUNK` a row. Both loops run as often as the request needs, so requests of all sizes
share one program, and without a graph the largest array of blocks is that of one tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxunlearn.data.interactions import PaddedInteractions
from jaxunlearn.unlearn import _rownewton_terms as terms
from jaxunlearn.unlearn._rownewton_draws import draw_absent, item_draws, num_absent, num_examples, pair_of
from jaxunlearn.unlearn._rownewton_terms import Pieces, Point, Problem, Static

TILE, CHUNK = 32, 128  # rows that are solved together; examples a row and step, so that a tile stays in the cache
_TINY = 1e-12


class Rows(struct.PyTreeNode):
  """Affected rows of one side.

  Attributes:
    index: int32 [capacity], the row with most retained pairs first; the capacity is a multiple of `tile`.
    count: int32 scalar, how many of them there are.
    fresh: bool [rows of the side]: it has lost its last pair, so nothing of its old place is left.
    partners: items of bpr: int32 [num_users], the users of their retained pairs first; None elsewhere.
    num_partners: int32 scalar, how many those are.
  """

  index: jax.Array
  count: jax.Array
  fresh: jax.Array
  partners: jax.Array | None = None
  num_partners: jax.Array | None = None

  @property
  def tile(self) -> int:
    """Rows that are solved together."""
    return min(TILE, self.index.shape[0])


class Sums(struct.PyTreeNode):
  """Of a tile: blocks between the leading axes [T, m, m], their diagonals beyond [T, d − m], gradients [T, d], and
  gradients of the same terms before the request [T, d]."""

  block: jax.Array
  beyond: jax.Array
  gradient: jax.Array
  before: jax.Array

  def add(self, now: Pieces, then: Pieces, ratios: tuple[jax.Array | None, ...]) -> Sums:
    """With terms at two points; before the request their weight was a ratio ([T, N]; None: 1) times what it is."""
    block, beyond, gradient, before = self.block, self.beyond, self.gradient, self.before
    leading = block.shape[-1]
    for (features, curve, slope), (old_features, _, old_slope), ratio in zip(now, then, ratios, strict=True):
      old_slope = old_slope if ratio is None else old_slope * ratio
      # One array on both sides of the product: XLA's CPU backend takes twice as long for two, or for more columns.
      root = features[..., :leading] * jnp.sqrt(curve)[..., None]
      block = block + jnp.einsum("tnk,tne->tke", root, root)
      if beyond.shape[-1]:
        beyond = beyond + jnp.einsum("tn,tne->te", curve, jnp.square(features[..., leading:]))
      if old_features is features:
        made = jnp.einsum("tsn,tne->tse", jnp.stack([slope, old_slope], axis=1), features)
        gradient, before = gradient + made[:, 0], before + made[:, 1]
      else:
        gradient = gradient + jnp.einsum("tn,tne->te", slope, features)
        before = before + jnp.einsum("tn,tne->te", old_slope, old_features)
    return self.replace(block=block, beyond=beyond, gradient=gradient, before=before)


def tiles(
  key: jax.Array, problem: Problem, rows: Rows, at: Point, before: Point, *, static: Static, side: str, moved: bool
) -> Callable[[jax.Array], tuple[jax.Array, jax.Array, Sums]]:
  """tile number -> (row [T], live [T], Sums): everything about a tile that depends on the pairs."""
  points = [at, before] if moved else [at]
  dim = at.vectors.user.shape[1]
  dense: list[jax.Array] | None = None
  pools: list[tuple[jax.Array, jax.Array]] | None = None
  draws: Any = None
  if static.family == "squares":
    dense = [
      2.0 * problem.unobserved * _gram(point, data, side)
      for point, data in ((at, problem.retained), (before, problem.known))
    ]
  if static.family == "bpr" and side == "item":
    assert rows.partners is not None and rows.num_partners is not None
    pools = terms.pool_odds(jax.random.fold_in(key, 1), static, problem, points, rows.partners, rows.num_partners)
  if static.family != "squares" and side == "item":
    draws = item_draws(jax.random.fold_in(key, 0), static, problem, rows.index, rows.count)
  sums_fn = _user_sums if side == "user" else _item_sums

  def tile(index: jax.Array) -> tuple[jax.Array, jax.Array, Sums]:
    slot = index * rows.tile + jnp.arange(rows.tile, dtype=jnp.int32)
    live, row = slot < rows.count, rows.index[slot]
    fixed = pools, before, jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, slot[0], rows.tile), draws)
    sums = sums_fn(jax.random.fold_in(key, 2 + index), static, problem, points, row, fixed, dim)
    if dense is not None:
      sums = sums.replace(
        block=sums.block + dense[0][None],
        gradient=sums.gradient + getattr(at.vectors, side)[row] @ dense[0],
        before=sums.before + getattr(before.vectors, side)[row] @ dense[1],
      )
    return row, live, sums

  return tile


def _gram(point: Point, data: PaddedInteractions, side: str) -> jax.Array:
  """Sum of the other side's outer products [d, d]; of users only those with a pair, as in training."""
  table = point.vectors.item
  if side == "item":
    table = jnp.where((jnp.diff(data.indptr) > 0)[:, None], point.vectors.user, 0.0)
  return jnp.matmul(table.T, table, precision="highest")


def _empty(size: int, dim: int, leading: int) -> Sums:
  leading = min(leading, dim)
  return Sums(
    block=jnp.zeros((size, leading, leading)),
    beyond=jnp.zeros((size, dim - leading)),
    gradient=jnp.zeros((size, dim)),
    before=jnp.zeros((size, dim)),
  )


def _num_chunks(length: jax.Array, chunk: int) -> jax.Array:
  return (jnp.max(length) + chunk - 1) // chunk


def _chunk(indptr: jax.Array, row: jax.Array, place: jax.Array, capacity: int) -> tuple[jax.Array, jax.Array]:
  """Slots of the rows' pairs number `place` ([T, N] or [1, N]), and 1 or 0: whether there are so many."""
  slot = indptr[row][:, None] + place
  real = (slot < indptr[row + 1][:, None]).astype(jnp.float32)
  return jnp.minimum(slot, capacity - 1), real


def _places(index: jax.Array, size: int) -> jax.Array:
  return (index * size + jnp.arange(size, dtype=jnp.int32))[None, :]


def _user_sums(
  key: jax.Array, static: Static, problem: Problem, points: list[Point], row: jax.Array, fixed: Any, dim: int
) -> Sums:
  del fixed
  data = problem.retained
  now, then = (num_absent(pairs)[row][:, None].astype(jnp.float32) for pairs in (data, problem.known))
  fewer = now / jnp.maximum(then, 1.0)  # a negative was more likely, before the forgotten items joined them
  ratios = {"squares": (None,), "bpr": (fewer,), "bce": (None, fewer)}[static.family]
  degree = data.indptr[row + 1] - data.indptr[row]
  # One negative an example, pairs repeated, so that rows differ in how many they draw; or the same number a pair.
  single = static.family == "bpr" and static.num_negatives < data.num_items
  each = 1 if single or static.family == "squares" else min(static.num_negatives, data.num_items)
  size = max(1, CHUNK // each)
  total = num_examples(static, degree, CHUNK) if single else degree

  def chunk(index: jax.Array, sums: Sums) -> Sums:
    place, shared = _places(index, size), jnp.ones((1, 1), jnp.int32)
    if single:
      place, shared = pair_of(place, total[:, None], degree[:, None])
    slot, real = _chunk(data.indptr, row, place, data.capacity)
    negatives = None
    if static.family != "squares":
      users = jnp.broadcast_to(row[:, None], slot.shape).reshape(-1)
      drawn, share = draw_absent(jax.random.fold_in(key, index), data, users, 1 if single else each)
      negatives = (drawn.reshape(*slot.shape, -1), share.reshape(*slot.shape, -1))
    found = [terms.user_pieces(static, problem, at, row, data.item[slot], real / shared, negatives) for at in points]
    return sums.add(found[0], found[-1], ratios)

  return jax.lax.fori_loop(0, _num_chunks(total, size), chunk, _empty(row.size, dim, static.leading_axes))


def _item_sums(
  key: jax.Array, static: Static, problem: Problem, points: list[Point], row: jax.Array, fixed: Any, dim: int
) -> Sums:
  del key
  by_item, (pools, was, draws) = problem.by_item, fixed
  degree = by_item.indptr[row + 1] - by_item.indptr[row]
  # A user who has lost pairs weighs more in each that is left.
  ratio_of = problem.user_weight / jnp.maximum(problem.new_weight, _TINY)

  def chunk(index: jax.Array, sums: Sums) -> Sums:
    slot, real = _chunk(by_item.indptr, row, _places(index, CHUNK), by_item.capacity)
    users = by_item.item[slot]
    found = [
      terms.item_pieces(static, problem, at, row, users, real, None if pools is None else pools[number])
      for number, at in enumerate(points)
    ]
    return sums.add(found[0], found[-1], (ratio_of[users],))

  sums = jax.lax.fori_loop(0, _num_chunks(degree, CHUNK), chunk, _empty(row.size, dim, static.leading_axes))
  if static.family == "squares":
    return sums
  retained, lost = draws
  found = [
    terms.drawn_pieces(static, problem, at, row, retained.user, retained.positive, retained.weight) for at in points
  ]
  sums = sums.add(found[0], found[-1], (retained.ratio,))
  # Forgotten pairs drew it too, and do so no more: with the vectors of then, which a user without pairs has lost.
  [(features, _, slope)] = terms.drawn_pieces(static, problem, was, row, lost.user, lost.positive, lost.weight)
  return sums.replace(before=sums.before + jnp.einsum("tn,tne->te", slope, features))
