"""Popularity: every user gets the items in the order of their number of pairs. Pins the evaluation path."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxunlearn.base import Batch, Embeddings, Model, Params, inner_product_score
from jaxunlearn.data.interactions import Interactions


@functools.lru_cache(maxsize=1)
def popularity() -> Model:
  """A model without parameters; its context is the degree of each item, so forgetting is recounting.

  The vectors are 1 for a user and the item's number of pairs for an item.
  """

  def init(key: jax.Array, num_users: int, num_items: int) -> Params:
    del key, num_items
    return {"user": jnp.ones((num_users, 1))}

  def context(interactions: Interactions) -> jax.Array:
    return jnp.asarray(interactions.item_degrees(), jnp.float32)

  def encode(params: Params, context: jax.Array) -> Embeddings:
    return Embeddings(params["user"], context[:, None])

  def loss(params: Params, context: jax.Array, batch: Batch) -> jax.Array:
    del params, context, batch
    return jnp.zeros(())

  return Model(init, context, encode, inner_product_score, loss, name="popularity", batches="none")
