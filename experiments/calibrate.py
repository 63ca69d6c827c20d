"""How strongly a method has to be set for a base model, without retraining it: `jaxunlearn.calibrate` as a command.

    python -m experiments.calibrate --dataset=ml-1m --model=bprmf --epochs=120 --out=runs/calibrate \\
        --methods="rownewton[num_rounds=1+scope=all],rownewton[num_rounds=2+scope=all],rownewton[num_rounds=4+scope=all]"

A tenth of train is held out, the base model is trained on the rest, and every setting forgets the same random trial
requests. After exact retraining forgotten and held-out pairs are told apart at an AUC of 0.5; the setting that comes
nearest is the one for requests to come. "retrain" among the methods is a check of that, and costs a training a trial;
it is not chosen.

Kept below --out, so that the same command resumes: the base model, and what was found of each setting.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import _common, _flags, _identity, _names, _report, _results
from experiments._methods import LIGHTUL, POST_HOC, defaults, settings, variant
from jaxunlearn import calibration
from jaxunlearn._validate import check_choice
from jaxunlearn.base import Unlearner, UnlearnResult
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.data.splits import hold_out
from jaxunlearn.models import CONFIGS
from jaxunlearn.recipes import recipe
from jaxunlearn.unlearn.lightul import LightULConfig, lightul
from jaxunlearn.unlearn.retrain import ModelState, retrain

FLAGS = flags.FLAGS
_common.data_flags("ml-100k")
flags.DEFINE_enum("model", "bprmf", list(CONFIGS), "base model")
flags.DEFINE_list(
  "methods", [f"rownewton[num_rounds={rounds}+scope=all]" for rounds in (1, 2, 3, 4, 6)] + ["retrain"],
  f"settings to choose from, METHOD[field=value+…] of {', '.join((*LIGHTUL, *POST_HOC))}; and retrain, as a check",
)  # fmt: skip
flags.DEFINE_integer("epochs", 60, "epochs of the base model", lower_bound=1)
flags.DEFINE_float("held_out", 0.1, "share of train that the base model is not trained on, in (0, 1)")
flags.DEFINE_float("ratio", 0.01, "share of its training pairs that a trial request forgets, in (0, 1)")
flags.DEFINE_integer("num_trials", 2, "trial requests", lower_bound=1)
flags.DEFINE_integer("seed", 0, "of the held-out pairs, the training and the trials", lower_bound=0)
flags.DEFINE_string("out", "runs/calibrate", "folder for result.json and what resumes")
flags.DEFINE_boolean("overwrite", False, "remove what --out keeps first")
flags.DEFINE_boolean("quiet", False, "no progress bar, no table")
_common.define_model_flags()
_common.define_lightul_flags()
for _name, (_, _config) in POST_HOC.items():
  _flags.define(_name, _config)


def main(argv: list[str]) -> None:
  """Trains, tries, chooses, writes."""
  del argv
  out = _results.prepare_out(FLAGS.out)
  _identity.alone(out, "calibration")
  _common.use_compilation_cache()
  for method in FLAGS.methods:
    check_choice("methods", variant(method)[0], ("retrain", *LIGHTUL, *POST_HOC))
  if not set(FLAGS.methods) - {"retrain"}:
    raise ValueError(f"Expected a setting to choose in --methods beside retrain, got {','.join(FLAGS.methods)!r}.")
  how = _common.override(recipe(FLAGS.model), FLAGS.model)
  model, config = how.model(FLAGS.model), dataclasses.replace(how.train_config, num_epochs=FLAGS.epochs)
  key = jax.random.key(FLAGS.seed)
  configs = {label: _settings(label, config) for label in FLAGS.methods}
  unlearners = {label: _unlearner(label, model, config, configs[label]) for label in configs}
  dataset = _common.load_dataset()
  train, held_out = hold_out(np.random.default_rng(FLAGS.seed), dataset.train, FLAGS.held_out)
  identity: dict[str, Any] = {
    "config": {"model": how.model_config, "train": config, "seed": FLAGS.seed},
    "trials": {"num_trials": FLAGS.num_trials, "ratio": FLAGS.ratio},
    "data_hash": train.digest(),
  }
  if FLAGS.overwrite:
    _identity.remove(out / "fit", out / "found")
  newer = {"config": _common.defaults(how)}
  _identity.claim(out / "found", identity, newer)
  progress = None if not FLAGS.quiet and sys.stderr.isatty() else False
  fitted = _common.timed_fit(key, model, train, config, folder=out / "fit", progress=progress)
  state = ModelState(fitted.value.params, train)
  measure = _common.Measure(dataclasses.replace(dataset, train=train, timestamp=None), mask=dataset.train)
  found = {
    label: _identity.kept(
      out / "found" / f"{label}.json",
      {**identity, "method": configs[label]},
      functools.partial(_tried, key, unlearner, state, train, held_out, measure),
      {**newer, "method": defaults(variant(label)[0])},
    )  # fmt: skip
    for label, unlearner in unlearners.items()
  }
  mean = {label: float(np.mean(one["auc"])) for label, one in found.items()}
  choice = {label: value for label, value in mean.items() if label != "retrain"}
  best = min(choice, key=lambda label: abs(choice[label] - calibration.TARGET))
  some = next(iter(found.values()))
  result = {
    "schema": _results.SCHEMA,
    "calibration": {label: {**one, "mean": mean[label], "method": configs[label]} for label, one in found.items()},
    "best": best,
    "bracketed": min(choice.values()) <= calibration.TARGET <= max(choice.values()),
    "before": some["before"],
    "standard_error": some["standard_error"],
    "utility": {"original": measure.utility(unlearners[next(iter(found))].scorer(state))},
    "num_held_out": len(held_out),
    "dataset": dataset.name,
    "model": FLAGS.model,
    **identity,
    **_results.provenance(),
  }
  path = _results.write_result(out, result)
  if not FLAGS.quiet:
    print(_report.text_table(*table(result), box=False))
    if not result["bracketed"]:
      print("No setting on either side of 0.5: one beyond these may be nearer.", file=sys.stderr)
    print(path, file=sys.stderr)


def table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
  """Headings and cells: mean AUC of every setting, in the order given, its trials, and NDCG@20 of what it serves."""

  def row(name: str, auc: list[float], ndcg: list[float], chosen: str = "") -> list[str]:
    return [name, f"{np.mean(auc):.4f}", ", ".join(f"{one:.4f}" for one in auc), f"{np.mean(ndcg):.4f}", chosen]

  body = [row("before the request", result["before"], [result["utility"]["original"]["ndcg@20"]])]
  for label, one in result["calibration"].items():
    body.append(row(_names.display(label), one["auc"], one["ndcg@20"], "chosen" if label == result["best"] else ""))
  return ["setting", f"AUC against held-out (0.5 ± {result['standard_error']:.4f})", "by trial", "NDCG@20", ""], body


def _tried(key: jax.Array, unlearner: Unlearner, state: Any, train: Interactions, held_out: Interactions,
           measure: _common.Measure) -> dict[str, Any]:  # fmt: skip
  """AUC of one setting, trial by trial, and what each serves."""
  utility: list[dict[str, float]] = []

  def unlearn(key: jax.Array, state: Any, request: Any) -> UnlearnResult:
    new = unlearner.unlearn(key, state, request)
    utility.append(measure.utility(unlearner.scorer(new.state)))
    return new

  found = calibration.calibrate(
    key, [unlearner._replace(unlearn=unlearn)], state, train, held_out, ratio=FLAGS.ratio, num_trials=FLAGS.num_trials
  )
  return {
    "auc": found.auc[0], "before": found.before, "standard_error": found.standard_error,
    "ndcg@20": [trial["ndcg@20"] for trial in utility],
  }  # fmt: skip


def _settings(label: str, config: Any) -> Any:
  """A method's configuration; None for retrain."""
  method, _, own = variant(label)
  if method in LIGHTUL:
    given = {**_common.present("lightul"), **own}
    return LightULConfig.preset("preserve", FLAGS.model, **{**given, "phantoms": method == "lightul"})
  return settings(method, FLAGS.model, config, {**_common.present(method), **own}).get("method")


def _unlearner(label: str, model: Any, train_config: Any, config: Any) -> Unlearner:
  method = variant(label)[0]
  if method == "retrain":
    return retrain(model, train_config, progress=False)
  if method in LIGHTUL:
    return lightul(model, train_config, config, progress=False)
  return POST_HOC[method][0](model, train_config, config, progress=False)


if __name__ == "__main__":
  _flags.run(main, interrupted="Interrupted: the base model and what was found of each setting resume.")
