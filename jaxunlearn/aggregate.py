"""From K submodels to one recommender: mean, static weights (GraphEraser), attention (RecEraser), and ours, combined.

An aggregator is a `Model` of its own: its parameters are what it learns, its context is the vectors of the frozen
submodels, and the one training loop trains it on all retained pairs. What it serves is a `Scorer` like any other.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxunlearn import _present_rows, losses, optimizers
from jaxunlearn._present_rows import PresentRows
from jaxunlearn._validate import check_choice, check_non_negative, check_whole
from jaxunlearn.base import Batch, Context, Embeddings, Model, Params, Scorer, inner_product_score
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.graph import Graph, propagate
from jaxunlearn.train import TrainConfig, fit

KINDS = ("mean", "static", "attention", "combined")
_SAMPLE = 512  # users whose scores set the unit in which "combined" adds
# What a packed row costs of a batch's row in one shard: 1.8 and 2.6 µs of CPU of an attention's step at d = 64.
_PACKED = 0.7


@dataclasses.dataclass(frozen=True, kw_only=True)
class AggregateConfig:
  """How submodels become one."""

  kind: str = "attention"  # mean, static, attention, or combined: attention plus the mean
  train: TrainConfig = TrainConfig(num_epochs=20, batch_size=8192, learning_rate=5e-3)  # of static and attention
  attention_dim: int = 32  # k, width of the attention layer, ≥ 1
  l2: float = 1e-5  # weight of ½‖·‖² of transfer maps and biases, ≥ 0
  row_l2: float = 1e-2  # weight of ½‖·‖² of a batch's aggregated vectors, as the base models have of their rows, ≥ 0
  # a shard has no say about a user or item without a pair there: zeros, no attention (NeuMF's tower, under mean and
  # static, makes of a row of zeros what it makes of any)
  mask_absent: bool = True
  mean_weight: float = 1.25  # of the mean's scores in "combined", both in units of their standard deviation, ≥ 0
  propagate_last: bool = False  # LightGCN: aggregate layer 0, then propagate over all retained pairs, as released
  transfer: bool = True  # attention: W_i and b_i map shards' vectors into one space; False: LightUL's port has none

  def __post_init__(self) -> None:
    check_choice("kind", self.kind, KINDS)
    check_whole("attention_dim", self.attention_dim)
    check_non_negative("l2", self.l2)
    check_non_negative("row_l2", self.row_l2)
    check_non_negative("mean_weight", self.mean_weight)
    if math.isinf(self.mean_weight):
      raise ValueError('Expected a finite mean_weight, got inf; kind="mean" serves the mean alone.')
    check_choice("train.optimizer of an aggregator", self.train.optimizer, tuple(optimizers.DENSE))
    if self.propagate_last and self.kind != "attention":
      raise ValueError(
        f'Expected kind="attention" with propagate_last=True, got {self.kind!r}, which puts encoded vectors together.'
      )
    if not self.transfer and self.kind not in ("attention", "combined"):
      raise ValueError(f'Expected kind="attention" or "combined" with transfer=False, got {self.kind!r}, without maps.')


def check_aggregates(model: Model, config: AggregateConfig) -> None:
  """Raises ValueError where submodels of this kind cannot be put together so."""
  if config.propagate_last and model.name != "lightgcn":
    raise ValueError(f"Expected propagate_last=False for {model.name}, which has no graph to propagate over.")
  if config.kind == "combined" and not model.inner_product:
    raise ValueError(f'Expected kind="attention" for {model.name}, got "combined", which adds inner products.')


class ShardVectors(struct.PyTreeNode):
  """What an aggregator reads: the submodels' vectors, and what else the served model needs of data and submodels.

  Attributes:
    user: float [K, num_users, d].
    item: float [K, num_items, d].
    user_present: bool [K, num_users], has a pair in the shard.
    item_present: bool [K, num_items], likewise.
    rest: parameters of the submodels without their tables, stacked along K (NeuMF's towers); {} for inner products.
    graph: of all retained pairs, where the aggregated vectors are propagated; else None.
    packed: (users, items) without the rows that are absent, which is what an attention that masks them computes on;
      None for the others.
  """

  user: jax.Array
  item: jax.Array
  user_present: jax.Array
  item_present: jax.Array
  rest: Any
  graph: Graph | None
  packed: tuple[PresentRows, PresentRows] | None = None


def shard_vectors(
  model: Model,
  params: Sequence[Params],
  contexts: Sequence[Context],
  parts: Sequence[Interactions],
  interactions: Interactions,
  config: AggregateConfig,
) -> ShardVectors:
  """Encodes every submodel over its own shard.

  Args:
    model: the submodels'.
    params: of each shard.
    contexts: of each shard.
    parts: the pairs of each shard.
    interactions: all retained pairs.
    config: whether layer 0 is taken instead of the encoded vectors, and whether rows without a pair are zeros.

  Raises:
    ValueError: `propagate_last` for a model without a graph; "combined" for one whose score is no inner product.
  """
  check_aggregates(model, config)
  if config.propagate_last:
    vectors = [Embeddings(p["user"], p["item"]) for p in params]
  else:
    vectors = [model.encode(p, context) for p, context in zip(params, contexts, strict=True)]
  rest = [{name: leaf for name, leaf in p.items() if name not in ("user", "item")} for p in params]
  user, item = jnp.stack([v.user for v in vectors]), jnp.stack([v.item for v in vectors])
  user_present = jnp.stack([jnp.asarray(part.user_degrees() > 0) for part in parts])
  item_present = jnp.stack([jnp.asarray(part.item_degrees() > 0) for part in parts])
  if config.mask_absent:  # such a row is its initialisation: noise in every score that it enters
    user, item = jnp.where(user_present[..., None], user, 0.0), jnp.where(item_present[..., None], item, 0.0)
  packed = None
  if config.kind in ("attention", "combined") and config.mask_absent:
    packed = _present_rows.pack(user, user_present), _present_rows.pack(item, item_present)
  return ShardVectors(
    user=user,
    item=item,
    user_present=user_present,
    item_present=item_present,
    rest=jax.tree.map(lambda *leaves: jnp.stack(leaves), *rest),
    graph=model.context(interactions) if config.propagate_last else None,
    packed=packed,
  )


@functools.lru_cache(maxsize=64)
def _weighted_score(model: Model, num_shards: int) -> Any:
  """Σ_i w_i · score of submodel i, for vectors [..., K · d] and params {"weight": [K], "rest": stacked}."""

  def score(params: Params, user_vectors: jax.Array, item_vectors: jax.Array) -> jax.Array:
    split = [
      jnp.moveaxis(v.reshape(*v.shape[:-1], num_shards, v.shape[-1] // num_shards), -2, 0)
      for v in (user_vectors, item_vectors)
    ]
    each = jax.vmap(model.score)(params["rest"], *split)
    return jnp.tensordot(params["weight"], each, axes=1)

  return score


def _concatenated(vectors: jax.Array, weight: jax.Array) -> jax.Array:
  """[K, n, d] to [n, K · d], shard i scaled by √w_i: the inner product is then Σ_i w_i ⟨p^i, q^i⟩."""
  scaled = vectors * jnp.sqrt(weight)[:, None, None]
  return jnp.moveaxis(scaled, 0, 1).reshape(vectors.shape[1], -1)


def weighted_scorer(model: Model, vectors: ShardVectors, weight: jax.Array) -> Scorer:
  """Serves Σ_i w_i ŷ^i (w float [K], ≥ 0): one inner product of concatenated vectors where the model's score is one."""
  num_shards = vectors.user.shape[0]
  if model.inner_product:
    both = Embeddings(_concatenated(vectors.user, weight), _concatenated(vectors.item, weight))
    return Scorer(None, both, inner_product_score, True)
  one = jnp.ones_like(weight)
  both = Embeddings(_concatenated(vectors.user, one), _concatenated(vectors.item, one))
  return Scorer({"weight": weight, "rest": vectors.rest}, both, _weighted_score(model, num_shards), False)


@functools.lru_cache(maxsize=64)
def static_model(model: Model, num_shards: int) -> Model:
  """GraphEraser's learned static weights as a model: ŷ = Σ_i w_i ŷ^i, w = softmax of K logits that start at 0.

  Parameters: {"logits": [K]}. Loss: the base model's ranking loss on ŷ, submodels frozen, without L2.
  Deviation: the released code clips w at 0 and renormalises after each step, adds ‖w‖₂ and squashes twice (facts §7.3).
  """

  def init(key: jax.Array, num_users: int, num_items: int) -> Params:
    del key, num_users, num_items
    return {"logits": jnp.zeros(num_shards)}

  def loss(params: Params, context: ShardVectors, batch: Batch) -> jax.Array:
    weight = jax.nn.softmax(params["logits"])
    if model.batches == "users":
      return _non_sampling(model, _concatenated(context.user, weight), _concatenated(context.item, weight), batch)
    # All shards of a row in one piece of memory: one gather a row instead of K.
    by_user, by_item = jnp.moveaxis(context.user, 0, 1), jnp.moveaxis(context.item, 0, 1)
    user, positive = by_user[batch.user], by_item[batch.positive]
    negative = by_item[batch.negative]
    score = jax.vmap(model.score, in_axes=(0, -2, -2))
    high = jnp.tensordot(weight, score(context.rest, user, positive), axes=1)
    low = jnp.tensordot(weight, score(context.rest, user[:, None, :, :], negative), axes=1)
    return _ranking(model, high, low, batch)

  def encode(params: Params, context: ShardVectors) -> Embeddings:
    return weighted_scorer(model, context, jax.nn.softmax(params["logits"])).vectors

  return Model(
    init, _no_context, encode, _weighted_score(model, num_shards), loss,
    name=f"static[{model.name}]", config=num_shards, batches=model.batches, inner_product=model.inner_product,
  )  # fmt: skip


@functools.lru_cache(maxsize=64)
def attention_model(model: Model, num_shards: int, config: AggregateConfig) -> Model:
  """RecEraser's attention as a model (its eqs. 5 to 8).

  For a user with vectors x_i in the shards: z_i = x_i W_i + b_i; s_i = h · relu(A z_i + a); α = softmax of s over the
  shards; p = Σ_i α_i z_i. Items likewise, with the same W_i and b_i and an attention of their own. Score: the base
  model's on (p, q). Trained: W, b, both attentions, and for NeuMF one tower; the submodels are frozen. Loss: the base
  model's ranking loss over all retained pairs, plus l2 · ½(‖W‖² + ‖b‖²).

  With `transfer=False` z_i = x_i, so that the attention alone is trained: vectors of models that were never aligned are
  averaged. LightUL's port of RecEraser does that; it shows what the maps are for (BUILD_NOTES, "LightUL").

  Readings: the items' attention reads item vectors (eq. 7 prints the user's). No dropout: the transfer maps are some
  40 k numbers. W_i starts as an independent random map, so that products across shards, which mean nothing before
  training, cancel on average. `propagate_last` is what the released code does for LightGCN,
  encoded vectors are what eq. 6 says.
  """
  kind = ("user", "item")

  def init(key: jax.Array, num_users: int, num_items: int) -> Params:
    del num_users, num_items
    shapes = jax.eval_shape(lambda key: model.init(key, 1, 1), jax.random.key(0))
    dim = shapes["user"].shape[1]
    transfer_key, rest_key, *keys = jax.random.split(key, 6)
    noise = jax.random.normal(transfer_key, (num_shards, dim, dim)) / jnp.sqrt(dim * 1.0)
    rest = {name: leaf for name, leaf in model.init(rest_key, 1, 1).items() if name not in kind}
    side = {
      name: {
        "kernel": jax.random.normal(keys[2 * n], (dim, config.attention_dim)) * jnp.sqrt(2.0 / dim),
        "bias": jnp.zeros(config.attention_dim),
        "head": jax.random.normal(keys[2 * n + 1], (config.attention_dim,)) / jnp.sqrt(config.attention_dim * 1.0),
      }
      for n, name in enumerate(kind)
    }
    maps = {"kernel": noise, "bias": jnp.zeros((num_shards, dim))} if config.transfer else {}
    return {**maps, "attention": side, "rest": rest}

  def aggregated(params: Params, name: str, x: jax.Array, present: jax.Array) -> jax.Array:
    """[K, n, d] vectors, bool [K, n], to [n, d]."""
    z = x @ params["kernel"] + params["bias"][:, None, :] if config.transfer else x
    side = params["attention"][name]
    score = jax.nn.relu(z @ side["kernel"] + side["bias"][None, None, :]) @ side["head"]
    if config.mask_absent:
      anywhere = jnp.any(present, axis=0, keepdims=True)
      score = jnp.where(present | ~anywhere, score, -jnp.inf)
    return jnp.sum(jax.nn.softmax(score, axis=0)[..., None] * z, axis=0)

  def of_present(params: Params, name: str, rows: PresentRows) -> jax.Array:
    """`aggregated` of all rows, without computing on those that the mask takes out."""
    z = _present_rows.mapped(rows, params["kernel"], params["bias"]) if config.transfer else rows.vectors
    side = params["attention"][name]
    score = jax.nn.relu(z @ side["kernel"] + side["bias"][None, None, :]) @ side["head"]
    # One that is present nowhere has the biases alone, from all shards; zeros without maps.
    none = jnp.zeros((num_shards, 1, rows.vectors.shape[-1])), jnp.zeros((num_shards, 1), bool)
    return jnp.where(
      rows.anywhere[:, None], _present_rows.softmax_mean(rows, score, z), aggregated(params, name, *none)
    )

  def of_all(params: Params, context: ShardVectors) -> Embeddings:
    if context.packed is None:
      user = aggregated(params, "user", context.user, context.user_present)
      item = aggregated(params, "item", context.item, context.item_present)
    else:
      user, item = (of_present(params, name, rows) for name, rows in zip(kind, context.packed, strict=True))
    if context.graph is None:
      return Embeddings(user, item)
    nodes = propagate(context.graph, jnp.concatenate([user, item]), model.config.num_layers)
    return Embeddings(nodes[: context.graph.num_users], nodes[context.graph.num_users :])

  def of_rows(params: Params, context: ShardVectors, users: jax.Array, items: jax.Array) -> Embeddings:
    return Embeddings(
      aggregated(params, "user", context.user[:, users], context.user_present[:, users]),
      aggregated(params, "item", context.item[:, items], context.item_present[:, items]),
    )

  def loss(params: Params, context: ShardVectors, batch: Batch) -> jax.Array:
    num_nodes = context.user.shape[1] + context.item.shape[1]
    maps = [params[name] for name in ("kernel", "bias") if name in params]
    ridge = config.l2 * 0.5 * sum(jnp.sum(jnp.square(leaf)) for leaf in maps)
    if model.batches == "users":
      if context.packed is None:
        user, item = of_rows(params, context, batch.user, jnp.arange(context.item.shape[1]))
      else:
        user = aggregated(params, "user", context.user[:, batch.user], context.user_present[:, batch.user])
        item = of_present(params, "item", context.packed[1])
      return _non_sampling(model, user, item, batch, of_batch=True) + ridge
    size, num_negatives = batch.negative.shape
    items = jnp.concatenate([batch.positive, batch.negative.reshape(-1)])
    whole = num_shards * num_nodes if context.packed is None else _PACKED * sum(p.row.size for p in context.packed)
    if context.graph is not None or num_shards * (size + items.shape[0]) >= whole:
      both = of_all(params, context)  # less work than the batch's rows in every shard, or needed by propagation
      user, item = both.user[batch.user], both.item[items]
    else:
      user, item = of_rows(params, context, batch.user, items)
    negative = item[size:].reshape(size, num_negatives, -1)
    high = model.score(params["rest"], user, item[:size])
    low = model.score(params["rest"], user[:, None, :], negative)
    rows = config.row_l2 * losses.l2_of_rows(user, item[:size], negative, batch.weight)
    return _ranking(model, high, low, batch) + rows + ridge

  return Model(
    init, _no_context, of_all, lambda params, u, v: model.score(params["rest"], u, v), loss,
    name=f"attention[{model.name}]", config=config, batches=model.batches, inner_product=model.inner_product,
  )  # fmt: skip


def _no_context(interactions: Interactions) -> Context:
  raise ValueError("Expected the context of an aggregator to be its ShardVectors; pass it to train.fit as `context`.")


def _ranking(model: Model, positive: jax.Array, negative: jax.Array, batch: Batch) -> jax.Array:
  """BPR where the base model ranks by inner products, cross-entropy on logits else (NeuMF)."""
  if model.inner_product:
    return losses.bpr(positive, negative, batch.weight)
  logits = jnp.concatenate([positive[:, None], negative], axis=1)
  labels = jnp.zeros_like(logits).at[:, 0].set(1.0)
  return losses.bce(logits, labels, jnp.broadcast_to(batch.weight[:, None], logits.shape))


def _non_sampling(model: Model, user: jax.Array, item: jax.Array, batch: Batch, *, of_batch: bool = False) -> jax.Array:
  """WMF's loss on given vectors of all users (or those of the batch) and all items."""
  assert batch.row is not None and batch.pair_weight is not None
  rows = (user if of_batch else user[batch.user]) * batch.weight[:, None]
  scores = jnp.sum(rows[batch.row] * item[batch.positive], axis=-1)
  squares = losses.non_sampling_squares(rows, item, scores, batch.pair_weight, model.config.unobserved_weight)
  return squares / jnp.maximum(jnp.sum(batch.weight), 1.0)


def fit_aggregator(
  key: jax.Array,
  model: Model,
  vectors: ShardVectors,
  interactions: Interactions,
  config: AggregateConfig,
  *,
  progress: bool | None = None,
) -> Params:
  """Trains the aggregator on all retained pairs, from its initialisation: a warm start would remember. {} for mean.

  Args:
    key: of everything random in it.
    model: the submodels'.
    vectors: of the frozen submodels.
    interactions: all retained pairs.
    config: how.
    progress: as for `train.fit`.
  """
  if config.kind == "mean":
    return {}
  return fit(
    key, _aggregator(model, vectors, config), interactions, config.train,
    context=vectors, progress=progress, label=f"aggregate {model.name}",
  ).params  # fmt: skip


@jax.jit
def combined_vectors(attended: Embeddings, vectors: ShardVectors, mean_weight: jax.Array | float) -> Embeddings:
  """Vectors [·, d + K d] whose inner product is the attention's score plus `mean_weight` times the shards' mean score.

  Both in units of their standard deviation over all items and up to 512 users, evenly spaced. Ours: a shard's own score
  of a user whom it has whole knows what the consensus of all shards has lost, and the other way round. It pays where a
  partition keeps users whole (UBP) and does harm elsewhere (BUILD_NOTES, "Shards"): shards that have a part of a user
  each disagree on scale.

  Args:
    attended: what the attention serves, [num_users, d] and [num_items, d].
    vectors: of the frozen submodels.
    mean_weight: ≥ 0.
  """
  num_shards, num_users = vectors.user.shape[:2]
  some = jnp.linspace(0, num_users - 1, min(num_users, _SAMPLE)).astype(jnp.int32)
  own = Embeddings(
    *(_concatenated(side, jnp.full(num_shards, 1.0 / num_shards)) for side in (vectors.user, vectors.item))
  )
  spread = [jnp.std(both.user[some] @ both.item.T) for both in (attended, own)]
  scale = jnp.sqrt(mean_weight * spread[0] / jnp.where(spread[1] > 0, spread[1], 1.0))
  return Embeddings(*(jnp.concatenate([a, scale * b], axis=1) for a, b in zip(attended, own, strict=True)))


@jax.default_matmul_precision("highest")  # as served vectors are; TF32 has 10 bits
def aggregated_scorer(model: Model, vectors: ShardVectors, params: Params, config: AggregateConfig) -> Scorer:
  """What is served: submodels and aggregator as one scorer."""
  num_shards = vectors.user.shape[0]
  if config.kind == "mean":
    return weighted_scorer(model, vectors, jnp.full(num_shards, 1.0 / num_shards))
  if config.kind == "static":
    return weighted_scorer(model, vectors, jax.nn.softmax(params["logits"]))
  aggregator = _aggregator(model, vectors, config)
  served = jax.jit(aggregator.encode)(params, vectors)
  if config.kind == "combined":
    served = combined_vectors(served, vectors, config.mean_weight)
  rest = None if model.inner_product else {"rest": params["rest"]}
  return Scorer(rest, served, inner_product_score if model.inner_product else aggregator.score, model.inner_product)


def _aggregator(model: Model, vectors: ShardVectors, config: AggregateConfig) -> Model:
  num_shards = vectors.user.shape[0]
  return static_model(model, num_shards) if config.kind == "static" else attention_model(model, num_shards, config)
