"""Frozen: two embedding matrices from anywhere, served by inner product; nothing trains."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn._validate import check_finite
from jaxunlearn.base import Batch, Embeddings, Model, Params, inner_product_score
from jaxunlearn.data.interactions import Interactions


@functools.lru_cache(maxsize=1)
def vectors_model() -> Model:
  """A model whose parameters {"user", "item"} are the served vectors; it has no initialisation of its own."""

  def init(key: jax.Array, num_users: int, num_items: int) -> Params:
    raise ValueError("Expected given vectors; build the model with frozen(user, item).")

  def context(interactions: Interactions) -> None:
    del interactions  # vectors read nothing from the data

  def encode(params: Params, context: None) -> Embeddings:
    del context
    return Embeddings(params["user"], params["item"])

  def loss(params: Params, context: None, batch: Batch) -> jax.Array:
    del params, context, batch
    return jnp.zeros(())

  return Model(init, context, encode, inner_product_score, loss, name="frozen", batches="none")


def frozen(user: Any, item: Any) -> Model:
  """Wraps trained vectors as a model, so that post-hoc unlearners take them.

  Args:
    user: float [num_users, d], NumPy, JAX, or anything `np.asarray` takes; copied.
    item: float [num_items, d].

  Raises:
    ValueError: the shapes do not fit each other, or a value is NaN or infinite.
  """
  tables = {"user": np.asarray(user, np.float32), "item": np.asarray(item, np.float32)}
  for name, table in tables.items():
    if table.ndim != 2:
      raise ValueError(f"Expected {name} embeddings of shape [rows, dim], got shape {table.shape}.")
  if tables["user"].shape[1] != tables["item"].shape[1]:
    raise ValueError(
      f"Expected user and item embeddings of one dimension, got {tables['user'].shape} and {tables['item'].shape}."
    )
  check_finite("embeddings", tables)

  def init(key: jax.Array, num_users: int, num_items: int) -> Params:
    del key
    for name, size in (("user", num_users), ("item", num_items)):
      if tables[name].shape[0] != size:
        raise ValueError(
          f"Expected {size} {name} rows, one a position of the interactions, got {tables[name].shape[0]}; "
          f"pass num_{name}s={tables[name].shape[0]} when building the interactions, or reorder the rows."
        )
    return {name: jnp.asarray(table) for name, table in tables.items()}

  return vectors_model()._replace(init=init)
