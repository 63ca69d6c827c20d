"""Forgets a part of a trained run's data and measures what is served afterwards.

    python -m experiments.fit --dataset=ml-1m --model=bprmf --out=runs/a
    python -m experiments.unlearn --run=runs/a --method=lightul --forget=../shared/data/ml-1m/forget/intr_0.01.txt --out=runs/b

Without --forget a forget set is drawn (--by, --ratio, --selection). --reference names the folder of a
`--method=retrain` result of the same run and forget set: its AUC and seconds are what the others are compared with.
Writes out/model (the new state) and out/result.json. --run may be the folder of an earlier request: then this one starts
from what that left, pairs and parameters (after LightUL vectors, which only LightUL and Retrain can go on from).
"""  # noqa: E501 (a command to copy stays on one line)

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import _common, _flags, _identity, _report, _results
from experiments._methods import CONFIGS as METHOD_CONFIGS
from experiments._methods import LIGHTUL, OWN_FIT, POST_HOC, run_request, settings, unfinished
from jaxunlearn import checkpoint
from jaxunlearn.base import Model
from jaxunlearn.data import datasets
from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.models import CONFIGS, build
from jaxunlearn.models.frozen import vectors_model
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn.lightul import OBJECTIVES, LightULConfig, ServedState
from jaxunlearn.unlearn.retrain import ModelState

FLAGS = flags.FLAGS
flags.DEFINE_string(
  "run", None, "folder that experiments.fit wrote, or this script for an earlier request", required=True
)
_HOW = f"how to forget; experiments.compare also has {', '.join(OWN_FIT)}, which train models of their own"
flags.DEFINE_enum("method", "lightul", ["retrain", *LIGHTUL, *POST_HOC], _HOW)
_common.forget_flags()
flags.DEFINE_string("reference", None, "folder of a retrain result to compare with")
flags.DEFINE_string("data_dir", None, "folder of dataset folders, if it has moved since the fit")
flags.DEFINE_string("out", "runs/unlearn", "folder for the state and result.json")
flags.DEFINE_integer("seed", 0, "of the request and of a drawn forget set", lower_bound=0)
flags.DEFINE_enum(
  "objective", "preserve", list(OBJECTIVES), "LightUL's objective; --lightul.* change single values of it"
)
flags.DEFINE_boolean("overwrite", False, "replace the result of another request in --out")
flags.DEFINE_boolean("quiet", False, "no progress bar, no table")
_common.define_lightul_flags()
for _name in POST_HOC:
  _flags.define(_name, METHOD_CONFIGS[_name])


def _model_config(name: str, stored: dict[str, Any] | None) -> Any:
  if stored is None:
    return None
  return CONFIGS[name](**{field: tuple(value) if isinstance(value, list) else value for field, value in stored.items()})


def _reference(path: str, identity: dict[str, Any]) -> dict[str, Any]:
  result = _results.load_results(path)[0]
  found = _identity.differences(result, _results.plain({"method": "retrain", **identity}))
  if found:
    raise ValueError(f"Expected in --reference={path} Retrain on the same run and forget set, but {'; '.join(found)}.")
  return result


def _restore(run: dict[str, Any], dataset: Dataset) -> tuple[Model, ModelState]:
  """The model and its state: as `fit` left them, or as the request before this one did.

  LightUL leaves vectors and no model. They can be whitened again; Retrain needs the pairs alone, and trains the model
  that the vectors came from.
  """
  model = build(run["model"], _model_config(run["model"], run["model_config"]))
  like: Any = jax.eval_shape(lambda key: model.init(key, dataset.num_users, dataset.num_items), jax.random.key(0))
  if "served_vectors" not in run:
    params, _ = _common.restore_run(FLAGS.run, lambda meta: like)
    return model, ModelState(params, dataset.train)
  if run["served_vectors"]:
    like = {"user": ..., "item": ...}
    model = model if FLAGS.method == "retrain" else vectors_model()
  pairs = {"user": ..., "item": ...}
  state, _ = _common.restore_run(FLAGS.run, lambda meta: {"params": like, "interactions": pairs})
  user, item = (np.asarray(state["interactions"][name]) for name in pairs)
  return model, ModelState(state["params"], Interactions(user, item, dataset.num_users, dataset.num_items))


