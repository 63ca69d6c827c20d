"""Forgets a part of a trained run's data and measures what is served afterwards.

    python -m experiments.fit --dataset=ml-1m --model=bprmf --out=runs/a
    python -m experiments.unlearn --run=runs/a --method=lightul --forget=../shared/data/ml-1m/forget/intr_0.01.txt --out=runs/b

Without --forget a forget set is drawn (--by, --ratio, --selection). --reference names the folder of a `--method=retrain`
result of the same run and forget set: its AUC and seconds are what the others are compared with.
Writes out/model (the new state) and out/result.json.
"""  # noqa: E501 (a command to copy stays on one line)

from __future__ import annotations

import sys
from typing import Any

import jax
from absl import flags

from experiments import _common, _flags, _report, _results
from experiments._methods import METHODS, run_request
from jaxunlearn.data import datasets
from jaxunlearn.models import CONFIGS, build
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn.lightul import OBJECTIVES, LightULConfig, ServedState
from jaxunlearn.unlearn.retrain import ModelState

FLAGS = flags.FLAGS
flags.DEFINE_string("run", None, "folder that experiments.fit wrote", required=True)
flags.DEFINE_enum("method", "lightul", list(METHODS), "how to forget")
flags.DEFINE_string("forget", None, "file of pairs to forget, `user item item …` a line, positions as in the data set")
flags.DEFINE_enum("by", "interaction", ["interaction", "user", "item"], "what is drawn when there is no --forget")
flags.DEFINE_float("ratio", 0.01, "share of the pairs that is drawn when there is no --forget, in (0, 1)")
flags.DEFINE_enum("selection", "random", ["random", "core", "edge"], "how it is drawn")
flags.DEFINE_string("reference", None, "folder of a retrain result to compare with")
flags.DEFINE_string("data_dir", None, "folder of dataset folders, if it has moved since the fit")
flags.DEFINE_string("out", "runs/unlearn", "folder for the state and result.json")
flags.DEFINE_integer("seed", 0, "of the request and of a drawn forget set")
flags.DEFINE_enum("objective", "preserve", list(OBJECTIVES), "LightUL's objective; --lightul.* change single values of it")
flags.DEFINE_boolean("quiet", False, "no progress bar, no table")
_flags.define("lightul", LightULConfig())


def _model_config(name: str, stored: dict[str, Any] | None) -> Any:
  if stored is None:
    return None
  return CONFIGS[name](**{field: tuple(value) if isinstance(value, list) else value for field, value in stored.items()})


def main(argv: list[str]) -> None:
  """Restores, forgets, measures, writes."""
  del argv
  out = _results.prepare_out(FLAGS.out)
  _common.use_compilation_cache()
  params, run = _common.restore_run(FLAGS.run, lambda meta: None)
  dataset = datasets.load(run["dataset"], data_dir=FLAGS.data_dir or run["data_dir"])
  if dataset.train.digest() != run["data_hash"]:
    raise ValueError(f"Expected the training data of {FLAGS.run}, got other pairs for {run['dataset']}; set --data_dir.")
  model = build(run["model"], _model_config(run["model"], run["model_config"]))
  config = TrainConfig(**run["train_config"])
  forget = _common.read_forget(
    FLAGS.forget, dataset.train, by=FLAGS.by, ratio=FLAGS.ratio, selection=FLAGS.selection, seed=FLAGS.seed
  )
  measure = _common.Measure(dataset, forget)
  lightul = LightULConfig.preset(FLAGS.objective, run["model"], **_common.present("lightul"))
  seed = run["seed"] if FLAGS.method == "retrain" else FLAGS.seed
  outcome = run_request(
    jax.random.key(seed),
    FLAGS.method,
    model,
    config,
    ModelState(params, dataset.train),
    forget,
    measure,
    lightul=lightul,
    progress=False if FLAGS.quiet else None,
  )
  completeness, efficiency = dict(outcome.completeness), {"unlearn_seconds": outcome.seconds}
  if FLAGS.reference:
    reference = _results.load_results(FLAGS.reference)[0]
    if reference["forget_hash"] != forget.digest() or reference["data_hash"] != run["data_hash"]:
      raise ValueError(f"Expected --reference={FLAGS.reference} to be of the same data and forget set; run retrain for it.")
    completeness["auc_retrain"] = reference["completeness"]["auc"]
    efficiency["retrain_ratio"] = reference["efficiency"]["unlearn_seconds"] / outcome.seconds
  result = _results.make_result(
    method=FLAGS.method,
    model=run["model"],
    dataset=dataset.name,
    seeds=[run["seed"]],
    config={"recipe": run["recipe"], "train": config, "lightul": lightul if FLAGS.method != "retrain" else None},
    data_hash=run["data_hash"],
    forget_hash=forget.digest(),
    utility=outcome.utility,
    completeness=completeness,
    efficiency={
      **efficiency,
      "fit_seconds": run["fit_seconds"],
      "compile_seconds": outcome.compile_seconds,
      "peak_memory_mb": _results.peak_memory_mb(),
    },
    info=outcome.info,
  )
  state = outcome.state
  kept = state.params if isinstance(state, ModelState) else {"user": state.vectors.user, "item": state.vectors.item}
  pairs = {"user": state.interactions.user, "item": state.interactions.item}
  served = {**run, "served_vectors": isinstance(state, ServedState), "forgotten": len(forget)}
  _common.save_run(out, {"params": kept, "interactions": pairs}, served)
  path = _results.write_result(out, result)
  if not FLAGS.quiet:
    _report.show([result])
    print(path, file=sys.stderr)


if __name__ == "__main__":
  _flags.run(main, interrupted="Interrupted: nothing was changed; run the command again.")
