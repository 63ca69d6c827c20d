"""Trains a base model and measures what it serves.

    python -m experiments.fit --dataset=ml-1m --model=bprmf --out=runs/a

The number of epochs is found on a validation part of train, then the model is trained on all of train for that many.
Writes out/model (parameters) and out/result.json. The same command resumes where it was stopped, and does nothing when
it is done; where --out holds a run of other settings or data, the command stops and says what differs.
"""

from __future__ import annotations

import dataclasses
import sys

import jax
from absl import flags

from experiments import _common, _flags, _identity, _report, _results
from jaxunlearn.base import scorer_of
from jaxunlearn.recipes import RECIPES, recipe

FLAGS = flags.FLAGS
_common.data_flags("synthetic")
flags.DEFINE_enum("model", "bprmf", ["bprmf", "wmf", "lightgcn", "neumf", "popularity"], "base model")
flags.DEFINE_enum(
  "recipe", "tuned", list(RECIPES), "training recipe; --train.* and --MODEL.* change single values of it"
)
flags.DEFINE_string("out", "runs/fit", "folder for the model and result.json")
flags.DEFINE_integer("seed", 0, "everything random is drawn from it", lower_bound=0)
flags.DEFINE_boolean("select", True, "find the number of epochs on a validation part; else train --train.num_epochs")
flags.DEFINE_boolean("overwrite", False, "remove the run in --out first, and train anew")
flags.DEFINE_boolean("quiet", False, "no progress bar, no table")
_common.define_model_flags()

COLUMNS = ("utility.ndcg@20", "utility.recall@20", "efficiency.fit_seconds")


def main(argv: list[str]) -> None:
  """Fits, measures, writes."""
  del argv
  out = _results.prepare_out(FLAGS.out)
  _common.use_compilation_cache()
  _common.refuse_unused("train", FLAGS.model)
  progress = False if FLAGS.quiet else None
  dataset = _common.load_dataset()
  chosen = _common.override(recipe(FLAGS.model, FLAGS.recipe), FLAGS.model)
  model, config, key = chosen.model(FLAGS.model), chosen.train_config, jax.random.key(FLAGS.seed)
  if FLAGS.overwrite:
    names = (_identity.FILE_NAME, _results.FILE_NAME, "model", "select", "fit")
    _identity.remove(*(out / name for name in names))
  identity = {
    "config": {"recipe": FLAGS.recipe, "model": chosen.model_config, "train": config},
    "model": FLAGS.model,
    "seed": FLAGS.seed,
    "select": FLAGS.select,
    "data_hash": dataset.train.digest(),
  }
  _identity.claim(out, identity, {"config": _common.defaults(chosen)})
  if (out / _results.FILE_NAME).exists():
    if not FLAGS.quiet:
      _report.show(_results.load_results(out / _results.FILE_NAME), COLUMNS)
      print(f"{out / _results.FILE_NAME} was there already; --overwrite trains anew.", file=sys.stderr)
    return
  history = []
  if FLAGS.select and model.batches != "none":
    selected = _common.select_epochs(key, model, dataset.train, config, folder=out / "select", progress=progress)
    config, history = dataclasses.replace(config, num_epochs=max(1, selected.num_epochs)), selected.history
  fitted = _common.timed_fit(key, model, dataset.train, config, folder=out / "fit", progress=progress)
  utility, _ = _common.Measure(dataset)(scorer_of(model, fitted.value.params, fitted.value.context))
  result = _results.make_result(
    method="original",
    model=FLAGS.model,
    dataset=dataset.name,
    seeds=[FLAGS.seed],
    config={"recipe": FLAGS.recipe, "model": chosen.model_config, "train": config},
    data_hash=dataset.train.digest(),
    forget_hash="",
    utility=utility,
    completeness={},
    efficiency={
      "fit_seconds": fitted.seconds,
      "compile_seconds": fitted.compile_seconds,
      "peak_memory_mb": _results.peak_memory_mb(),
    },
    info={"num_epochs": config.num_epochs, "selection": history, "notes": dataset.notes},
  )
  metadata = {
    "dataset": FLAGS.dataset,
    "data_dir": FLAGS.data_dir,
    "model": FLAGS.model,
    "seed": FLAGS.seed,
    "recipe": FLAGS.recipe,
    "model_config": _results.plain(chosen.model_config),
    "train_config": _results.plain(config),
    "data_hash": dataset.train.digest(),
    "fit_seconds": _results.plain(fitted.seconds),
  }
  _common.save_run(out, fitted.value.params, metadata)
  path = _results.write_result(out, result)
  if not FLAGS.quiet:
    _report.show([result], COLUMNS)
    print(f"{path} ({config.num_epochs} epochs)", file=sys.stderr)


if __name__ == "__main__":
  _flags.run(main)
