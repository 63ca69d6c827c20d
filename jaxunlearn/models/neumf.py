"""NeuMF: a generalised matrix factorisation and an MLP over one pair of vectors, trained by binary cross-entropy."""

from __future__ import annotations

import dataclasses
import functools
from typing import cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxunlearn import losses
from jaxunlearn._validate import check_integers, check_non_negative, check_positive
from jaxunlearn.base import Batch, Embeddings, Model, Params
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.models.bprmf import init_tables


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuMFConfig:
  """Hyper-parameters of the model."""

  embedding_dim: int = 32  # length of each of the two vectors (GMF's and the MLP's) of a user or item, ≥ 1
  hidden: tuple[int, ...] = (64, 32, 16)  # widths of the MLP's layers, each ≥ 1, at least one
  init_scale: float = 0.05  # standard deviation of the normal initialisation of the tables, > 0
  l2: float = 1e-3  # weight of the L2 term per sampled row (both vectors), ≥ 0

  def __post_init__(self) -> None:
    check_integers(self)
    check_positive("embedding_dim", self.embedding_dim)
    check_positive("init_scale", self.init_scale)
    check_non_negative("l2", self.l2)
    if not self.hidden or min(self.hidden) < 1:
      raise ValueError(f"Expected hidden={self.hidden} to hold at least one width, each >= 1.")


class Tower(nn.Module):
  """logit = wᵀ[u_g ∘ i_g ; MLP(u_m, i_m)] + b for broadcastable vectors.

  The first MLP layer is applied to the user's and the item's half apart and added, which equals one layer on the
  concatenation; against all items it then costs one product a user and one an item, not one a pair.
  """

  embedding_dim: int
  hidden: tuple[int, ...]

  @nn.compact
  def __call__(self, user: jax.Array, item: jax.Array) -> jax.Array:
    """[..., 2·embedding_dim] and the same for items, broadcasting, to logits [...]."""
    gmf = user[..., : self.embedding_dim] * item[..., : self.embedding_dim]
    x = nn.Dense(self.hidden[0], name="user_0")(user[..., self.embedding_dim :])
    x = nn.relu(x + nn.Dense(self.hidden[0], use_bias=False, name="item_0")(item[..., self.embedding_dim :]))
    for depth, width in enumerate(self.hidden[1:], start=1):
      x = nn.relu(nn.Dense(width, name=f"dense_{depth}")(x))
    head = nn.Dense(1, name="head_mlp")(x) + nn.Dense(1, use_bias=False, name="head_gmf")(gmf)
    return head[..., 0]


@functools.lru_cache(maxsize=64)
def neumf(config: NeuMFConfig | None = None) -> Model:
  """The model for a configuration; equal configurations give the same object.

  Parameters: {"user": [num_users, 2d], "item": [num_items, 2d], "tower": the MLP and head}. A vector is GMF's half
  followed by the MLP's; the score is the tower's logit, so there are no embeddings with an inner product. Loss: mean
  binary cross-entropy of the positive (label 1) and its negatives (label 0), plus `l2` per sampled row.

  References:
    He et al., Neural Collaborative Filtering, WWW 2017; trained from scratch, without pre-training its two halves.
  """
  config = config or NeuMFConfig()
  tower = Tower(config.embedding_dim, config.hidden)
  init_tower = jax.jit(tower.init)  # one program; op by op it is thirty-seven

  def init(key: jax.Array, num_users: int, num_items: int) -> Params:
    table_key, tower_key = jax.random.split(key)
    tables = init_tables(table_key, num_users, num_items, 2 * config.embedding_dim, config.init_scale)
    one = jnp.zeros((1, 2 * config.embedding_dim))
    return {**tables, "tower": init_tower(tower_key, one, one)["params"]}

  def context(interactions: Interactions) -> None:
    del interactions  # the forward pass reads nothing from the data

  def encode(params: Params, context: None) -> Embeddings:
    del context
    return Embeddings(params["user"], params["item"])

  def score(params: Params, user_vectors: jax.Array, item_vectors: jax.Array) -> jax.Array:
    logits = tower.apply({"params": params["tower"]}, user_vectors, item_vectors)
    return cast(jax.Array, logits)

  def loss_of_rows(params: Params, user: jax.Array, item: jax.Array, example_weight: jax.Array) -> jax.Array:
    # item [B, 1 + num_negatives, 2d], the positive first
    logits = score(params, user[:, None, :], item)
    labels = jnp.zeros_like(logits).at[:, 0].set(1.0)
    weight = jnp.broadcast_to(example_weight[:, None], logits.shape)
    rows = losses.l2_of_rows(user, item[:, 0], item[:, 1:], example_weight)
    return losses.bce(logits, labels, weight) + config.l2 * rows

  def loss(params: Params, context: None, batch: Batch) -> jax.Array:
    del context
    items = jnp.concatenate([batch.positive[:, None], batch.negative], axis=1)
    return loss_of_rows(params, params["user"][batch.user], params["item"][items], batch.weight)

  def row_loss(rest: Params, user: jax.Array, positive: jax.Array, negative: jax.Array, weight: jax.Array) -> jax.Array:
    return loss_of_rows(rest, user, jnp.concatenate([positive[:, None, :], negative], axis=1), weight)

  return Model(init, context, encode, score, loss, name="neumf", config=config, inner_product=False, row_loss=row_loss)
