"""Ablations of the retraining family: partitions × aggregations, and the number of shards (RecEraser's Figures 2 to 4).

    python -m experiments.shards --dataset=ml-1m-receraser --model=bprmf --seeds=3 --out=runs/shards

Every cell is a result.json: what is served after a request of one random pair, the seconds of that request (submodel,
aggregator), balance. The submodels of a partition are trained once and shared by its aggregations. Cells that are there
are not run again, so the same command resumes. Below --out/MODEL it writes table.md, curves.json and index.html from
those files alone.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import _common, _flags, _identity, _page, _report, _results
from experiments._results import mean_sd
from jaxunlearn._validate import check_choice, check_positive
from jaxunlearn.aggregate import KINDS, AggregateConfig
from jaxunlearn.base import Embeddings
from jaxunlearn.models import CONFIGS
from jaxunlearn.recipes import Recipe, recipe
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn import _sharded
from jaxunlearn.unlearn._partitions import NAMES, partitioner, pretrained

FLAGS = flags.FLAGS
_common.data_flags("ml-1m-receraser")
flags.DEFINE_enum("model", "bprmf", list(CONFIGS), "base model of every shard")
flags.DEFINE_list("partitions", ["random", "ubp", "ibp", "inbp"], f"of {', '.join(NAMES)}")
flags.DEFINE_list("aggregations", list(KINDS), f"of {', '.join(KINDS)}")
flags.DEFINE_list("num_shards", ["5", "10", "20", "40"], "numbers of shards for --sweep; the first part runs with 10")
flags.DEFINE_string("sweep", "inbp", "partition of the sweep over the number of shards")
flags.DEFINE_integer("seeds", 3, "number of seeds: first_seed … first_seed + seeds − 1")
flags.DEFINE_integer("first_seed", 0, "the first of them; `summarise` pools what several folders have", lower_bound=0)
flags.DEFINE_integer("shard_epochs", 0, "epochs of every shard; 0: those of recipe shards", lower_bound=0)
flags.DEFINE_string("out", "runs/shards", "folder for all cells, the table and the page")
flags.DEFINE_boolean("overwrite", False, "remove the cells of this model in --out first, and run all of them anew")
flags.DEFINE_boolean("quiet", False, "no progress bar, no table")


def _recipe() -> Recipe:
  how = recipe(FLAGS.model, "shards")
  epochs = FLAGS.shard_epochs or how.train_config.num_epochs
  return how._replace(train_config=dataclasses.replace(how.train_config, num_epochs=epochs))


def _cells(
  out: Path, how: Recipe, dataset: Any, measure: Any, seed: int, name: str, num_shards: int, kinds: list[str]
) -> None:
  """All aggregations of one partition, those that are missing."""
  paths = {kind: out / f"{name}-{num_shards}" / kind / f"seed{seed}" for kind in kinds}
  missing = [kind for kind in kinds if not (paths[kind] / _results.FILE_NAME).exists()]
  if not missing:
    return
  data = dataset.train
  model, key = how.model(FLAGS.model), jax.random.key(seed)
  vectors: Embeddings = _common.cached_vectors(
    out / "vectors" / f"seed{seed}", lambda: pretrained(jax.random.key(seed), data)
  )
  start = time.perf_counter()
  part = partitioner(name, num_shards, vectors=lambda key, data: vectors)(jax.random.fold_in(key, 1), data)
  partition_seconds = time.perf_counter() - start
  mean = _sharded.ShardConfig(train=how.train_config, aggregate=AggregateConfig(kind="mean"))
  state = _sharded.fit_sharded(key, model, data, part, mean, progress=False if FLAGS.quiet else None)
  fit_seconds = time.perf_counter() - start - partition_seconds
  forget = _common.draw_pairs(np.random.default_rng(seed), data, 1)
  quick = dataclasses.replace(mean, train=dataclasses.replace(how.train_config, num_epochs=1))
  _sharded.unlearn_sharded(key, model, state, forget, quick, progress=False)  # compiles for the shard that is touched
  trained = _sharded.unlearn_sharded(key, model, state, forget, mean, progress=False)
  for kind in missing:
    aggregate = AggregateConfig(kind=kind, train=how.aggregate_train or AggregateConfig().train)
    config = dataclasses.replace(mean, aggregate=aggregate)
    compiled = _sharded.aggregate(key, model, config, state, False)
    jax.block_until_ready(compiled.aggregator)
    start = time.perf_counter()
    served = _sharded.aggregate(key, model, config, trained.state, False)
    jax.block_until_ready(served.aggregator)
    aggregate_seconds = time.perf_counter() - start
    utility, _ = measure(_sharded.sharded_scorer(model, config, served))
    _results.write_result(
      paths[kind],
      _results.make_result(
        method=f"{name}-{num_shards}-{kind}",
        model=FLAGS.model,
        dataset=dataset.name,
        seeds=[seed],
        config={"partition": name, "num_shards": num_shards, "aggregate": aggregate, "train": how.train_config,
                "model": how.model_config},
        data_hash=data.digest(),
        forget_hash="",
        utility=utility,
        completeness={},
        efficiency={
          "fit_seconds": fit_seconds,
          "unlearn_seconds": trained.info["shard_seconds"] + aggregate_seconds,
          "peak_memory_mb": _results.peak_memory_mb(),
        },
        info={
          "shard_seconds": trained.info["shard_seconds"],
          "aggregate_seconds": aggregate_seconds,
          "partition_seconds": partition_seconds,
          "balance": part.balance,
          **{f"partition_{key}": value for key, value in part.info.items()},
        },
      ),
    )  # fmt: skip


def curves(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Recall@20 by partition and aggregation, Recall@20 and seconds a request by the number of shards."""
  cells: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
  for result in results:
    config = result["config"]
    cells.setdefault((config["partition"], config["num_shards"], config["aggregate"]["kind"]), []).append(result)

  def values(cell: tuple[str, int, str], metric: str) -> tuple[float, float] | None:
    if cell not in cells:  # a command that ran part of the grid
      return None
    return mean_sd([number for result in cells[cell] for number in _numbers(result, metric)])

  kinds = [kind for kind in KINDS if any(cell[2] == kind for cell in cells)]
  names = [name for name in NAMES if any((name, 10, kind) in cells for kind in kinds)]
  found = []
  if len(names) > 1:
    found.append(_curve(
      "Recall@20 by partition and aggregation, 10 shards", "partition", "Recall@20", kinds, names,
      lambda kind, name: values((name, 10, kind), "utility.recall@20"),
    ))  # fmt: skip
  for label, metric in (("Recall@20", "utility.recall@20"), ("seconds a request", "efficiency.unlearn_seconds")):
    for name in NAMES:
      numbers = sorted({cell[1] for cell in cells if cell[0] == name})
      if len(numbers) > 1:
        found.append(_curve(
          f"{label} by the number of shards, {name}", "shards", label, kinds, numbers,
          lambda kind, number, name=name, metric=metric: values((name, number, kind), metric),
        ))  # fmt: skip
  return found


