"""Unlearners from their names, and one measured request: what scripts and sweeps run in the same way."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments import _flags
from experiments._common import Measure
from jaxunlearn import checkpoint
from jaxunlearn._validate import check_choice
from jaxunlearn.aggregate import AggregateConfig
from jaxunlearn.base import Model, Scorer, Unlearner, UnlearnResult
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.recipes import Recipe, recipe
from jaxunlearn.train import TrainConfig, fit
from jaxunlearn.unlearn.finetune import FinetuneConfig, finetune
from jaxunlearn.unlearn.gradient_ascent import GradientAscentConfig, gradient_ascent
from jaxunlearn.unlearn.grapheraser import GraphEraserConfig, grapheraser
from jaxunlearn.unlearn.ifru import IFRUConfig, ifru
from jaxunlearn.unlearn.l2unrank import L2UnRankConfig, l2unrank
from jaxunlearn.unlearn.laser import LASERConfig, laser
from jaxunlearn.unlearn.lightul import LightULConfig, unlearn, vectors_scorer
from jaxunlearn.unlearn.receraser import RecEraserConfig, receraser
from jaxunlearn.unlearn.retrain import ModelState, model_scorer, retrain
from jaxunlearn.unlearn.rownewton import RowNewtonConfig, rownewton
from jaxunlearn.unlearn.sisa import SISAConfig, sisa

Factory = Callable[..., Unlearner]  # (model, train_config, config, progress=…)
# They start from the trained model.
POST_HOC: dict[str, tuple[Factory, Any]] = {
  "finetune": (finetune, FinetuneConfig()),
  "gradient-ascent": (gradient_ascent, GradientAscentConfig()),
  "ifru": (ifru, IFRUConfig()),
  "l2unrank": (l2unrank, L2UnRankConfig()),
  "rownewton": (rownewton, RowNewtonConfig()),
}
# They train models of their own.
OWN_FIT: dict[str, tuple[Factory, Any]] = {
  "sisa": (sisa, SISAConfig()),
  "grapheraser": (grapheraser, GraphEraserConfig()),
  "receraser": (receraser, RecEraserConfig()),
  "receraser-released": (receraser, RecEraserConfig(partition="inbp-released")),
  "receraser-ubp": (receraser, RecEraserConfig(partition="ubp-pairs", aggregate=AggregateConfig(kind="combined"))),
  "laser": (laser, LASERConfig()),
}
LIGHTUL = ("lightul", "lightul-wm")
METHODS = ("retrain", *LIGHTUL, *POST_HOC, *OWN_FIT)
AS_PUBLISHED = "ndcg@20_unwhitened"  # LightUL: of the vectors before Ω, which are not those that are served
_LONG = 600.0  # seconds of a fit from which Retrain keeps checkpoints: saving them is a part of its seconds
_QUICK = 5.0  # seconds of a request up to which it is timed three times
CONFIGS: dict[str, Any] = {name: config for name, (_, config) in (POST_HOC | OWN_FIT).items()}


class Outcome(NamedTuple):
  """One request: the new state, its scorer and what that measures, seconds after compilation and of it, diagnostics."""

  state: Any
  scorer: Scorer
  utility: dict[str, float]
  completeness: dict[str, float]
  seconds: float
  compile_seconds: float
  info: dict[str, Any]


def variant(text: str) -> tuple[str, str, dict[str, Any]]:
  """Takes "l2unrank[hops=2]" apart: the method, "hops=2", and {"hops": 2}; a method that is named alone has ("", {}).

  Raises:
    ValueError: no such method, or no such field of it.
  """
  method, bracket, rest = text.partition("[")
  check_choice("methods", method, ("original", *METHODS))
  if not bracket:
    return method, "", {}
  config = defaults(method)
  if config is None or not rest.endswith("]"):
    raise ValueError(f"Expected METHOD or METHOD[field=value+…] for a method with a configuration, got {text!r}.")
  changes = _flags.parse_fields(config, rest[:-1])
  if method in LIGHTUL and changes.keys() & {"objective", "phantoms"}:
    raise ValueError(f"Expected LightUL's objective in --objectives, and no phantoms as lightul-wm, got {text!r}.")
  return method, rest[:-1], changes


def defaults(method: str) -> Any:
  """A method's configuration as it is where nothing is set; None for those that have none."""
  return LightULConfig() if method in LIGHTUL else CONFIGS.get(method)


