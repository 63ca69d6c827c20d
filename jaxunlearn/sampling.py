"""Batches drawn on the device: epoch orders, negatives, user blocks. Pure functions of a key and the data.

Nothing here depends on the capacity that the data are padded to, only on the pairs themselves: the same key over
the same pairs draws the same batches before and after a repacking, which exact unlearning needs.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.base import Batch
from jaxunlearn.data.interactions import Interactions, PaddedInteractions

_BLOCK_DRAWS = 1 << 17  # negatives that are drawn at once: a few MB of intermediate values
_ROUNDS = 8  # even, so that the two halves of a Feistel network end with the widths they began with


def _mix(x: jax.Array) -> jax.Array:
  """A 32-bit finaliser (Murmur3's): every input bit moves every output bit."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
  return x ^ (x >> 16)


@functools.partial(jax.jit, static_argnames=("capacity",))
def epoch_order(key: jax.Array, count: jax.Array, capacity: int) -> jax.Array:
  """A pseudo-random permutation of 0 … count − 1, as int32 [capacity]; slots from `count` on are 0.

  A keyed Feistel network over the smallest power-of-two domain that holds `count` permutes that domain; what falls
  beyond `count` is squeezed out with a prefix sum. It costs two passes over the indices, where sorting random keys
  costs 0.3 s for 10⁶ rows on a CPU (BUILD_NOTES, "Sampling").

  Args:
    key: PRNG key.
    count: int32 scalar, may be traced; at most `capacity`.
    capacity: static length of the result.
  """
  bits = jnp.maximum(2, jnp.ceil(jnp.log2(jnp.maximum(count, 2).astype(jnp.float32))).astype(jnp.uint32))
  # float32 log2 is exact at powers of two only up to rounding; one more bit is safe below the capacity, one less never.
  bits = jnp.where((jnp.uint32(1) << bits) < count.astype(jnp.uint32), bits + 1, bits)
  low = bits // 2
  high = bits - low
  index = jnp.arange(1 << max(2, (capacity - 1).bit_length()), dtype=jnp.uint32)  # the whole domain, or more
  left, right, left_bits, right_bits = index >> low, index & ((jnp.uint32(1) << low) - 1), high, low
  for round_key in jax.random.bits(key, (_ROUNDS,), jnp.uint32):
    mixed = _mix(right + round_key) & ((jnp.uint32(1) << left_bits) - 1)
    left, right, left_bits, right_bits = right, left ^ mixed, right_bits, left_bits
  permuted = ((left << low) | right).astype(jnp.int32)
  kept = (index < (jnp.uint32(1) << bits)) & (permuted < count)
  slot = jnp.where(kept, jnp.cumsum(kept.astype(jnp.int32)) - 1, capacity)
  return jnp.zeros(capacity, jnp.int32).at[slot].set(permuted, mode="drop")


def _scaled(bits: jax.Array, size: jax.Array) -> jax.Array:
  """⌊bits · size / 2³²⌋: uniform numbers below `size` from uniform bits, to within size / 2³² (10⁻⁵ for 40,981 items).

  One draw a number, where `jax.random.randint` takes two and a division: half of the time of an epoch's negatives.
  """
  size = size.astype(jnp.uint32)
  low = (bits & 0xFFFF) * (size & 0xFFFF)  # products of 16-bit halves: there is no 64-bit product without x64
  cross = (bits >> 16) * (size & 0xFFFF) + (low >> 16)  # < 2³²: (2¹⁶ − 1)² + 2¹⁶ − 1
  other = (bits & 0xFFFF) * (size >> 16) + (cross & 0xFFFF)
  return ((bits >> 16) * (size >> 16) + (cross >> 16) + (other >> 16)).astype(jnp.int32)


def _nth_absent(data: PaddedInteractions, users: jax.Array, nth: jax.Array) -> jax.Array:
  """The `nth` (from 0) item, in ascending order, that the user has no pair with. Shapes broadcast."""
  start = data.indptr[users]
  degree = data.indptr[users + 1] - start
  # Positives p_0 < p_1 < …: before p_t lie p_t − t absent items, non-decreasing in t. The answer is nth plus the
  # number of positives with p_t − t <= nth, found bit by bit from the highest: a bisection with one bound.
  rounds = 32 - jax.lax.clz(jnp.max(degree).astype(jnp.int32))

  def halve(round_: jax.Array, found: jax.Array) -> jax.Array:
    # `found` positives are known to come before the answer; asks for twice as many more as the next round will.
    stride = jnp.int32(1) << (rounds - 1 - round_)
    last = found + stride - 1
    at = jnp.minimum(start + last, data.item.shape[0] - 1)
    before = (last < degree) & (data.item.at[at].get(mode="promise_in_bounds") - last <= nth)
    return jnp.where(before, found + stride, found)

  return nth + jax.lax.fori_loop(0, rounds, halve, jnp.zeros_like(nth))


class Pool(NamedTuple):
  """The items that negatives are drawn from, where that is not all of them.

  Attributes:
    items: int32 [num_items], ascending positions of the pool's items, then padding.
    size: int32 scalar.
    rank: int32 [num_items], the place of each of them in `items`.
  """

  items: jax.Array
  size: jax.Array
  rank: jax.Array


def present_items(interactions: Interactions) -> Pool:
  """The items that have a pair: all that a shard can compare."""
  present = interactions.item_degrees() > 0
  items = np.zeros(interactions.num_items, np.int32)
  found = np.flatnonzero(present)
  items[: found.size] = found
  rank = np.maximum(np.cumsum(present) - 1, 0).astype(np.int32)
  return Pool(jnp.asarray(items), jnp.int32(found.size), jnp.asarray(rank))


@functools.partial(jax.jit, static_argnames=("num_negatives",))
def sample_negatives(
  key: jax.Array, data: PaddedInteractions, users: jax.Array, num_negatives: int, size: jax.Array | None = None
) -> jax.Array:
  """Items drawn uniformly from those the user has no pair with: exact, without rejection.

  A uniform rank among the user's absent items is drawn and that item is found by bisection in the user's sorted
  row, so a positive is never returned. A user who has every item gets item 0; mask such users by their degree.

  Args:
    key: PRNG key.
    data: the pairs to avoid.
    users: int32 [B], positions.
    num_negatives: static number of draws a user, with replacement.
    size: the items are 0 … size − 1; all when None.

  Returns:
    int32 [B, num_negatives].
  """
  degree = data.indptr[users + 1] - data.indptr[users]
  size = jnp.int32(data.num_items) if size is None else size
  absent = jnp.maximum(size - degree, 1)
  nth = _scaled(jax.random.bits(key, (users.shape[0], num_negatives), jnp.uint32), absent[:, None])
  drawn = _nth_absent(data, users[:, None], nth)
  return jnp.where((degree < size)[:, None], drawn, 0)


def _places(order: jax.Array, step: jax.Array, batch_size: int) -> jax.Array:
  """The pairs of batch number `step`, the first of `order` where it has no more: int32 [batch_size]."""
  slot = step * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
  return order[jnp.minimum(slot, order.shape[0] - 1)]


def _ranked(data: PaddedInteractions, pool: Pool | None) -> PaddedInteractions:
  """The pairs with items by their rank in the pool; ranks ascend as positions do, so a user's row stays sorted."""
  return data if pool is None else data.replace(item=pool.rank[data.item])


def _negatives(
  key: jax.Array, ranked: PaddedInteractions, users: jax.Array, num_negatives: int, avoid_positives: bool,
  pool: Pool | None,
) -> jax.Array:  # fmt: skip
  """Negatives of the given users, absent from their `ranked` pairs: int32 [B, num_negatives]."""
  size = jnp.int32(ranked.num_items) if pool is None else pool.size
  if avoid_positives:
    negative = sample_negatives(key, ranked, users, num_negatives, size)
  else:
    negative = jax.random.randint(key, (users.shape[0], num_negatives), 0, size, jnp.int32)
  return negative if pool is None else pool.items[negative]


def epoch_negatives(
  key: jax.Array,
  data: PaddedInteractions,
  order: jax.Array,
  *,
  batch_size: int,
  num_negatives: int,
  avoid_positives: bool = True,
  pool: Pool | None = None,
  known: PaddedInteractions | None = None,
) -> jax.Array:
  """The negatives of all batches of an epoch, step by step those that `pairwise_batch` draws.

  Many steps' draws in one operation keep all cores busy where one step's do not: a tenth of a BPR-MF epoch
  (BUILD_NOTES, "Speed").

  Args:
    key: PRNG key of the epoch; that of batch number t is folded with t.
    data: the training pairs.
    order: from `epoch_order`.
    batch_size: static; there are as many steps as fill the capacity, those beyond the last pair mean nothing.
    num_negatives: static.
    avoid_positives: as for `pairwise_batch`.
    pool: likewise.
    known: likewise.

  Returns:
    int32 [steps, batch_size, num_negatives].
  """
  ranked = _ranked(data if known is None else known, pool)

  def draw(step: jax.Array) -> jax.Array:
    users = data.user[_places(order, step, batch_size)]
    return _negatives(jax.random.fold_in(key, step), ranked, users, num_negatives, avoid_positives, pool)

  num_steps = -(-order.shape[0] // batch_size)
  block = min(num_steps, max(1, _BLOCK_DRAWS // (batch_size * num_negatives)))
  return jax.lax.map(draw, jnp.arange(num_steps, dtype=jnp.int32), batch_size=block)


def pairwise_batch(
  key: jax.Array,
  data: PaddedInteractions,
  order: jax.Array,
  step: jax.Array,
  *,
  batch_size: int,
  num_negatives: int,
  avoid_positives: bool = True,
  pool: Pool | None = None,
  known: PaddedInteractions | None = None,
  negative: jax.Array | None = None,
) -> Batch:
  """Batch number `step` of an epoch: `batch_size` pairs in `order`, each with its negatives.

  Args:
    key: PRNG key of this step.
    data: the training pairs.
    order: from `epoch_order`.
    step: int32 scalar.
    batch_size: static.
    num_negatives: static.
    avoid_positives: draw negatives from the user's absent items only; False draws from all items, as LightUL does.
    pool: the items that negatives are drawn from; all when None.
    known: the pairs that negatives avoid, over the same axes and of items in the pool only; `data` when None.
    negative: the negatives, drawn before (`epoch_negatives`); drawn now when None.

  Returns:
    A Batch; slots beyond the last pair, and users who have every item, weigh 0.
  """
  place = _places(order, step, batch_size)
  user = data.user[place]
  slot = step * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
  weight = (slot < data.count).astype(jnp.float32)
  avoided = data if known is None else known
  if avoid_positives:
    weight *= avoided.indptr[user + 1] - avoided.indptr[user] < (data.num_items if pool is None else pool.size)
  if negative is None:
    negative = _negatives(key, _ranked(avoided, pool), user, num_negatives, avoid_positives, pool)
  return Batch(user=user, positive=data.item[place], negative=negative, weight=weight)


class Strata(NamedTuple):
  """Users in strata of equal degree, for batches that take one user of each.

  Attributes:
    users: int32 [batch_size, capacity], a stratum a row; −1 for padding.
    num_batches: int32 scalar, the columns in use; capacity is a power of two, so that a deletion or another shard
      changes a number and not a shape.
  """

  users: jax.Array
  num_batches: jax.Array


def user_strata(interactions: Interactions, batch_size: int) -> tuple[Strata, int]:
  """Users cut into `batch_size` strata of equal degree, and the most pairs that one user of each can have.

  A batch that takes one user of every stratum has nearly the mean number of pairs, whatever the draw: the bound is
  at most that mean plus the largest degree. So a static shape holds every batch, with little padding and nothing
  truncated. Users without a pair are left out.

  Args:
    interactions: the training pairs.
    batch_size: users a batch.

  Returns:
    The strata; and the bound, rounded up to 1/8 of a power of two so that a deletion seldom changes it.
  """
  degree = interactions.user_degrees()
  active = np.flatnonzero(degree)
  active = active[np.argsort(-degree[active], kind="stable")]
  num_batches = -(-active.size // batch_size)
  padded = np.full(batch_size * num_batches, -1, np.int32)
  padded[: active.size] = active
  users = np.full((batch_size, 1 << max(2, max(0, num_batches - 1).bit_length())), -1, np.int32)
  users[:, :num_batches] = padded.reshape(batch_size, num_batches)
  bound = int(degree[users[:, 0]][users[:, 0] >= 0].sum())
  grain = max(64, 1 << max(0, bound.bit_length() - 3))
  return Strata(jnp.asarray(users), jnp.int32(num_batches)), -(-max(bound, 1) // grain) * grain


def shuffle_strata(key: jax.Array, strata: Strata) -> jax.Array:
  """Permutes each stratum on its own, int32 [batch_size, capacity]; column b is then batch b, if b < num_batches."""
  rows, capacity = strata.users.shape
  order = jax.vmap(lambda key: epoch_order(key, strata.num_batches, capacity))(jax.random.split(key, rows))
  return jnp.take_along_axis(strata.users, order, axis=1)


def users_batch(data: PaddedInteractions, users: jax.Array, num_pairs: int) -> Batch:
  """All pairs of the given users, flat.

  Args:
    data: the training pairs.
    users: int32 [B], −1 for padding.
    num_pairs: static capacity, the bound of `user_strata`.

  Returns:
    A Batch with `row` and `positive` of length `num_pairs`.
  """
  present = users >= 0
  safe = jnp.maximum(users, 0)
  degree = jnp.where(present, data.indptr[safe + 1] - data.indptr[safe], 0)
  end = jnp.cumsum(degree)
  slot = jnp.arange(num_pairs, dtype=jnp.int32)
  row = jnp.minimum(jnp.searchsorted(end, slot, side="right"), users.shape[0] - 1).astype(jnp.int32)
  at = data.indptr[safe[row]] + slot - (end[row] - degree[row])
  real = slot < end[-1]
  return Batch(
    user=safe,
    positive=data.item[jnp.where(real, at, 0)],
    negative=jnp.zeros((0,), jnp.int32),
    weight=present.astype(jnp.float32),
    row=row,
    pair_weight=real.astype(jnp.float32),
  )
