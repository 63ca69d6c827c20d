"""One request of L2UnRank as arrays, and sums over its examples of what gathered rows give: gradient, curvature."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxunlearn.base import Model, Params
from jaxunlearn.data.interactions import PaddedInteractions
from jaxunlearn.linalg import gauss_newton_product, hvp
from jaxunlearn.sampling import sample_negatives

BLOCK = 1024  # examples whose rows are held at once; capacities are multiples of it or smaller


class Examples(struct.PyTreeNode):
  """Pairs with weights, padded to a capacity; programs loop over the blocks that `count` fills, and no more.

  Attributes:
    user: int32 [C].
    positive: int32 [C].
    negative: int32 [C], the one negative, or −1 to draw them.
    weight: float32 [C], the pair's weight in the sum of losses.
    count: int32 scalar.
  """

  user: jax.Array
  positive: jax.Array
  negative: jax.Array
  weight: jax.Array
  count: jax.Array


class System(struct.PyTreeNode):
  """One request; M rows of each table may move, which is all that conjugate gradient sees.

  Attributes:
    user_rows: int32 [M_u], rows that move; padding is num_users, out of range.
    item_rows: int32 [M_i], likewise.
    user_slot: int32 [num_users], place of a row among those that move, M_u for all others.
    item_slot: int32 [num_items], likewise.
    forget: forgotten pairs.
    support: retained pairs (S_p) that the Hessian is taken on.
    present: float32 [num_users], 1 for users with a retained pair.
    gone_user: float32 [num_users], 1 for users whose pairs are all forgotten.
    gone_item: float32 [num_items], 1 for items whose pairs are all forgotten.
    known: retained and forgotten pairs; negatives are drawn outside them.
  """

  user_rows: jax.Array
  item_rows: jax.Array
  user_slot: jax.Array
  item_slot: jax.Array
  forget: Examples
  support: Examples
  present: jax.Array
  gone_user: jax.Array
  gone_item: jax.Array
  known: PaddedInteractions


class Scalars(NamedTuple):
  """Numbers of the step; arguments, so that another value costs no compilation."""

  l2: jax.Array
  damping: jax.Array
  step: jax.Array
  row_cap: jax.Array
  unobserved: jax.Array
  train_negatives: jax.Array
  tolerance: jax.Array
  max_iterations: jax.Array


class Static(NamedTuple):
  """What a program is compiled for."""

  model: Model
  loss: str  # bpr, bce, squares
  squash: bool
  num_negatives: int
  curvature_negatives: int
  exact: bool
  propagates: bool
  spillover: bool


Rows = tuple[jax.Array, jax.Array]  # user rows [B, d]; item rows [B, 1 + S, d], the positive first
Tables = tuple[jax.Array, jax.Array]


def outputs_of(rows: Rows, params: Params, static: Static) -> jax.Array:
  """What the loss is a convex function of: margins [B, S] (bpr), logits [B, 1 + S] (bce), scores [B, 1] (squares)."""
  scores = static.model.score(params, rows[0][:, None, :], rows[1])
  if static.loss != "bpr":
    return scores
  if static.squash:
    scores = jax.nn.sigmoid(scores)
  return scores[:, :1] - scores[:, 1:]


def outer_loss(outputs: jax.Array, weight: jax.Array, scalars: Scalars, static: Static) -> jax.Array:
  """Σ weight · ℓ, the sum of training losses without their L2 term."""
  if static.loss == "squares":
    # A pair that is no longer observed still counts as unobserved: c₀ ŷ² stays.
    values = (1.0 - scalars.unobserved) * jnp.square(outputs[:, 0]) - 2.0 * outputs[:, 0]
  elif static.loss == "bce":
    negative = jnp.mean(jax.nn.softplus(outputs[:, 1:]), axis=1)
    values = (jax.nn.softplus(-outputs[:, 0]) + scalars.train_negatives * negative) / (1.0 + scalars.train_negatives)
  else:
    values = jnp.mean(jax.nn.softplus(-outputs), axis=1)
  return jnp.sum(weight * values)


def _block(examples: Examples, items: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """User, items [B, 1 + S] and weight of one block; weight 0 beyond the last example."""
  size = min(BLOCK, examples.user.shape[0])

  def part(array: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(array, index * size, size)

  real = index * size + jnp.arange(size, dtype=jnp.int32) < examples.count
  return part(examples.user), part(items), jnp.where(real, part(examples.weight), 0.0)


def _num_blocks(examples: Examples) -> jax.Array:
  size = min(BLOCK, examples.user.shape[0])
  return (examples.count + size - 1) // size


def with_negatives(key: jax.Array, examples: Examples, known: PaddedInteractions, num_negatives: int) -> jax.Array:
  """int32 [C, 1 + S], the positive and the negatives, which stay the same through the whole solve."""
  size = min(BLOCK, examples.user.shape[0])

  def draw(index: jax.Array, drawn: jax.Array) -> jax.Array:
    at = index * size
    user = jax.lax.dynamic_slice_in_dim(examples.user, at, size)
    fixed = jax.lax.dynamic_slice_in_dim(examples.negative, at, size)[:, None]
    found = sample_negatives(jax.random.fold_in(key, index), known, user, num_negatives)
    return jax.lax.dynamic_update_slice_in_dim(drawn, jnp.where(fixed >= 0, fixed, found), at, axis=0)

  empty = jnp.zeros((examples.user.shape[0], num_negatives), jnp.int32)
  drawn = jax.lax.fori_loop(0, _num_blocks(examples), draw, empty) if num_negatives else empty
  return jnp.concatenate([examples.positive[:, None], drawn], axis=1)


def take(table: jax.Array, slots: jax.Array) -> jax.Array:
  """Rows of `table` [R, d] at `slots`; zeros where a slot is out of range, which is where rows do not move."""
  return table.at[slots].get(mode="fill", fill_value=0.0)


def gradient(
  rows: Rows, moved: Rows | None, weight: jax.Array, params: Params, scalars: Scalars, static: Static
) -> Rows:
  """∇ Σ weight · ℓ in the rows of a block."""
  del moved
  return jax.grad(lambda r: outer_loss(outputs_of(r, params, static), weight, scalars, static))(rows)


def curvature(
  rows: Rows, moved: Rows | None, weight: jax.Array, params: Params, scalars: Scalars, static: Static
) -> Rows:
  """Gauss-Newton matrix (or Hessian) of Σ weight · ℓ in the rows of a block, times how the rows are moved."""

  def outer(z: jax.Array) -> jax.Array:
    return outer_loss(z, weight, scalars, static)

  if static.exact:
    return hvp(lambda r: outer(outputs_of(r, params, static)), rows, moved)
  return gauss_newton_product(lambda r: outputs_of(r, params, static), outer, rows, moved)


def diagonal(
  rows: Rows, moved: Rows | None, weight: jax.Array, params: Params, scalars: Scalars, static: Static
) -> Rows:
  """Of the Gauss-Newton matrix: Σ ∂²outer/∂z² (∂z/∂row)², for the outer losses are sums over the entries of z."""
  del moved
  z = outputs_of(rows, params, static)
  bent = jax.jvp(jax.grad(lambda x: outer_loss(x, weight, scalars, static)), (z,), (jnp.ones_like(z),))[1]
  if static.loss == "bpr" and static.model.inner_product and not static.squash:
    user, item = jnp.square(rows[0]), jnp.square(rows[1][:, :1] - rows[1][:, 1:])
    by_negative = bent[:, :, None] * user[:, None, :]
    positive = jnp.sum(by_negative, axis=1, keepdims=True)
    return jnp.sum(bent[:, :, None] * item, axis=1), jnp.concatenate([positive, by_negative], axis=1)

  def of_one(user: jax.Array, item: jax.Array) -> jax.Array:
    return outputs_of((user[None], item[None]), params, static)[0]

  by_user, by_item = jax.vmap(jax.jacrev(of_one, argnums=(0, 1)))(*rows)
  return jnp.einsum("bs,bsd->bd", bent, jnp.square(by_user)), jnp.einsum("bs,bsnd->bnd", bent, jnp.square(by_item))


def sum_over_rows(
  of_rows: Callable[[Rows, Rows | None, jax.Array], Rows],
  examples: Examples,
  items: jax.Array,
  vectors: Tables,
  slots: Tables,
  like: Tables,
  tangent: Tables | None,
) -> Tables:
  """Σ over examples of what `of_rows` gives for their rows, scattered to slots; gathered rows, no table-sized work."""

  def add(index: jax.Array, total: Tables) -> Tables:
    user, item, weight = _block(examples, items, index)
    rows = (vectors[0][user], vectors[1][item])
    at = (slots[0][user], slots[1][item])
    moved = None if tangent is None else (take(tangent[0], at[0]), take(tangent[1], at[1]))
    user_part, item_part = of_rows(rows, moved, weight)
    return total[0].at[at[0]].add(user_part, mode="drop"), total[1].at[at[1]].add(item_part, mode="drop")

  return jax.lax.fori_loop(0, _num_blocks(examples), add, (jnp.zeros_like(like[0]), jnp.zeros_like(like[1])))


def mass_of(examples: Examples, items: jax.Array, system: System) -> Tables:
  """Weight of the examples that each moving row takes part in, a negative counting 1 / S: its share of the L2 term."""
  num_negatives = items.shape[1] - 1
  share = jnp.concatenate([jnp.ones(1), jnp.full(num_negatives, 1.0 / max(1, num_negatives))])

  def add(index: jax.Array, total: Tables) -> Tables:
    user, item, weight = _block(examples, items, index)
    at = (system.user_slot[user], system.item_slot[item])
    return (
      total[0].at[at[0]].add(weight, mode="drop"),
      total[1].at[at[1]].add(weight[:, None] * share[None, :], mode="drop"),
    )

  start = (jnp.zeros(system.user_rows.shape[0]), jnp.zeros(system.item_rows.shape[0]))
  return jax.lax.fori_loop(0, _num_blocks(examples), add, start)
