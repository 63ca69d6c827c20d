"""The rows that shards have something to say about, without the others: what an attention over shards computes on.

With RecEraser's partitions a user has pairs in one shard (UBP) or in four of ten (InBP). A transfer map over [K, n, d]
spends the rest of its work on zeros. Here the present rows of each shard lie in blocks of a fixed height, each block in
one shard, so that one batched product maps them all.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

BLOCK = 256  # rows of a block: a shard wastes half a block on average


class PresentRows(struct.PyTreeNode):
  """Present rows of a stack of K tables with n rows, as B blocks of `BLOCK`.

  Attributes:
    vectors: float [B, BLOCK, d]; zeros in padding.
    row: int32 [B, BLOCK], the row of each; n in padding.
    shard: int32 [B], whose rows a block holds.
    anywhere: bool [n], present in some shard.
  """

  vectors: jax.Array
  row: jax.Array
  shard: jax.Array
  anywhere: jax.Array


def pack(vectors: jax.Array, present: jax.Array) -> PresentRows:
  """Packs [K, n, d] vectors by bool [K, n].

  The number of blocks is that of the present rows rounded up to 4 %, so that a deletion seldom changes a shape.
  """
  inside = np.asarray(present)
  num_shards, num_rows = inside.shape
  count = inside.sum(axis=1)
  blocks = -(-count // BLOCK)
  total = int(blocks.sum())
  step = max(1, int(0.04 * total))
  padded = -(-total // step) * step
  first = np.concatenate([[0], np.cumsum(blocks)])[:-1] * BLOCK
  shard, row = np.nonzero(inside)
  at = first[shard] + np.arange(shard.size) - np.repeat(np.cumsum(count) - count, count)
  rows = np.full(padded * BLOCK, num_rows, np.int32)
  rows[at] = row
  of_block = np.zeros(padded, np.int32)
  of_block[:total] = np.repeat(np.arange(num_shards), blocks)
  source = np.zeros(padded * BLOCK, np.int32)
  source[at] = shard
  flat = jnp.where((rows < num_rows)[:, None], vectors[source, np.minimum(rows, num_rows - 1)], 0.0)
  return PresentRows(
    vectors=flat.reshape(padded, BLOCK, -1),
    row=jnp.asarray(rows.reshape(padded, BLOCK)),
    shard=jnp.asarray(of_block),
    anywhere=jnp.asarray(inside.any(axis=0)),
  )


def mapped(packed: PresentRows, kernel: jax.Array, bias: jax.Array) -> jax.Array:
  """x W_i + b_i of every packed row [B, BLOCK, d], for kernels [K, d, d'] and biases [K, d']."""
  return jnp.einsum("brd,bde->bre", packed.vectors, kernel[packed.shard]) + bias[packed.shard][:, None, :]


def softmax_mean(packed: PresentRows, score: jax.Array, z: jax.Array) -> jax.Array:
  """Σ_i α_i z_i by row [n, d'], α the softmax of scores [B, BLOCK] over the shards that have the row; 0 elsewhere."""
  num_rows = packed.anywhere.shape[0]
  row = packed.row.reshape(-1)
  # Any number near the largest score keeps the exponentials finite; the mean does not depend on it.
  flat = score.reshape(-1)
  top = jax.ops.segment_max(jax.lax.stop_gradient(flat), row, num_rows + 1)
  weight = jnp.exp(flat - jnp.where(jnp.isfinite(top), top, 0.0)[row])
  total = jax.ops.segment_sum(weight, row, num_rows + 1)
  share = weight / jnp.where(total > 0, total, 1.0)[row]
  return jax.ops.segment_sum(share[:, None] * z.reshape(row.shape[0], -1), row, num_rows + 1)[:num_rows]
