"""The solves of `rownewton`: a step of every affected row, or the blocks of all rows kept for a coupled step."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxunlearn.unlearn._rownewton_sums import Rows, tiles
from jaxunlearn.unlearn._rownewton_terms import Point, Problem, Static

SIDES = ("user", "item")
_TINY = 1e-12


class Stored(struct.PyTreeNode):
  """What `store` keeps: users in the order of `Rows.index`, from `Rows.index.shape[0]` of the users on the items.

  Attributes:
    block: [capacity of both, m, m], between the leading axes.
    beyond: [capacity of both, d − m], the blocks' diagonals in the other axes.
    gradient: [capacity of both, d].
    before: [capacity of both, d].
    total: [2, m, m] and [2, d − m], sums of the users' and of the items' blocks.
  """

  block: jax.Array
  beyond: jax.Array
  gradient: jax.Array
  before: jax.Array
  total: list[jax.Array]


def _ridge(problem: Problem, count: jax.Array, block: jax.Array, live: jax.Array) -> jax.Array:
  """The diagonal that L2 and damping add; 1 for a row without any term, which then stays where it is."""
  trace = jnp.trace(block, axis1=1, axis2=2)
  # WMF's items without a pair have unobserved entries only, whose block may be singular; they are at its minimum.
  ridge = jnp.where(count > 0, (problem.l2 + problem.damping) * count, 1e-6 * trace)
  return jnp.where(live & (ridge + trace > 0), ridge, 1.0)


def factor_blocks(block: jax.Array, ridge: jax.Array) -> jax.Array:
  """Cholesky factors of block + ridge, [T, d, d] and [T]; NaN where a block is not positive definite."""
  return jnp.linalg.cholesky(block + ridge[:, None, None] * jnp.eye(block.shape[-1])[None])


def solve_blocks(factor: jax.Array, right: jax.Array) -> jax.Array:
  """Solutions [T, d] for `factor_blocks`' factors and right-hand sides [T, d]."""
  return jax.scipy.linalg.cho_solve((factor, True), right[..., None])[..., 0]


@functools.partial(jax.jit, static_argnames=("static", "side", "moved"))
@jax.default_matmul_precision("highest")
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
  sums_of = tiles(key, problem, rows, at, before, static=static, side=side, moved=moved)

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
  table, largest, capped = jax.lax.fori_loop(0, _num_tiles(rows), tile, start)
  return table, {"largest_step": largest, "capped": capped}


@functools.partial(jax.jit, static_argnames=("static",))
@jax.default_matmul_precision("highest")
def store(
  key: jax.Array, problem: Problem, rows: dict[str, Rows], at: Point, before: Point, *, static: Static
) -> Stored:
  """Blocks and gradients, by vector, of every affected row of both sides; arguments as in `sweep`."""
  sizes, dim = {side: rows[side].index.shape[0] for side in SIDES}, at.vectors.user.shape[1]
  size, leading = sum(sizes.values()), min(static.leading_axes, dim)
  shapes = ((leading, leading), (dim - leading,))
  kept = Stored(
    block=jnp.zeros((size, *shapes[0])),
    beyond=jnp.zeros((size, *shapes[1])),
    gradient=jnp.zeros((size, dim)),
    before=jnp.zeros((size, dim)),
    total=[jnp.zeros((2, *shape)) for shape in shapes],
  )
  for place, side in enumerate(SIDES):
    sums_of = tiles(
      jax.random.fold_in(key, place), problem, rows[side], at, before, static=static, side=side, moved=True
    )
    first = place * sizes["user"]

    def tile(index: jax.Array, kept: Stored, sums_of: Any = sums_of, first: int = first, place: int = place) -> Stored:
      size = rows[SIDES[place]].tile
      _, live, sums = sums_of(index)
      sums = jax.tree.map(lambda x: jnp.where(live.reshape(-1, *(1,) * (x.ndim - 1)), x, 0.0), sums)

      def put(whole: jax.Array, part: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(whole, part, first + index * size, 0)

      return Stored(
        block=put(kept.block, sums.block),
        beyond=put(kept.beyond, sums.beyond),
        gradient=put(kept.gradient, sums.gradient),
        before=put(kept.before, sums.before),
        total=[
          whole.at[place].add(jnp.sum(part, axis=0))
          for whole, part in zip(kept.total, (sums.block, sums.beyond), strict=True)
        ],
      )

    kept = jax.lax.fori_loop(0, _num_tiles(rows[side]), tile, kept)
  return kept


def _num_tiles(rows: Rows) -> jax.Array:
  return (rows.count + rows.tile - 1) // rows.tile


def _counts(problem: Problem, side: str) -> tuple[jax.Array, jax.Array]:
  if side == "user":
    return problem.user_count, problem.user_removed
  return problem.item_count, problem.item_removed
