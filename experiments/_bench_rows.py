"""The benchmark's rows: what of ours is timed against what, and the ratios to reach (DESIGN, section 8)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _bench, _bench_torch
from experiments._bench import Row, Side, Target
from jaxunlearn import partition, sampling
from jaxunlearn.base import Batch, Embeddings, Model, Scorer, inner_product_score
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.metrics.ranking import RankingEvaluator, top_k_items
from jaxunlearn.models import BPRMFConfig, LightGCNConfig, bprmf, lightgcn
from jaxunlearn.recipes import recipe
from jaxunlearn.shards import train_shards
from jaxunlearn.train import TrainConfig, fit, init_state, prepare, train_epoch

DIM = 64
LAYERS = 3
OURS_STEPS, TORCH_STEPS = 8, 2  # training steps timed in a round
IMPLICIT_EPOCHS = 5  # so that what its `fit` does once counts little
LARGEST_K = 50
SHARDS = 10
L2 = 1e-2  # costs the same at any weight, and at this one the check of agreement would see it missing


def _epochs(model: Model, pairs: Interactions, context: Any, config: TrainConfig) -> Callable[[], object]:
  """A function that trains an epoch over `pairs` and keeps the state for the next: what `train.fit` runs."""
  key, data = jax.random.key(0), prepare(model, pairs, config)
  state = init_state(key, model, pairs, config)
  scalars = [jnp.float32(x) for x in (config.learning_rate, config.average, config.user_weight_power)]

  def run() -> object:
    nonlocal state
    state, loss, _ = train_epoch(
      key, state, context, data, *scalars, model=model, optimizer=config.optimizer, batch_size=config.batch_size
    )
    return jax.block_until_ready((state, loss))

  return run


def _torch_steps(other: _bench_torch.TorchLightGCN, batch: Batch, name: str) -> Side:
  drawn = other.batch(batch)
  return Side(name, lambda: [other.step(drawn) for _ in range(TORCH_STEPS)], TORCH_STEPS)


def lightgcn_rows(train: Interactions, repeats: int) -> list[Row]:
  """A training step at batch 2048, against PyTorch's with the adjacency as COO and as CSR.

  Ours are steps of `train_epoch` itself, the drawing of the batch included, over a few batches' pairs and the
  graph of all; PyTorch is given its batches.

  Raises:
    ValueError: the two do not have the same loss and gradient.
  """
  _bench.library("torch")  # before the graph is built
  config = TrainConfig(batch_size=min(2048, len(train)), learning_rate=1e-3, user_weight_power=0.0)
  model = lightgcn(LightGCNConfig(embedding_dim=DIM, num_layers=LAYERS, l2=L2))
  params, graph = model.init(jax.random.key(0), train.num_users, train.num_items), model.context(train)
  padded = train.padded()
  batch = sampling.pairwise_batch(
    jax.random.key(1),
    padded,
    sampling.epoch_order(jax.random.key(2), padded.count, padded.capacity),
    jnp.int32(0),
    batch_size=config.batch_size,
    num_negatives=1,
  )
  loss_and_grad = jax.jit(jax.value_and_grad(model.loss))
  others = []
  for layout, target in (("coo", 1 / 6), ("csr", 1 / 3)):
    other = _bench_torch.TorchLightGCN(
      params, graph, layout=layout, num_layers=LAYERS, l2=L2, learning_rate=config.learning_rate
    )
    _bench_torch.check_agreement(other, lambda: loss_and_grad(params, graph, batch), batch)
    others.append(Target(_torch_steps(other, batch, f"PyTorch {layout.upper()}"), target))
  count = min(len(train), OURS_STEPS * config.batch_size)
  some = train.select(np.sort(np.random.default_rng(0).choice(len(train), count, replace=False)))
  ours = Side("train_epoch, adam", _epochs(model, some, graph, config), -(-count // config.batch_size))
  return _bench.compare("lightgcn", f"LightGCN step, batch {config.batch_size}", [ours], others, repeats)


def bpr_rows(train: Interactions, repeats: int) -> list[Row]:
  """An epoch of BPR-MF against `implicit`'s: plain SGD there, on as many draws of pairs with replacement.

  Its 63 factors and a bias are 64 columns, as ours are; its threads are its default, all cores.
  """
  implicit = _bench.library("implicit.bpr")
  model = bprmf(BPRMFConfig(embedding_dim=DIM, l2=L2))
  ours = []
  for optimizer in ("row_sgd", "row_adagrad"):
    for batch_size in (8192, 2048):
      config = TrainConfig(optimizer=optimizer, batch_size=batch_size, learning_rate=0.05, user_weight_power=0.0)
      ours.append(Side(f"{optimizer}, batch {batch_size}", _epochs(model, train, None, config)))
  other = implicit.BayesianPersonalizedRanking(
    factors=DIM - 1, learning_rate=0.01, regularization=L2, iterations=IMPLICIT_EPOCHS, random_state=0
  )
  pairs = train.to_csr()
  side = Side("implicit, SGD", lambda: other.fit(pairs, show_progress=False), IMPLICIT_EPOCHS)
  return _bench.compare("bpr", "BPR-MF epoch", ours, [Target(side, 2.0)], repeats)


def ranking_rows(train: Interactions, test: Interactions | None, repeats: int) -> list[Row]:
  """The best 50 items of all users, train items masked, against `implicit`'s `recommend`; the vectors are the same.

  `RankingEvaluator` ranks as far and computes metrics from it, over the users with a test pair, `top_k_items` lays
  users and mask out at each call and returns the items, as `recommend` does.

  Raises:
    ValueError: the two rank differently.
  """
  implicit = _bench.library("implicit.bpr")
  rng = np.random.default_rng(0)
  user, item = (rng.normal(size=(n, DIM)).astype(np.float32) for n in (train.num_users, train.num_items))
  scorer = Scorer(None, Embeddings(jnp.asarray(user), jnp.asarray(item)), inner_product_score, True)
  other = implicit.BayesianPersonalizedRanking(factors=DIM)
  other.user_factors, other.item_factors = user, item
  k, users, pairs = min(LARGEST_K, train.num_items), np.arange(train.num_users), train.to_csr()

  def recommend() -> tuple[np.ndarray, np.ndarray]:
    found: tuple[np.ndarray, np.ndarray] = other.recommend(users, pairs, N=k, filter_already_liked_items=True)
    return found

  def top() -> tuple[np.ndarray, np.ndarray]:
    return top_k_items(scorer, users, k, mask=train)

  mine, theirs = top()[1], recommend()[1]
  if not np.allclose(
    np.where(np.isfinite(mine), mine, 0), np.where(np.isfinite(mine), theirs, 0), rtol=1e-3, atol=1e-3
  ):
    raise ValueError(f"Expected the same {k} best scores of ours and implicit's, got others.")
  ours = [Side("top_k_items", top)]
  if test is not None and (test.user_degrees() > 0).all():
    evaluator = RankingEvaluator(test, mask=train, ks=(k,))
    ours.append(Side("RankingEvaluator", lambda: evaluator(scorer)))
  work = f"top {k} of {train.num_items:,} for {train.num_users:,} users"
  return _bench.compare("ranking", work, ours, [Target(Side("implicit, recommend", recommend), 1.2)], repeats)


def shard_rows(train: Interactions, repeats: int) -> list[Row]:
  """An epoch of each of ten submodels on a random shard, against one of the model on all pairs: as many examples.

  Both with the tuned recipe, from initialisation and preparation of the data on, of which there are ten in ours. The
  batch size is the recipe's where a shard fills a batch, else a shard's mean size.
  """
  rows: list[Row] = []
  parts = partition.random(jax.random.key(1), train, SHARDS).shards(train)
  for name in ("bprmf", "lightgcn"):
    how, key = recipe(name), jax.random.key(0)
    batch_size = max(1, min(how.train_config.batch_size, len(train) // SHARDS))
    config = dataclasses.replace(how.train_config, num_epochs=1, batch_size=batch_size)
    sides = _shards_and_whole(how.model(name), parts, train, config, key)
    work = f"{name} epoch, batch {batch_size}, {config.optimizer}"
    rows += _bench.compare("shards", work, [sides[0]], [Target(sides[1], 1.3)], repeats)
  return rows


def _shards_and_whole(
  model: Model, parts: list[Interactions], train: Interactions, config: TrainConfig, key: jax.Array
) -> tuple[Side, Side]:
  keys = [jax.random.fold_in(key, shard) for shard in range(len(parts))]

  def shards() -> object:
    return jax.block_until_ready(train_shards(keys, model, parts, config, progress=False).params)

  def whole() -> object:
    return jax.block_until_ready(fit(key, model, train, config, progress=False).params)

  return Side(f"train_shards, {len(parts)} shards", shards), Side("fit, all pairs", whole)
