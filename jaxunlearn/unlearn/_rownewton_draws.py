"""The draws of `rownewton`: negatives of users, and examples that draw an item as a negative."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import struct

from jaxunlearn.data.interactions import PaddedInteractions
from jaxunlearn.sampling import sample_negatives

if TYPE_CHECKING:
  from jaxunlearn.unlearn._rownewton_terms import Problem, Static

_ROWS_AT_ONCE = 512  # rows whose draws as a negative are made together
_TINY = 1e-12


def contains(data: PaddedInteractions, users: jax.Array, items: jax.Array) -> jax.Array:
  """bool: whether (user, item) is among the pairs; the two broadcast. A bisection in the user's sorted row."""
  low = data.indptr[users]
  high = data.indptr[users + 1]
  rounds = 32 - jax.lax.clz(jnp.max(high - low).astype(jnp.int32))
  shape = jnp.broadcast_shapes(users.shape, items.shape)
  end = jnp.broadcast_to(high, shape)

  def halve(_: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    low, high = bounds
    middle = (low + high) // 2
    before = (middle < high) & (data.item[jnp.minimum(middle, data.capacity - 1)] < items)
    return jnp.where(before, middle + 1, low), jnp.where(before, high, middle)

  found, _ = jax.lax.fori_loop(0, rounds + 1, halve, (jnp.broadcast_to(low, shape), end))
  return (found < end) & (data.item[jnp.minimum(found, data.capacity - 1)] == items)


def draw_absent(key: jax.Array, data: PaddedInteractions, users: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
  """Items a user has no pair with, and their weights, which sum to 1: `count` draws, or all items when count reaches.

  Args:
    key: PRNG key.
    data: the pairs.
    users: int32 [B].
    count: static; at num_items and above the expectation is exact.

  Returns:
    int32 [B, n], float32 [B, n], with n = min(count, num_items).
  """
  if count >= data.num_items:
    items = jnp.broadcast_to(jnp.arange(data.num_items, dtype=jnp.int32), (users.shape[0], data.num_items))
    absent = ~contains(data, users[:, None], items)
    return items, absent / jnp.maximum(jnp.sum(absent, axis=1, keepdims=True), 1)
  items = sample_negatives(key, data, users, count)
  some = (data.indptr[users + 1] - data.indptr[users] < data.num_items).astype(jnp.float32)
  return items, jnp.broadcast_to(some[:, None] / count, items.shape)


def num_examples(static: Static, degree: jax.Array, chunk: int) -> jax.Array:
  """int32, like `degree`: draws in all for the block of a user with so many pairs, by the bpr loss.

  At least one a pair, then as many as come for nothing, which is up to a whole chunk, or as `row_negatives` asks for;
  never more than 2 · num_negatives a pair.
  What a block lacks in draws makes its step too long, by about d / draws: it is the small rows that are short of them.
  """
  whole = (degree + chunk - 1) // chunk * chunk
  return jnp.minimum(2 * static.num_negatives * degree, jnp.maximum(whole, static.row_negatives))


def pair_of(place: jax.Array, total: jax.Array, degree: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Which of `degree` pairs draw number `place` of `total` belongs to, and how many that pair has, as even as can be.

  All int32, broadcast; total ≥ degree. Beyond `total` the pair is `degree` or more.
  """
  degree = jnp.maximum(degree, 1)
  low = jnp.maximum(total // degree, 1)
  longer = total - low * degree  # so many pairs, the first ones, have a draw more
  within = longer * (low + 1)
  first = place < within
  pair = jnp.where(first, place // (low + 1), longer + (place - within) // low)
  return pair, jnp.where(first, low + 1, low)


def draw_pairs(key: jax.Array, count: jax.Array, shape: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
  """Rows of a pair list [*shape] and how many pairs each stands for: drawn, or all of them where they fit."""
  rows = jax.random.randint(key, shape, 0, jnp.maximum(count, 1), jnp.int32)
  every = jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.int32), shape)
  fits = count <= shape[1]
  stands_for = jnp.where(fits, (every < count).astype(jnp.float32), count / shape[1])
  return jnp.where(fits, jnp.minimum(every, jnp.maximum(count - 1, 0)), rows), stands_for


def num_absent(data: PaddedInteractions) -> jax.Array:
  """int32 [num_users]: items that a user has no pair with."""
  return data.num_items - jnp.diff(data.indptr)


class Drawn(struct.PyTreeNode):
  """Examples that draw a row as a negative, all [rows, item_draws]: their pairs, weights, and weights before ÷ now."""

  user: jax.Array
  positive: jax.Array
  weight: jax.Array
  ratio: jax.Array


def item_draws(
  key: jax.Array, static: Static, problem: Problem, items: jax.Array, count: jax.Array
) -> tuple[Drawn, Drawn]:
  """Draws of the first `count` of `items` (int32 [capacity]) from the retained and from the forgotten pairs.

  For many rows at once, since the bisections that tell pairs apart are loops of small steps: for a tile at a time they
  took as long as its blocks.
  """
  data, known, forget = problem.retained, problem.known, problem.forget
  ratio_of = problem.user_weight / jnp.maximum(problem.new_weight, _TINY)
  absent_now, absent_before = num_absent(data), jnp.maximum(num_absent(known), 1)
  step = min(_ROWS_AT_ONCE, items.shape[0])
  size = -(-items.shape[0] // step) * step
  index = jnp.pad(items, (0, size - items.shape[0]))

  def some(at: jax.Array, kept: tuple[Drawn, Drawn]) -> tuple[Drawn, Drawn]:
    row = jax.lax.dynamic_slice_in_dim(index, at * step, step)
    keys = jax.random.split(jax.random.fold_in(key, at))
    pair, stands_for = draw_pairs(keys[0], data.count, (step, static.item_draws))
    users = data.user[pair]
    absent = ~contains(data, users, row[:, None])
    # A forgotten item is new among its user's negatives: that is part of `gone`, so here it is as it was before.
    was_absent = ~contains(known, users, row[:, None])
    retained = Drawn(
      user=users,
      positive=data.item[pair],
      weight=stands_for * absent * problem.new_weight[users] / jnp.maximum(absent_now[users], 1),
      ratio=jnp.where(was_absent, ratio_of[users] * absent_now[users] / absent_before[users], 1.0),
    )
    pair, stands_for = draw_pairs(keys[1], forget.count, (step, static.item_draws))
    users = forget.user[pair]
    absent = ~contains(known, users, row[:, None])
    weight = stands_for * absent * problem.user_weight[users] / absent_before[users]
    lost = Drawn(user=users, positive=forget.item[pair], weight=weight, ratio=jnp.ones_like(weight))
    return jax.tree.map(
      lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, at * step, 0), kept, (retained, lost)
    )

  shape = (size, static.item_draws)
  empty = Drawn(*(jnp.zeros(shape, jnp.int32),) * 2, *(jnp.zeros(shape),) * 2)
  return jax.lax.fori_loop(0, (count + step - 1) // step, some, (empty, empty))
