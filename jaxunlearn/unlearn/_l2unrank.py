"""L2UnRank's third stage, on the device: the weighted influence step on the rows of the scope."""

from __future__ import annotations

import functools
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp

from jaxunlearn.base import Context, Params
from jaxunlearn.linalg import conjugate_gradient, diagonal_preconditioner
from jaxunlearn.unlearn import _l2unrank_rows as rows_of
from jaxunlearn.unlearn._l2unrank_rows import Examples, Scalars, Static, System, Tables, take


class Report(NamedTuple):
  """How the solve went: scalars on the device."""

  residual_norm: jax.Array
  iterations: jax.Array
  code: jax.Array
  curvature: jax.Array
  capped: jax.Array  # rows whose change was shortened
  change: jax.Array  # norm of the whole step


@functools.partial(jax.jit, static_argnames=("static",))
@jax.default_matmul_precision("highest")  # conjugate gradient stalls on TF32
def influence_step(
  key: jax.Array,
  params: Params,
  before: Context,
  after: Context,
  system: System,
  scalars: Scalars,
  *,
  static: Static,
) -> tuple[Tables, Report]:
  """θ' = θ + step · (H_w + damping)⁻¹ g_w on the rows of the scope; both tables, other rows bit by bit as they were.

  g_w = ∇ Σ_{D_f} w ℓ and H_w = ∇² Σ_{S_p} w ℓ are sums, both with the training's own L2 term, so the ratio n_f / n_r
  of the two means is in the equation by itself. H_w is taken where wholly forgotten users and items are zero; such a
  user stays there, and such an item makes a Newton step on the retained loss from there.

  Args:
    key: of the negatives.
    params: with the tables "user" and "item".
    before: context with the forgotten pairs.
    after: context without them.
    system: the request.
    scalars: numbers.
    static: what to compile for.
  """
  forget_key, support_key = jax.random.split(key)
  tables = (params["user"], params["item"])
  cleared = tuple(
    jnp.where(gone[:, None] > 0, 0.0, table)
    for table, gone in zip(tables, (system.gone_user, system.gone_item), strict=True)
  )
  places = (system.user_rows, system.item_rows)
  own, start = (_pair(take(t, rows) for t, rows in zip(both, places, strict=True)) for both in (tables, cleared))
  gone_item = take(system.gone_item, system.item_rows)[:, None] > 0
  forget_items = rows_of.with_negatives(forget_key, system.forget, system.known, static.num_negatives)
  support_items = rows_of.with_negatives(support_key, system.support, system.known, static.curvature_negatives)
  kept = {"params": params, "scalars": scalars, "static": static}
  gradient, curvature, diagonal = (
    functools.partial(f, **kept) for f in (rows_of.gradient, rows_of.curvature, rows_of.diagonal)
  )

  def encode(moving: Tables, held: tuple[jax.Array, ...], context: Context) -> Tables:
    """Layer-0 rows of the scope -> vectors of all nodes, the other rows held where they are."""
    user, item = (t.at[rows].set(new, mode="drop") for t, rows, new in zip(held, places, moving, strict=True))
    return _pair(static.model.encode({**params, "user": user, "item": item}, context))

  slots: Tables = (system.user_slot, system.item_slot)
  like = own
  vectors = _pair(cleared)
  if static.propagates:
    slots = _pair(jnp.arange(table.shape[0], dtype=jnp.int32) for table in tables)
    like, vectors = tables, encode(start, cleared, after)

  def pulled_back(
    examples: Examples, items: jax.Array, at: Tables, held: tuple[jax.Array, ...], context: Context
  ) -> Tables:
    """Gradient of the sum of the examples' losses in the rows that move."""
    if not static.propagates:
      return rows_of.sum_over_rows(gradient, examples, items, _pair(held), slots, like, None)
    nodes, pull = jax.vjp(lambda moving: encode(moving, held, context), at)
    return cast(Tables, pull(rows_of.sum_over_rows(gradient, examples, items, nodes, slots, like, None))[0])

  mass = rows_of.mass_of(system.support, support_items, system)
  mass_forget = rows_of.mass_of(system.forget, forget_items, system)
  rhs = pulled_back(system.forget, forget_items, own, tables, before)
  if static.propagates and static.spillover:
    # The retained pairs' loss changes with the graph as well.
    with_pairs, without = (pulled_back(system.support, support_items, own, tables, c) for c in (before, after))
    rhs = _add(rhs, _add(with_pairs, without, -1.0))
  rhs = _pair(g + scalars.l2 * m[:, None] * row for g, m, row in zip(rhs, mass_forget, own, strict=True))
  ridge = _pair(scalars.l2 * m + scalars.damping * jnp.maximum(m, f) for m, f in zip(mass, mass_forget, strict=True))
  grams: Tables | None = None
  if static.loss == "squares":
    present, left = (tables[0] * mask[:, None] for mask in (system.present, system.gone_user))
    grams = present.T @ present, cleared[1].T @ cleared[1]
    # A user who is wholly forgotten is no row of the loss any more, so its unobserved entries leave too.
    rhs = rhs[0], rhs[1] + 2.0 * scalars.unobserved * (own[1] @ (left.T @ left))
  # A wholly forgotten item's row holds what the forgotten pairs taught it, so it is placed anew, as a negative only.
  again = system.support.replace(count=jnp.where(jnp.any(gone_item), system.support.count, 0))
  rhs = rhs[0], jnp.where(gone_item, -pulled_back(again, support_items, start, cleared, after)[1], rhs[1])

  def product(vector: Tables) -> Tables:
    moved = vector
    if static.propagates:
      moved = jax.jvp(lambda m: encode(m, cleared, after), (start,), (vector,))[1]
    out = rows_of.sum_over_rows(curvature, system.support, support_items, vectors, slots, like, moved)
    if static.propagates:
      out = jax.vjp(lambda m: encode(m, cleared, after), start)[1](out)[0]
    if grams is not None:
      crossed = vector[0].T @ start[0], vector[1].T @ start[1]
      if static.exact:
        crossed = crossed[0] + crossed[0].T, crossed[1] + crossed[1].T
      whole = (
        vector[0] @ grams[1] + start[0] @ crossed[1],
        vector[1] @ grams[0] + start[1] @ crossed[0],
      )
      out = _add(out, whole, 2.0 * scalars.unobserved)
    return _pair(o + r[:, None] * v for o, r, v in zip(out, ridge, vector, strict=True))

  diag = rows_of.sum_over_rows(diagonal, system.support, support_items, vectors, slots, like, None)
  if static.propagates:
    diag = _pair(take(d, rows) for d, rows in zip(diag, places, strict=True))
  if grams is not None:
    diag = _add(diag, (jnp.diagonal(grams[1])[None, :], jnp.diagonal(grams[0])[None, :]), 2.0 * scalars.unobserved)
  solved = conjugate_gradient(
    product,
    rhs,
    preconditioner=diagonal_preconditioner(_pair(d + r[:, None] for d, r in zip(diag, ridge, strict=True))),
    max_iterations=scalars.max_iterations,
    tolerance=scalars.tolerance,
  )
  size = _pair(jnp.linalg.norm(x, axis=1) * scalars.step for x in solved.x)
  limit = _pair(scalars.row_cap * jnp.linalg.norm(row, axis=1) for row in own)
  shrink = _pair(jnp.minimum(1.0, most / jnp.maximum(s, 1e-30)) for s, most in zip(size, limit, strict=True))
  change = _pair(scalars.step * c[:, None] * x for c, x in zip(shrink, solved.x, strict=True))
  moved = _pair(
    table.at[rows].set(row + delta, mode="drop")
    for table, rows, row, delta in zip(cleared, places, start, change, strict=True)
  )
  report = Report(
    solved.residual_norm,
    solved.iterations,
    solved.code,
    solved.curvature,
    sum((jnp.sum(s > most, dtype=jnp.int32) for s, most in zip(size, limit, strict=True)), jnp.zeros((), jnp.int32)),
    jnp.sqrt(sum((jnp.sum(jnp.square(delta)) for delta in change), jnp.zeros(()))),
  )
  return moved, report


def _pair(parts: object) -> Tables:
  user, item = cast(Tables, parts)
  return user, item


def _add(a: Tables, b: Tables, scale: jax.Array | float = 1.0) -> Tables:
  return a[0] + scale * b[0], a[1] + scale * b[1]
