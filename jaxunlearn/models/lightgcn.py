"""LightGCN: linear propagation over the interaction graph, trained by BPR."""

from __future__ import annotations

import dataclasses
import functools
import weakref

import jax
import jax.numpy as jnp

from jaxunlearn import losses
from jaxunlearn._validate import check_choice, check_integers, check_non_negative, check_positive
from jaxunlearn.base import Batch, Embeddings, Model, Params, inner_product_score
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.graph import METHODS, Graph, build_graph, propagate, propagate_rows
from jaxunlearn.models.bprmf import init_tables

# Of pairs that are alive: a request and the serving before and after it ask for the same ones.
_GRAPHS: weakref.WeakKeyDictionary[Interactions, Graph] = weakref.WeakKeyDictionary()


@dataclasses.dataclass(frozen=True, kw_only=True)
class LightGCNConfig:
  """Hyper-parameters of the model."""

  embedding_dim: int = 64  # length of a vector, ≥ 1
  num_layers: int = 3  # propagation layers, ≥ 0 (0 is BPRMF)
  init_scale: float = 0.1  # standard deviation of the normal initialisation, > 0
  l2: float = 1e-4  # weight of the L2 term per sampled layer-0 row, ≥ 0
  product: str = "auto"  # how the sparse product is done: auto, bcsr, bcoo, segment_sum

  def __post_init__(self) -> None:
    check_integers(self)
    check_positive("embedding_dim", self.embedding_dim)
    check_non_negative("num_layers", self.num_layers)
    check_positive("init_scale", self.init_scale)
    check_non_negative("l2", self.l2)
    check_choice("product", self.product, METHODS)


@functools.lru_cache(maxsize=64)
def lightgcn(config: LightGCNConfig | None = None) -> Model:
  """The model for a configuration; equal configurations give the same object.

  Parameters: layer-0 tables {"user", "item"}; context: the `Graph` of the training pairs, all that the forward pass
  reads from the data; vectors: the mean of layers 0 … num_layers; loss: mean BPR on the propagated vectors plus
  `l2` · ½(‖·‖²) of the sampled *layer-0* rows, as in the reference implementation.

  References:
    He et al., LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation, SIGIR 2020.
  """
  config = config or LightGCNConfig()

  def init(key: jax.Array, num_users: int, num_items: int) -> Params:
    return init_tables(key, num_users, num_items, config.embedding_dim, config.init_scale)

  def context(interactions: Interactions) -> Graph:
    if interactions not in _GRAPHS:
      with jax.ensure_compile_time_eval():  # asked for while `jit` traces, it would keep the tracer's arrays
        _GRAPHS[interactions] = build_graph(interactions)
    return _GRAPHS[interactions]

  def layer0(params: Params) -> jax.Array:
    return jnp.concatenate([params["user"], params["item"]])

  def encode(params: Params, context: Graph) -> Embeddings:
    nodes = propagate(context, layer0(params), config.num_layers, method=config.product)
    return Embeddings(nodes[: context.num_users], nodes[context.num_users :])

  def loss(params: Params, context: Graph, batch: Batch) -> jax.Array:
    size, num_users = batch.user.shape[0], context.num_users
    picked = jnp.concatenate([batch.user, num_users + batch.positive, num_users + batch.negative.reshape(-1)])

    def apart(rows: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
      return rows[:size], rows[size : 2 * size], rows[2 * size :].reshape(*batch.negative.shape, -1)

    first, propagated = propagate_rows(context, layer0(params), picked, config.num_layers, method=config.product)
    user, positive, negative = apart(propagated)
    ranking = losses.bpr(losses.row_sum(user * positive), losses.row_sum(user[:, None, :] * negative), batch.weight)
    return ranking + config.l2 * losses.l2_of_rows(*apart(first), batch.weight)

  return Model(init, context, encode, inner_product_score, loss, name="lightgcn", config=config)