def _numbers(result: dict[str, Any], metric: str) -> list[float]:
  """A metric's values, one a seed: a cell has one, what `summarise` pooled has several."""
  part, _, name = metric.partition(".")
  value = result[part][name]
  return [float(number) for number in (value["values"] if isinstance(value, dict) else [value]) if number is not None]


def _curve(title: str, x_label: str, y_label: str, series: list[str], x: list[Any], value: Any) -> dict[str, Any]:
  lines = []
  for name in series:
    pairs = [(at, found) for at in x if (found := value(name, at)) is not None]
    lines.append(
      {"name": name, "x": [at for at, _ in pairs], "y": [y for _, (y, _) in pairs], "sd": [sd for _, (_, sd) in pairs]}
    )
  return {"title": title, "x_label": x_label, "y_label": y_label, "series": lines}


def main(argv: list[str]) -> None:
  """All cells, then the table and the page."""
  del argv
  out = _results.prepare_out(FLAGS.out) / FLAGS.model
  _common.use_compilation_cache()
  check_positive("seeds", FLAGS.seeds)
  for flag, choices in (("partitions", NAMES), ("aggregations", KINDS)):
    for value in getattr(FLAGS, flag):
      check_choice(flag, value, choices)
  check_choice("sweep", FLAGS.sweep, NAMES)
  dataset, how = _common.load_dataset(), _recipe()
  measure = _common.Measure(dataset)
  sweep = [(FLAGS.sweep, int(number)) for number in FLAGS.num_shards]
  for _, number in sweep:
    check_positive("num_shards", number)
  if FLAGS.overwrite:
    _identity.remove(*out.glob("*/*/seed*"), *out.glob("vectors/seed*"), out / _identity.FILE_NAME)
  settings = {"model": how.model_config, "train": how.train_config, "aggregate_train": how.aggregate_train}
  newer = {"config": {**_common.defaults(how), "aggregate_train": TrainConfig()}}
  _identity.claim(out, {"config": settings, "data_hash": dataset.train.digest()}, newer)
  planned = list(dict.fromkeys([*((name, 10) for name in FLAGS.partitions), *sweep]))
  seeds = range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.seeds)
  todo = [(seed, *cell) for seed in seeds for cell in planned]
  for seed, name, number in tqdm(todo, desc="partitions", disable=FLAGS.quiet or not sys.stderr.isatty()):
    _cells(out, how, dataset, measure, seed, name, number, list(FLAGS.aggregations))
  results = _results.load_cells(out)
  drawn = curves(results)
  _identity.write_json(out / "curves.json", drawn)
  files = _report.write(results, out, title=f"{dataset.name}, {FLAGS.model}: partitions, aggregations, shards")
  page = _page.write_page(results, out / "index.html", title=f"{dataset.name}, {FLAGS.model}: shards", curves=drawn)
  if not FLAGS.quiet:
    _report.show(results)
    print("\n".join(map(str, [*files, page])), file=sys.stderr)


if __name__ == "__main__":
  _flags.run(main)
