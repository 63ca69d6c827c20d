"""Gradient and curvature of BPR on inner products, written out, for a CPU: products with matrices of the examples.

With x_v the vector of a node, m = ⟨x_u, x_p − x_n⟩ the margin of an example (u, p, n), and δ a change of the vectors,

  δm = ⟨δ_u, x_p − x_n⟩ + ⟨x_u, δ_p − δ_n⟩
  (H δ)_u = Σ m₂ δm (x_p − x_n) − m₁ (δ_p − δ_n),   (H δ)_p = Σ m₂ δm x_u − m₁ δ_u,   (H δ)_n = Σ minus the same,

where m₁ = w σ(−m) and m₂ = w σ(m) σ(−m). Differentiation makes of it six gathers and three scatters of rows, which
XLA's CPU backend does a number at a time; its kernel for sparse matrices takes whole rows, in as many threads as there
are (BUILD_NOTES, "Speed").
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from flax import struct
from jax.experimental import sparse as jsparse

from jaxunlearn.losses import row_sum

_CHUNK = 8192  # examples whose margins are computed together; those of more leave the cache


class Matrix(struct.PyTreeNode):
  """Pattern of a sparse matrix with one entry an example: which node it reads, and in which row it is added.

  Attributes:
    column: int32 [E], nodes.
    pointer: int32 [rows + 1], where each row's entries begin and end.
    order: int32 [E], the example of each entry; None: entries are in the examples' order.
  """

  column: jax.Array
  pointer: jax.Array
  order: jax.Array | None


class Layout(struct.PyTreeNode):
  """Where the examples stand in the rows of their nodes. A pair with K negatives is K examples: E = capacity · K.

  Attributes:
    user: int32 [chunks, C], nodes.
    ends: int32 [chunks, 2 C], of each example the positive's node, then the negative's.
    count: int32 scalar, chunks that hold an example; rows of the matrices hold no padding.
    of_user: rows of users that read positives, and that read negatives.
    of_item: rows of positives that read users, and of negatives that read users.
  """

  user: jax.Array
  ends: jax.Array
  count: jax.Array
  of_user: list[Matrix]
  of_item: list[Matrix]


class Slopes(NamedTuple):
  """m₁ and m₂ of the module's text, [E]."""

  first: jax.Array
  second: jax.Array


def lay_out(
  user: np.ndarray, positive: np.ndarray, negative: np.ndarray, *, count: int, num_users: int, num_nodes: int
) -> Layout:
  """The layout of the first `count` of some pairs [capacity], sorted by user, and their negatives [capacity, K]."""
  each = negative.shape[1]
  users, ends = np.repeat(user, each), (np.repeat(positive, each), negative.reshape(-1))
  size, real = users.size, count * each
  pointer = np.zeros(num_users + 1, np.int32)
  np.cumsum(np.bincount(users[:real], minlength=num_users), out=pointer[1:])

  def by_item(end: np.ndarray) -> Matrix:
    numbers = np.arange(real, dtype=np.int32)  # of the examples, brought in order by a counting sort
    shape = (num_users, num_nodes - num_users)
    sorted_ = scipy.sparse.csr_matrix((numbers, end[:real] - num_users, pointer), shape=shape).tocsc()
    order, column = np.zeros((2, size), np.int32)
    order[:real], column[:real] = sorted_.data, sorted_.indices
    return Matrix(jnp.asarray(column), jnp.asarray(sorted_.indptr.astype(np.int32)), jnp.asarray(order))

  chunk = math.gcd(_CHUNK, size)  # the capacity is a power of two, the number of negatives need not be
  return Layout(
    user=jnp.asarray(users.reshape(-1, chunk)),
    ends=jnp.asarray(np.stack(ends, axis=1).reshape(-1, 2 * chunk)),
    count=jnp.int32(-(-real // chunk)),
    of_user=[Matrix(jnp.asarray(end), jnp.asarray(pointer), None) for end in ends],
    of_item=[by_item(end) for end in ends],
  )


def _margin_change(layout: Layout, vectors: jax.Array, change: jax.Array) -> jax.Array:
  """δm [E] for vectors and their change, both [N, d]; of the vectors themselves it is twice their margins."""
  both, crossed = jnp.concatenate([vectors, change], axis=1), jnp.concatenate([change, vectors], axis=1)
  size = layout.user.shape[1]
  sign = jnp.tile(jnp.asarray([1.0, -1.0], vectors.dtype), size)
  pointer = 2 * jnp.arange(size + 1, dtype=jnp.int32)

  def chunk(index: jax.Array, margins: jax.Array) -> jax.Array:
    pattern = (sign, layout.ends[index], pointer)
    differences = jsparse.BCSR(pattern, shape=(size, vectors.shape[0])) @ both
    users = crossed.at[layout.user[index]].get(mode="promise_in_bounds")
    return margins.at[index].set(row_sum(differences * users))

  return jax.lax.fori_loop(0, layout.count, chunk, jnp.zeros(layout.user.shape, vectors.dtype)).reshape(-1)


def slopes(layout: Layout, vectors: jax.Array, weight: jax.Array) -> Slopes:
  """At vectors [N, d], for weights [capacity] of the pairs."""
  miss = jax.nn.sigmoid(-0.5 * _margin_change(layout, vectors, vectors))
  each = miss.shape[0] // weight.shape[0]
  first = jnp.repeat(weight / each, each, total_repeat_length=miss.shape[0]) * miss
  return Slopes(first, first * (1.0 - miss))


def _rows(layout: Layout, parts: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
  """[N, d]: for each part, values [E] and a table [N, d], Σ value (t_p − t_n) for users, Σ value t_u for the positives
  and minus that for the negatives."""
  sides = []
  for matrices in (layout.of_user, layout.of_item):
    total = jnp.zeros((matrices[0].pointer.shape[0] - 1, parts[0][1].shape[1]), parts[0][1].dtype)
    for values, table in parts:
      for matrix, sign in zip(matrices, (1.0, -1.0), strict=True):
        # One sparse product at a time: two at once can wait for each other's threads.
        values, total = jax.lax.optimization_barrier((values, total))
        entries = values if matrix.order is None else values.at[matrix.order].get(mode="promise_in_bounds")
        pattern = (entries, matrix.column, matrix.pointer)
        total = total + sign * (jsparse.BCSR(pattern, shape=(total.shape[0], table.shape[0])) @ table)
    parts, total = jax.lax.optimization_barrier((parts, total))
    sides.append(total)
  return jnp.concatenate(sides)


def gradient(layout: Layout, vectors: jax.Array, weight: jax.Array) -> jax.Array:
  """∇ Σ weight · softplus(−m), mean over a pair's negatives, at vectors [N, d] for weights [capacity]: [N, d]."""
  return _rows(layout, [(-slopes(layout, vectors, weight).first, vectors)])


def product(layout: Layout, at: Slopes, vectors: jax.Array, change: jax.Array, *, gauss_newton: bool) -> jax.Array:
  """H · change, both [N, d], with the slopes at the vectors; or its Gauss-Newton part, without the terms in m₁."""
  parts = [(at.second * _margin_change(layout, vectors, change), vectors)]
  if not gauss_newton:
    parts.append((-at.first, change))
  return _rows(layout, parts)
