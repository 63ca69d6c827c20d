"""Row-sparse optimizers for embedding tables, shaped like optax but for gradients that have few rows.

`scale_by_*` names, states and update directions follow optax, so `row_adagrad` is exactly dense Adagrad (a zero
gradient moves nothing there). `row_adam` is *lazy* Adam: a row's moments age only when the row has a gradient, whereas
dense Adam also moves rows without one; the two are different optimizers and are tested as such.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class RowOptimizer(NamedTuple):
  """Pure functions over one table.

  Attributes:
    init: (table [R, d]) -> state.
    update: (table, state, rows int [B], grads [B, d], learning_rate) -> (table, state). Rows may repeat: their
      gradients are summed first. A row equal to R (out of range) is ignored.
  """

  init: Callable[[jax.Array], Any]
  update: Callable[[jax.Array, Any, jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]


def sum_repeated_rows(owner: jax.Array, rows: jax.Array, grads: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Adds up the gradients of equal rows without sorting.

  Each slot writes its number to `owner[row]`; the slot that is read back represents the row. `owner` needs no
  clearing, because only rows of this batch are read and all of them were just written.

  Args:
    owner: int32 [R], scratch.
    rows: int [B].
    grads: float [B, d].

  Returns:
    owner; rows int [B] with R in every slot that does not represent its row; summed float [B, d].
  """
  slots = jnp.arange(rows.shape[0], dtype=jnp.int32)
  owner = owner.at[rows].set(slots, mode="drop")
  chosen = owner.at[rows].get(mode="fill", fill_value=rows.shape[0])  # a row of R has no owner
  summed = jnp.zeros_like(grads).at[chosen].add(grads, mode="drop")
  return owner, jnp.where(chosen == slots, rows, owner.shape[0]), summed


def row_sgd() -> RowOptimizer:
  """table[r] −= learning_rate · Σ grads of r."""

  def init(table: jax.Array) -> tuple[()]:
    del table
    return ()

  def update(
    table: jax.Array, state: tuple[()], rows: jax.Array, grads: jax.Array, learning_rate: jax.Array
  ) -> tuple[jax.Array, tuple[()]]:
    return table.at[rows].add(-learning_rate * grads, mode="drop"), state

  return RowOptimizer(init, update)


class RowAdagradState(NamedTuple):
  """Sum of squared gradients [R, d] and the scratch of `sum_repeated_rows` [R]."""

  sum_of_squares: jax.Array
  owner: jax.Array


def row_adagrad(initial_accumulator: float = 0.1, eps: float = 1e-7) -> RowOptimizer:
  """Adagrad, equal to `optax.scale_by_rss` step by step: g / √(Σg² + eps)."""

  def init(table: jax.Array) -> RowAdagradState:
    return RowAdagradState(jnp.full_like(table, initial_accumulator), jnp.zeros(table.shape[0], jnp.int32))

  def update(
    table: jax.Array, state: RowAdagradState, rows: jax.Array, grads: jax.Array, learning_rate: jax.Array
  ) -> tuple[jax.Array, RowAdagradState]:
    owner, rows, grads = sum_repeated_rows(state.owner, rows, grads)
    squares = state.sum_of_squares[jnp.minimum(rows, table.shape[0] - 1)] + jnp.square(grads)
    step = learning_rate * jnp.where(squares > 0, jax.lax.rsqrt(squares + eps), 0.0) * grads
    return (
      table.at[rows].add(-step, mode="drop"),
      RowAdagradState(state.sum_of_squares.at[rows].set(squares, mode="drop"), owner),
    )

  return RowOptimizer(init, update)


class RowAdamState(NamedTuple):
  """First and second moments [R, d], updates seen a row [R], scratch [R]."""

  mean: jax.Array
  square: jax.Array
  age: jax.Array
  owner: jax.Array


def row_adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> RowOptimizer:
  """Lazy Adam: on the rows that have a gradient, `optax.scale_by_adam` with the row's own update count."""

  def init(table: jax.Array) -> RowAdamState:
    zeros = jnp.zeros(table.shape[0], jnp.int32)
    return RowAdamState(jnp.zeros_like(table), jnp.zeros_like(table), zeros, jnp.zeros_like(zeros))

  def update(
    table: jax.Array, state: RowAdamState, rows: jax.Array, grads: jax.Array, learning_rate: jax.Array
  ) -> tuple[jax.Array, RowAdamState]:
    owner, rows, grads = sum_repeated_rows(state.owner, rows, grads)
    read = jnp.minimum(rows, table.shape[0] - 1)
    mean = b1 * state.mean[read] + (1 - b1) * grads
    square = b2 * state.square[read] + (1 - b2) * jnp.square(grads)
    count = state.age[read] + 1
    age = count.astype(jnp.float32)[:, None]
    corrected = mean / (1 - b1**age)
    step = learning_rate * corrected / (jnp.sqrt(square / (1 - b2**age)) + eps)
    return (
      table.at[rows].add(-step, mode="drop"),
      RowAdamState(
        state.mean.at[rows].set(mean, mode="drop"),
        state.square.at[rows].set(square, mode="drop"),
        state.age.at[rows].set(count, mode="drop"),
        owner,
      ),
    )

  return RowOptimizer(init, update)


DENSE: dict[str, Callable[[], optax.GradientTransformation]] = {
  "adam": optax.scale_by_adam,
  "adagrad": lambda: optax.scale_by_rss(initial_accumulator_value=1e-8, eps=0.0),
  "sgd": optax.identity,
}

ROW: dict[str, Callable[[], RowOptimizer]] = {
  "row_adam": row_adam,
  "row_adagrad": lambda: row_adagrad(initial_accumulator=1e-8, eps=0.0),
  "row_sgd": row_sgd,
}

NAMES = (*DENSE, *ROW)


def dense(name: str, batch_factor: float = 1.0) -> optax.GradientTransformation:
  """The dense optimizer of that name; Adam with its constants for batches `batch_factor` times as large.

  Its averages then forget as much an epoch as before: b1 and b2 to the power of the factor k, ε ÷ √k, and the step,
  which is the caller's, · √k. A larger step alone is another course of training: over batches eight times as large the
  squared gradients of the first epochs hold the steps down eight times as many epochs (BUILD_NOTES, "LightUL").

  References:
    Malladi et al., On the SDEs and Scaling Rules for Adaptive Gradient Algorithms, NeurIPS 2022; there 1 − b is
    multiplied by k, which is b to the power of k where 1 − b is small.
  """
  if name == "adam" and batch_factor != 1:
    return optax.scale_by_adam(b1=0.9**batch_factor, b2=0.999**batch_factor, eps=1e-8 / batch_factor**0.5)
  return DENSE[name]()
