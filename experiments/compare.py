"""Runs methods × models × seeds on one dataset and forget set, and makes one table and plot of them.

    python -m experiments.compare --dataset=ml-1m --models=bprmf,wmf --methods=original,retrain,lightul --seeds=5 \\
        --forget=../shared/data/ml-1m/forget/intr_0.01.txt --out=runs/compare

The number of epochs of a model is found once, on a validation part of train, and holds for all seeds and for Retrain. Every
cell is a result.json of its own; a cell that is there is not run again, so the same command resumes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import jax
from absl import flags
from tqdm import tqdm

from experiments import _common, _flags, _report, _results
from experiments._methods import METHODS, run_request
from jaxunlearn import checkpoint
from jaxunlearn._validate import check_choice
from jaxunlearn.base import Model
from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.recipes import RECIPES, Recipe, recipe
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn.lightul import OBJECTIVES, LightULConfig
from jaxunlearn.unlearn.retrain import ModelState, model_scorer

FLAGS = flags.FLAGS
_common.data_flags("synthetic")
flags.DEFINE_list("models", ["bprmf"], "base models, of bprmf, wmf, lightgcn, neumf")
flags.DEFINE_list("methods", ["original", "retrain", "lightul-wm", "lightul"], f"of original, {', '.join(METHODS)}")
flags.DEFINE_list("objectives", ["preserve"], f"of LightUL: {', '.join(OBJECTIVES)}")
flags.DEFINE_enum("recipe", "tuned", list(RECIPES), "training recipe; --train.* and --MODEL.* change single values of it")
flags.DEFINE_integer("seeds", 5, "number of seeds, 0 … seeds − 1")
flags.DEFINE_integer("epochs", 0, "epochs of every model; 0: found on a validation part of train")
flags.DEFINE_string("forget", None, "file of pairs to forget; without it one is drawn")
flags.DEFINE_enum("by", "interaction", ["interaction", "user", "item"], "what is drawn")
flags.DEFINE_float("ratio", 0.01, "share of the pairs that is drawn, in (0, 1)")
flags.DEFINE_enum("selection", "random", ["random", "core", "edge"], "how it is drawn")
flags.DEFINE_string("out", "runs/compare", "folder for all cells, the table and the plot")
flags.DEFINE_boolean("quiet", False, "no progress bar, no table")
_common.define_model_flags()
_flags.define("lightul", LightULConfig())


def num_epochs(folder: Path, model: Model, chosen: Recipe, data: Interactions, progress: bool | None) -> int:
  """Epochs of this model on this dataset: read from the folder, or found on a validation part with seed 0 and kept."""
  if FLAGS.epochs:
    return int(FLAGS.epochs)
  path = folder / "selection.json"
  if not path.exists():
    found = _common.select_epochs(jax.random.key(0), model, data, chosen.train_config, folder=folder / "select", progress=progress)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"num_epochs": max(1, found.num_epochs), "history": found.history}, indent=1))
    os.replace(temporary, path)
  return int(json.loads(path.read_text())["num_epochs"])


class Cells:
  """The cells of one model: trains an original a seed when one is needed, runs a method on it, writes a result."""

  def __init__(self, folder: Path, name: str, dataset: Dataset, forget: Interactions, measure: _common.Measure) -> None:
    self.folder, self.name, self.dataset, self.forget, self.measure = folder, name, dataset, forget, measure
    self.progress = False if FLAGS.quiet else None
    self.recipe = _common.override(recipe(name, FLAGS.recipe), name)
    self.model = self.recipe.model(name)
    epochs = num_epochs(_results.prepare_out(folder), self.model, self.recipe, dataset.train, self.progress)
    self.config: TrainConfig = dataclasses.replace(self.recipe.train_config, num_epochs=epochs)

  def run(self, method: str, objective: str, seed: int) -> None:
    """One cell, unless it is there."""
    label = method if method in ("original", "retrain") else f"{method}[{objective}]"
    out = self.folder / label / f"seed{seed}"
    if (out / _results.FILE_NAME).exists():
      return
    key, info = jax.random.key(seed), {}
    efficiency: dict[str, Any] = {}
    lightul = None
    if method == "original":
      fitted = _common.timed_fit(key, self.model, self.dataset.train, self.config, folder=out / "fit", progress=self.progress)
      state = ModelState(fitted.value.params, self.dataset.train)
      checkpoint.save(out / "model", state.params, overwrite=True)
      utility, completeness = self.measure(model_scorer(self.model, state))
      efficiency = {"fit_seconds": fitted.seconds, "compile_seconds": fitted.compile_seconds}
    else:
      self.run("original", objective, seed)
      params, _ = checkpoint.restore(self.folder / "original" / f"seed{seed}" / "model")
      lightul = LightULConfig.preset(objective, self.name, **_common.present("lightul"))
      state = ModelState(params, self.dataset.train)
      outcome = run_request(
        key, method, self.model, self.config, state, self.forget, self.measure, lightul=lightul, progress=self.progress
      )
      utility, completeness, info = outcome.utility, outcome.completeness, outcome.info
      efficiency = {"unlearn_seconds": outcome.seconds, "compile_seconds": outcome.compile_seconds}
      reference = self.folder / "retrain" / f"seed{seed}" / _results.FILE_NAME
      if method != "retrain" and reference.exists():
        retrained = _results.load_results(reference)[0]
        completeness["auc_retrain"] = retrained["completeness"]["auc"]
        efficiency["retrain_ratio"] = retrained["efficiency"]["unlearn_seconds"] / outcome.seconds
    result = _results.make_result(
      method=label,
      model=self.name,
      dataset=self.dataset.name,
      seeds=[seed],
      config={"recipe": FLAGS.recipe, "model": self.recipe.model_config, "train": self.config, "lightul": lightul},
      data_hash=self.dataset.train.digest(),
      forget_hash=self.forget.digest(),
      utility=utility,
      completeness=completeness,
      efficiency={**efficiency, "peak_memory_mb": _results.peak_memory_mb()},
      info={**info, "num_epochs": self.config.num_epochs},
    )
    _results.write_result(out, result)


def main(argv: list[str]) -> None:
  """All cells, then the table and the plot."""
  del argv
  out = _results.prepare_out(FLAGS.out)
  _common.use_compilation_cache()
  for method in FLAGS.methods:
    check_choice("methods", method, ("original", *METHODS))
  for objective in FLAGS.objectives:
    check_choice("objectives", objective, OBJECTIVES)
  dataset = _common.load_dataset()
  forget = _common.read_forget(FLAGS.forget, dataset.train, by=FLAGS.by, ratio=FLAGS.ratio, selection=FLAGS.selection, seed=0)
  measure = _common.Measure(dataset, forget)
  planned = [
    (name, method, objective, seed)
    for name in FLAGS.models
    for seed in range(FLAGS.seeds)
    for method in FLAGS.methods
    for objective in (FLAGS.objectives if method.startswith("lightul") else FLAGS.objectives[:1])
  ]
  cells: dict[str, Cells] = {}
  hide = FLAGS.quiet or not sys.stderr.isatty()
  for name, method, objective, seed in tqdm(planned, desc="cells", disable=hide):
    if name not in cells:
      cells[name] = Cells(out / name, name, dataset, forget, measure)
    cells[name].run(method, objective, seed)
  write_report(out, quiet=FLAGS.quiet)


def write_report(out: Path, *, quiet: bool) -> None:
  """table.md and plot.png/.svg of all cells below `out`, from their result.json alone."""
  results = _results.load_results(out)
  heads, body = _report.cells(_report.collect(results))
  temporary = out / "table.md.tmp"
  temporary.write_text(_report.markdown_table(heads, body) + "\n", encoding="utf-8")
  os.replace(temporary, out / "table.md")
  plots = _report.plot(results, out / "plot", title=f"{results[0]['dataset']}: utility against completeness")
  if not quiet:
    _report.show(results)
    print("\n".join(map(str, [out / "table.md", *plots])), file=sys.stderr)


if __name__ == "__main__":
  _flags.run(main)
