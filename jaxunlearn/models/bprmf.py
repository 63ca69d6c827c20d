"""BPR-MF: matrix factorisation trained by Bayesian personalised ranking."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from jaxunlearn import losses
from jaxunlearn._validate import check_choice, check_integers, check_non_negative, check_positive
from jaxunlearn.base import Batch, Embeddings, Model, Params, inner_product_score
from jaxunlearn.data.interactions import Interactions


@dataclasses.dataclass(frozen=True, kw_only=True)
class BPRMFConfig:
  """Hyper-parameters of the model (training's own are in `train.TrainConfig`)."""

  embedding_dim: int = 64  # length of a vector, ≥ 1
  init_scale: float = 0.1  # standard deviation of the normal initialisation, > 0
  l2: float = 1e-2  # weight of the L2 term per sampled row, ≥ 0
  loss: str = "bpr"  # "bpr", or "double_sigmoid" (LightUL's released loss)

  def __post_init__(self) -> None:
    check_integers(self)
    check_positive("embedding_dim", self.embedding_dim)
    check_positive("init_scale", self.init_scale)
    check_non_negative("l2", self.l2)
    check_choice("loss", self.loss, ("bpr", "double_sigmoid"))


def init_tables(key: jax.Array, num_users: int, num_items: int, dim: int, scale: float) -> dict[str, jax.Array]:
  """Normal tables {"user": [num_users, dim], "item": [num_items, dim]}, float32.

  A row's numbers depend on the key and its position alone, not on how many rows there are.
  """
  user_key, item_key = jax.random.split(key)
  return {
    "user": scale * jax.random.normal(user_key, (num_users, dim)),
    "item": scale * jax.random.normal(item_key, (num_items, dim)),
  }


@functools.lru_cache(maxsize=64)
def bprmf(config: BPRMFConfig | None = None) -> Model:
  """The model for a configuration; equal configurations give the same object, so nothing is traced twice.

  Parameters: {"user": [num_users, d], "item": [num_items, d]}; score ⟨u, i⟩; loss: mean BPR plus
  `l2` · ½(‖u‖² + ‖i⁺‖² + mean ‖i⁻‖²), mean over the batch.

  References:
    Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback, UAI 2009.
  """
  config = config or BPRMFConfig()

  def init(key: jax.Array, num_users: int, num_items: int) -> Params:
    return init_tables(key, num_users, num_items, config.embedding_dim, config.init_scale)

  def context(interactions: Interactions) -> None:
    del interactions  # the forward pass reads nothing from the data

  def encode(params: Params, context: None) -> Embeddings:
    del context
    return Embeddings(params["user"], params["item"])

  def loss(params: Params, context: None, batch: Batch) -> jax.Array:
    del context
    user, positive = params["user"][batch.user], params["item"][batch.positive]
    negative = params["item"][batch.negative]
    ranking = losses.bpr(
      jnp.sum(user * positive, axis=-1),
      jnp.sum(user[:, None, :] * negative, axis=-1),
      batch.weight,
      double_sigmoid=config.loss == "double_sigmoid",
    )
    return ranking + config.l2 * losses.l2_of_rows(user, positive, negative, batch.weight)

  def row_loss(rest: Params, user: jax.Array, positive: jax.Array, negative: jax.Array, weight: jax.Array) -> jax.Array:
    del rest
    if config.loss == "bpr":
      return losses.bpr_of_rows(user, positive, negative, weight, config.l2)
    ranking = losses.bpr(
      losses.row_sum(user * positive),
      losses.row_sum(user[:, None, :] * negative),
      weight,
      double_sigmoid=True,
    )
    return ranking + config.l2 * losses.l2_of_rows(user, positive, negative, weight)

  return Model(init, context, encode, inner_product_score, loss, name="bprmf", config=config, row_loss=row_loss)