def main(argv: list[str]) -> None:
  """Restores, forgets, measures, writes."""
  del argv
  if Path(FLAGS.out).resolve() == Path(FLAGS.run).resolve():
    raise ValueError(
      f"Expected --out={FLAGS.out} to be another folder than --run: the trained model stays where it is."
    )
  out = _results.prepare_out(FLAGS.out)
  _common.use_compilation_cache()
  _common.refuse_unused("lightul" if FLAGS.method in LIGHTUL else FLAGS.method)
  if FLAGS["objective"].present and FLAGS.method not in LIGHTUL:
    raise ValueError(f"Expected no --objective={FLAGS.objective} for --method={FLAGS.method}: it is LightUL's.")
  try:
    run = checkpoint.read_metadata(Path(FLAGS.run) / "model")
  except FileNotFoundError as error:
    raise ValueError(
      f"Expected --run={FLAGS.run} to be a folder that experiments.fit or experiments.unlearn finished: {error} An "
      "interrupted one goes on with the command it was started by."
    ) from error
  if "train_config" not in run:
    raise ValueError(f"Expected --run={FLAGS.run} to be a folder that experiments.fit or experiments.unlearn wrote.")
  dataset = datasets.load(run["dataset"], data_dir=FLAGS.data_dir or run["data_dir"])
  if dataset.train.digest() != run["data_hash"]:
    raise ValueError(f"Expected the pairs that {FLAGS.run} was trained on, got others: set --data_dir to their folder.")
  config = TrainConfig(**run["train_config"])
  model, before = _restore(run, dataset)
  forget = _common.forget_from_flags(before.interactions, seed=FLAGS.seed)
  identity = {
    "config": {"recipe": run["recipe"], "model": run["model_config"], "train": config},
    "model": run["model"],
    "seeds": [run["seed"]],
    "data_hash": before.interactions.digest(),
    "forget_hash": forget.digest(),
  }
  reference = _reference(FLAGS.reference, identity) if FLAGS.reference else None
  rest = dataclasses.replace(dataset, train=before.interactions, timestamp=None)
  measure = _common.Measure(rest, forget, mask=dataset.train)
  if FLAGS.method in LIGHTUL:
    chosen: dict[str, Any] = {
      "lightul": LightULConfig.preset(FLAGS.objective, run["model"], **_common.present("lightul"))
    }
  else:
    chosen = settings(FLAGS.method, run["model"], config, _common.present(FLAGS.method))
  asked = {**identity, "config": {**identity["config"], "lightul": None, **chosen}}
  seed = run["seed"] if FLAGS.method == "retrain" else FLAGS.seed
  if (out / _results.FILE_NAME).exists() and not FLAGS.overwrite:
    wanted = {"method": FLAGS.method, **asked, "info": {"request_seed": seed}}
    _identity.check(out, _results.load_results(out)[0], wanted)
  folder = unfinished(out, FLAGS.method, run["fit_seconds"])
  outcome = run_request(
    jax.random.key(seed),
    FLAGS.method,
    model,
    config,
    before,
    forget,
    measure,
    chosen=chosen.get("lightul", chosen.get("method")),
    checkpoint_dir=folder,
    progress=False if FLAGS.quiet else None,
  )
  completeness, efficiency = dict(outcome.completeness), {"unlearn_seconds": outcome.seconds}
  if reference is not None:
    if "auc" in reference["completeness"]:
      completeness["auc_retrain"] = reference["completeness"]["auc"]
    efficiency["retrain_ratio"] = _results.ratio(reference["efficiency"]["unlearn_seconds"], outcome.seconds)
  result = _results.make_result(
    method=FLAGS.method,
    dataset=dataset.name,
    **asked,
    utility=outcome.utility,
    completeness=completeness,
    efficiency={
      **efficiency,
      "fit_seconds": run["fit_seconds"],
      "compile_seconds": outcome.compile_seconds,
      "peak_memory_mb": _results.peak_memory_mb(),
    },
    info={**outcome.info, "request_seed": seed},
  )
  state = outcome.state
  kept = state.params if isinstance(state, ModelState) else {"user": state.vectors.user, "item": state.vectors.item}
  pairs = {"user": state.interactions.user, "item": state.interactions.item}
  served = {**run, "served_vectors": isinstance(state, ServedState), "forgotten": run.get("forgotten", 0) + len(forget)}
  _common.save_run(out, {"params": kept, "interactions": pairs}, served)
  path = _results.write_result(out, result)
  if folder is not None:
    _identity.remove(folder)
  if not FLAGS.quiet:
    _report.show([result])
    if measure.probe is None:
      print(_common.NO_AUC, file=sys.stderr)
    print(path, file=sys.stderr)


if __name__ == "__main__":
  _flags.run(
    main, interrupted="Interrupted: nothing was changed; run the command again (a Retrain of over ten minutes resumes)."
  )
