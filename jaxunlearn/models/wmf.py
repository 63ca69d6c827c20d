"""WMF: weighted matrix factorisation over all user-item entries, without sampling."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from jaxunlearn import losses
from jaxunlearn._validate import check_fraction, check_integers, check_non_negative, check_positive
from jaxunlearn.base import Batch, Embeddings, Model, Params, inner_product_score
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.models.bprmf import init_tables


@dataclasses.dataclass(frozen=True, kw_only=True)
class WMFConfig:
  """Hyper-parameters of the model."""

  embedding_dim: int = 64  # length of a vector, ≥ 1
  init_scale: float = 0.01  # standard deviation of the normal initialisation, > 0
  unobserved_weight: float = 0.2  # c₀, weight of an entry without interaction, in (0, 1]
  l2: float = 0.0  # weight of ½‖row‖² for each pair that the row is part of, ≥ 0

  def __post_init__(self) -> None:
    check_integers(self)
    check_positive("embedding_dim", self.embedding_dim)
    check_positive("init_scale", self.init_scale)
    check_fraction("unobserved_weight", self.unobserved_weight, closed=True)
    check_non_negative("l2", self.l2)


@functools.lru_cache(maxsize=64)
def wmf(config: WMFConfig | None = None) -> Model:
  """The model for a configuration; equal configurations give the same object.

  Parameters: {"user": [num_users, d], "item": [num_items, d]}; score ⟨u, i⟩. A batch is a set of users with all
  their pairs, and its loss is the non-sampling weighted squared error against *all* items,

    Σ_{observed} (1 − ŷ)² + c₀ Σ_{unobserved} ŷ²  +  l2 · Σ_{observed} ½(‖u‖² + ‖i‖²),

  divided by the number of users in the batch (RecEraser's code sums; dividing makes step size and L2 independent of
  the batch size). Adagrad does not see the difference, Adam hardly.

  References:
    Hu et al., ICDM 2008 (the objective); Chen et al., TOIS 2020 (the loss in closed form).
  """
  config = config or WMFConfig()

  def init(key: jax.Array, num_users: int, num_items: int) -> Params:
    return init_tables(key, num_users, num_items, config.embedding_dim, config.init_scale)

  def context(interactions: Interactions) -> None:
    del interactions  # the forward pass reads nothing from the data

  def encode(params: Params, context: None) -> Embeddings:
    del context
    return Embeddings(params["user"], params["item"])

  def loss(params: Params, context: None, batch: Batch) -> jax.Array:
    del context
    if batch.row is None or batch.pair_weight is None:
      raise ValueError("Expected a batch of users (row and pair_weight), got one of pairs; WMF's loss is over users.")
    users = params["user"][batch.user] * batch.weight[:, None]
    user, item = users[batch.row], params["item"][batch.positive]
    squares = losses.non_sampling_squares(
      users, params["item"], jnp.sum(user * item, axis=-1), batch.pair_weight, config.unobserved_weight
    )
    rows = jnp.sum((losses.half_square(user) + losses.half_square(item)) * batch.pair_weight)
    return (squares + config.l2 * rows) / jnp.maximum(jnp.sum(batch.weight), 1.0)

  return Model(init, context, encode, inner_product_score, loss, name="wmf", config=config, batches="users")
