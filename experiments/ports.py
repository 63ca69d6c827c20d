"""RecEraser and LASER as LightUL's repository has them, trained for as long as its authors' logs say.

    python -m experiments.ports --dataset=gowalla --model=bprmf --method=laser --group_epochs=420,67,16 --epochs=400 \\
        --forget=../shared/data/gowalla/forget/intr_0.01.txt --out=runs/ports

Both cut the users into k-means clusters of the original model's vectors, all pairs of a user in one, and train on what
is retained only: nothing is served before the request, so nothing is unlearned. RecEraser trains a model a cluster and
averages their vectors by an attention without the maps of its paper, LASER one model on one cluster after another;
LightGCN propagates over a cluster's own pairs. Their patience counts from an NDCG of 0.005, so that a cluster which
does not reach it in 51 epochs ends there; --group_epochs says it outright, cluster by cluster, the most cohesive first.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import jax
import numpy as np
import scipy.cluster.vq
from absl import flags

from experiments import _common, _flags, _identity, _report, _results
from experiments._cells import Cells
from jaxunlearn.aggregate import AggregateConfig, aggregated_scorer, fit_aggregator, shard_vectors
from jaxunlearn.base import Model, Scorer, scorer_of
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.epoch import state_from
from jaxunlearn.partition import Partition
from jaxunlearn.partition.laser import spread
from jaxunlearn.recipes import recipe
from jaxunlearn.shards import train_shards
from jaxunlearn.train import TrainConfig

FLAGS = flags.FLAGS
_common.data_flags("ml-1m")
_common.forget_flags()
flags.DEFINE_enum("model", "bprmf", ["bprmf", "lightgcn"], "base model, by recipe lightul")
flags.DEFINE_enum("method", "laser", ["laser", "receraser"], "which port")
flags.DEFINE_list("group_epochs", None, "epochs of each cluster, the most cohesive first", required=True)
flags.DEFINE_integer("attention_epochs", 5, "of RecEraser's attention", lower_bound=1)
flags.DEFINE_integer("epochs", 0, "of the original model; 0: found on a validation part of train", lower_bound=0)
flags.DEFINE_integer("seeds", 1, "number of seeds: first_seed … first_seed + seeds − 1", lower_bound=1)
flags.DEFINE_integer("first_seed", 0, "the first of them", lower_bound=0)
flags.DEFINE_string("out", "runs/ports", "folder, that of a `compare` with the same base too; its original is used")
flags.DEFINE_boolean("overwrite", False, "remove what --out holds of this port first, and run it anew")
flags.DEFINE_boolean("quiet", False, "no progress bar, no table")
_common.define_model_flags()

_STARTS = 10  # of k-means, as in the port


def clusters(rng: np.random.Generator, vectors: np.ndarray, data: Interactions, num_groups: int) -> Partition:
  """Users by k-means of their vectors, all pairs of a user in one group; the most cohesive group is 0.

  The port orders by mean distance between members, this by mean squared distance, which needs no pairs of users.
  """
  users = np.unique(data.user)
  points = np.asarray(vectors, np.float64)[users]
  if len(np.unique(points, axis=0)) < num_groups:
    raise ValueError(f"Expected {num_groups} different vectors of {users.size} users at least; shorten --group_epochs.")
  tries = [scipy.cluster.vq.kmeans2(points, num_groups, minit="++", rng=rng)[1] for _ in range(_STARTS)]
  found = [(spread(points, label, num_groups), label) for label in tries]
  (_, apart), label = min(found, key=lambda each: each[0][0].sum())
  rank = np.argsort(np.argsort(apart, kind="stable"), kind="stable")
  return Partition.make(rank[label][np.searchsorted(users, data.user)], num_groups, "kmeans", "vectors")


def serve_laser(
  key: jax.Array,
  model: Model,
  train: TrainConfig,
  parts: Sequence[Interactions],
  epochs: Sequence[int],
  progress: bool | None = None,
) -> Scorer:
  """One model on one part after another, with a fresh optimizer, over its own pairs; the last part's are served.

  With as many epochs for each it is `laser` with `graph="own"`, draw for draw.
  """
  params = model.init(jax.random.fold_in(key, 0), parts[0].num_users, parts[0].num_items)
  for group, (part, count) in enumerate(zip(parts, epochs, strict=True)):
    how = dataclasses.replace(train, num_epochs=count)
    keys = [jax.random.fold_in(jax.random.fold_in(key, 1), group)]
    start = [state_from(model, params, how)]
    label = f"group {group + 1}"
    params = train_shards(keys, model, [part], how, start=start, progress=progress, label=label).params[0]
  return scorer_of(model, params, model.context(parts[-1]))


def serve_receraser(
  key: jax.Array,
  model: Model,
  train: TrainConfig,
  parts: Sequence[Interactions],
  epochs: Sequence[int],
  progress: bool | None = None,
  *,
  data: Interactions,
  aggregate: AggregateConfig,
) -> Scorer:
  """A model a part, then the attention over all pairs.

  With as many epochs for each it is `receraser` over that partition, draw for draw.
  """
  params = []
  for group, (part, count) in enumerate(zip(parts, epochs, strict=True)):
    keys = [jax.random.fold_in(jax.random.fold_in(key, 0), group)]
    how, label = dataclasses.replace(train, num_epochs=count), f"shard {group + 1}"
    params.append(train_shards(keys, model, [part], how, progress=progress, label=label).params[0])
  vectors = shard_vectors(model, params, [model.context(part) for part in parts], parts, data, aggregate)
  learned = fit_aggregator(jax.random.fold_in(key, 3), model, vectors, data, aggregate, progress=progress)
  return aggregated_scorer(model, vectors, learned, aggregate)


def group_epochs() -> list[int]:
  """--group_epochs as numbers; ValueError where one is none."""
  try:
    epochs = [int(text) for text in FLAGS.group_epochs]
  except ValueError:
    epochs = []
  if not epochs or min(epochs) < 1:
    raise ValueError(f"Expected --group_epochs of whole numbers from 1, got {','.join(FLAGS.group_epochs)!r}.")
  return epochs


def attention(train: TrainConfig, num_shards: int) -> AggregateConfig:
  """The port's: wide, without maps or L2, deaf to who was in a shard, in batches as many times as large as shards."""
  how = dataclasses.replace(
    train,
    num_epochs=FLAGS.attention_epochs,
    batch_size=num_shards * train.batch_size,
    reference_batch_size=num_shards * (train.reference_batch_size or train.batch_size),
  )
  return AggregateConfig(train=how, transfer=False, mask_absent=False, attention_dim=128, l2=0.0, row_l2=0.0)