def settings(
  method: str, model: str, train: TrainConfig, changes: Mapping[str, Any], *, shard_epochs: int = 0,
  shard_recipe: str = "", shard_changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
  """All that a method is configured by, for its record: {} for retrain.

  Args:
    method: one of `METHODS`, LightUL's two aside.
    model: the base model's name.
    train: how the base model is trained; a post-hoc method weighs examples as training did.
    changes: {field: value} of the method's configuration, dotted for a field of a field.
    shard_epochs: of every shard of a method that trains models of its own; 0: the recipe's.
    shard_recipe: of such a method; "": "user-shards" of receraser-ubp, "shards" of the others.
    shard_changes: of that recipe, {"train.learning_rate": …, "wmf.l2": …}; those of other base models are left out.
  """
  if method == "retrain":
    return {}
  named = shard_recipe or ("user-shards" if method == "receraser-ubp" else "shards")
  shards = recipe(model, named) if method in OWN_FIT else None
  config = CONFIGS[method] if shards is None else _with_aggregate(CONFIGS[method], shards)
  if method == "ifru":
    config = IFRUConfig.preset(model)
  elif method == "l2unrank":
    config = L2UnRankConfig.preset(model, train)
  elif method == "rownewton":
    config = RowNewtonConfig.preset(model, train)
  config = replace_dotted(config, changes)
  if shards is not None:
    given = shard_changes or {}
    how = replace_dotted(shards.train_config, _below("train", given))
    how = dataclasses.replace(how, num_epochs=shard_epochs or how.num_epochs)
    shard_model = replace_dotted(shards.model_config, _below(model, given))
    return {"method": config, "shard_model": shard_model, "shard_train": how}
  fields = {field.name for field in dataclasses.fields(config)}
  known = {"user_weight_power": train.user_weight_power, "avoid_positives": train.avoid_positives}
  known["train_negatives"] = train.num_negatives
  if method in ("ifru", "gradient-ascent") and model == "neumf":  # its loss is a sum over them, BPR's a mean
    known["num_negatives"] = train.num_negatives
  config = dataclasses.replace(config, **{n: v for n, v in known.items() if n in fields and n not in changes})
  return {"method": config}


def _below(prefix: str, changes: Mapping[str, Any]) -> dict[str, Any]:
  """{"b": 1} of "a" in {"a.b": 1, "c.d": 2}."""
  start = f"{prefix}."
  return {name[len(start) :]: value for name, value in changes.items() if name.startswith(start)}


def _with_aggregate(config: Any, shards: Recipe) -> Any:
  """GraphEraser's and RecEraser's configuration with the aggregator of the recipe."""
  if not hasattr(config, "aggregate") or shards.aggregate_train is None:
    return config
  weight = config.aggregate.mean_weight if shards.mean_weight is None else shards.mean_weight
  how = dataclasses.replace(config.aggregate, train=shards.aggregate_train, mean_weight=weight)
  return dataclasses.replace(config, aggregate=how)


def replace_dotted(config: Any, changes: Mapping[str, Any]) -> Any:
  """`dataclasses.replace` for names like "aggregate.train.num_epochs"."""
  nested: dict[str, dict[str, Any]] = {}
  for name, value in changes.items():
    first, _, rest = name.partition(".")
    nested.setdefault(first, {})[rest] = value
  new = {
    name: parts[""] if "" in parts else replace_dotted(getattr(config, name), parts) for name, parts in nested.items()
  }
  return dataclasses.replace(config, **new)


def run_request(
  key: jax.Array,
  method: str,
  model: Model,
  config: TrainConfig,
  state: ModelState,
  forget: Interactions,
  measure: Measure,
  *,
  chosen: Any = None,
  checkpoint_dir: Path | None = None,
  progress: bool | None = None,
) -> Outcome:
  """Serves one request to a trained model, and measures what is served afterwards.

  Post-hoc methods run cold and then warm; Retrain runs one epoch before, which compiles all that its others run.

  Args:
    key: of the request; for "retrain" that of the fit, so that only the data differ.
    method: one of `METHODS` that is not in `OWN_FIT`; "lightul-wm" is LightUL without phantoms, whatever `chosen` says.
    model: the base model.
    config: how it was trained; Retrain trains so again, the number of epochs included.
    state: before the request.
    forget: the pairs.
    measure: of utility and completeness.
    chosen: the method's configuration.
    checkpoint_dir: where Retrain keeps checkpoints and resumes from them, with NaN seconds then; others keep none.
    progress: as for `train.fit`.
  """
  check_choice("method", method, tuple(m for m in METHODS if m not in OWN_FIT))
  if method == "retrain":
    retained = state.interactions.without(forget)
    warm_up = dataclasses.replace(config, num_epochs=1)
    _, cold = _timed(lambda: UnlearnResult(fit(key, model, retained, warm_up, progress=False).params, {}))
    resumed = checkpoint_dir is not None and bool(checkpoint.steps(checkpoint_dir))
    unlearner = retrain(model, config, progress=progress, checkpoint_dir=checkpoint_dir)
    result, seconds = _timed(lambda: unlearner.unlearn(key, state, forget))
    compile_seconds = max(0.0, cold - seconds / config.num_epochs)
    if resumed:
      seconds = compile_seconds = math.nan
    return _outcome(result, model_scorer(model, result.state), measure, seconds, compile_seconds)
  if method in LIGHTUL:
    return _lightul(key, method, model, state, forget, measure, chosen)
  factory, default = POST_HOC[method]
  unlearner = factory(model, config, chosen or default, progress=progress)
  _, cold = _timed(lambda: unlearner.unlearn(key, state, forget))
  result, seconds = _warm(lambda: unlearner.unlearn(key, state, forget))
  return _outcome(result, unlearner.scorer(result.state), measure, seconds, max(0.0, cold - seconds))


def unfinished(out: Path, method: str, fit_seconds: float | None) -> Path | None:
  """Where a Retrain of so long a fit (None: not known) keeps its checkpoints until it is done; None: nowhere."""
  return out / "fit" if method == "retrain" and (fit_seconds is None or fit_seconds > _LONG) else None


def _outcome(
  result: UnlearnResult, scorer: Scorer, measure: Measure, seconds: float, compile_seconds: float
) -> Outcome:
  utility, completeness = measure(scorer)
  return Outcome(result.state, scorer, utility, completeness, seconds, compile_seconds, dict(result.info))


def _lightul(
  key: jax.Array,
  method: str,
  model: Model,
  state: ModelState,
  forget: Interactions,
  measure: Measure,
  chosen: LightULConfig | None,
) -> Outcome:
  config = dataclasses.replace(chosen or LightULConfig(), phantoms=method == "lightul")

  def request() -> UnlearnResult:
    return unlearn(key, model, state.params, state.interactions, forget, config, diagnostics=True)

  _, cold = _timed(request)
  result, seconds = _warm(request)
  outcome = _outcome(result, vectors_scorer(result.state.vectors), measure, seconds, max(0.0, cold - seconds))
  # The released code ranks with these and takes the AUC from the whitened ones: shown beside, never as the utility.
  as_published, _ = measure(vectors_scorer(outcome.info.pop("unwhitened")))
  outcome.utility[AS_PUBLISHED] = as_published["ndcg@20"]
  return outcome


class OwnOutcome(NamedTuple):
  """A method's own model, trained, and a request to it: both served states measured."""

  outcome: Outcome
  fit_scorer: Scorer
  fit_seconds: float
  fit_utility: dict[str, float]
  fit_completeness: dict[str, float]


def run_own(
  key: jax.Array,
  method: str,
  model_name: str,
  chosen: dict[str, Any],
  data: Interactions,
  forget: Interactions,
  measure: Measure,
  *,
  vectors: Any = None,
  progress: bool | None = None,
) -> OwnOutcome:
  """Trains a method's own model (SISA, GraphEraser, RecEraser, LASER), serves one request, and measures both.

  Compilation for all shards is in `fit_seconds`. Those that a request touches may need programs of their own (their
  number on a GPU, WMF's strata): it is served once before with one epoch a shard and no aggregator.

  Args:
    key: of the fit and of the request, as exactness asks for.
    method: one of `OWN_FIT`.
    model_name: of the base model.
    chosen: from `settings`.
    data: all pairs.
    forget: the pairs of the request.
    measure: of utility and completeness.
    vectors: (key, interactions) -> Embeddings that a partition is made from, or None for pre-training anew.
    progress: as for `train.fit`.
  """
  model = Recipe(chosen["shard_model"], chosen["shard_train"]).model(model_name)
  factory, config, train = OWN_FIT[method][0], chosen["method"], chosen["shard_train"]
  options = {"vectors": vectors} if factory in (grapheraser, receraser) else {}
  unlearner = factory(model, train, config, progress=progress, **options)
  start = time.perf_counter()
  state = unlearner.fit(key, data)
  jax.block_until_ready(jax.tree.leaves(state))
  fit_seconds = time.perf_counter() - start
  fit_scorer = unlearner.scorer(state)
  fit_utility, fit_completeness = measure(fit_scorer)
  if hasattr(config, "aggregate"):
    config = dataclasses.replace(config, aggregate=AggregateConfig(kind="mean"))
  quick = factory(model, dataclasses.replace(train, num_epochs=1), config, progress=False, **options)
  bare = state.replace(aggregator={}) if hasattr(config, "aggregate") else state  # compiles the submodels' training
  _, cold = _timed(lambda: quick.unlearn(key, bare, forget))
  result, seconds = _timed(lambda: unlearner.unlearn(key, state, forget))
  compile_seconds = max(0.0, cold - result.info["seconds"] / train.num_epochs)
  outcome = _outcome(result, unlearner.scorer(result.state), measure, seconds, compile_seconds)
  outcome.info["partition"] = repr(state.partition)
  return OwnOutcome(outcome, fit_scorer, fit_seconds, fit_utility, fit_completeness)


def _warm(work: Any) -> tuple[UnlearnResult, float]:
  """A compiled request and its seconds: the median of three where they are quick, since the first still maps memory."""
  result, first = _timed(work)
  more = [_timed(work)[1] for _ in range(2)] if first < _QUICK else []
  return result, statistics.median([first, *more])


def _timed(work: Any) -> tuple[UnlearnResult, float]:
  start = time.perf_counter()
  result = work()
  jax.block_until_ready(jax.tree.leaves(result.state))
  return result, time.perf_counter() - start