def main(argv: list[str]) -> None:
  """Original, clusters, models, one result a seed."""
  del argv
  out = _results.prepare_out(FLAGS.out)
  _common.use_compilation_cache()
  epochs, how = group_epochs(), _common.override(recipe(FLAGS.model, "lightul"), FLAGS.model)
  train, aggregate = how.train_config, attention(how.train_config, len(epochs))
  dataset = _common.load_dataset()
  forget = _common.forget_from_flags(dataset.train, seed=0)
  measure = _common.Measure(dataset, forget)
  progress = False if FLAGS.quiet else None
  cells = Cells(
    out / FLAGS.model, FLAGS.model, how, "lightul", dataset, forget, measure, epochs=FLAGS.epochs, progress=progress
  )
  model, retained, name = cells.model, dataset.train.without(forget), f"{FLAGS.method}-port"
  own = {"group_epochs": epochs, "aggregate": aggregate if FLAGS.method == "receraser" else None}
  identity = {**cells.identity, "config": {**cells.identity["config"], "lightul": None, **own}}
  for seed in range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.seeds):
    path = cells.folder / name / f"seed{seed}"
    if FLAGS.overwrite:
      _identity.remove(path)
    if (path / _results.FILE_NAME).exists():
      _identity.check(path, _results.load_results(path)[0], identity)
      continue
    state, key = cells.state(seed), jax.random.key(seed)
    start = time.perf_counter()
    users = model.encode(state.params, model.context(dataset.train)).user
    parts = clusters(np.random.default_rng(seed), np.asarray(users), retained, len(epochs)).shards(retained)
    if FLAGS.method == "laser":
      scorer = serve_laser(key, model, train, parts, epochs, progress)
    else:
      scorer = serve_receraser(key, model, train, parts, epochs, progress, data=retained, aggregate=aggregate)
    jax.block_until_ready(scorer.vectors)
    seconds = time.perf_counter() - start
    utility, completeness = measure(scorer)
    result = _results.make_result(
      method=name,
      model=FLAGS.model,
      dataset=dataset.name,
      seeds=[seed],
      utility=utility,
      completeness=completeness,
      efficiency={"unlearn_seconds": seconds, "peak_memory_mb": _results.peak_memory_mb()},
      info={"pairs_of_groups": [len(part) for part in parts], "num_epochs": cells.config.num_epochs},
      **identity,
    )
    _results.write_result(path, result)
  if not FLAGS.quiet:
    _report.show(_results.load_cells(out))


if __name__ == "__main__":
  _flags.run(main, interrupted="Interrupted: what is finished is kept; the same command resumes.")
