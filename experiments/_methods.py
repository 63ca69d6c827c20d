"""Unlearners from their names, and one measured request: what scripts and sweeps run in the same way."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, NamedTuple

import jax

from experiments._common import Measure
from jaxunlearn._validate import check_choice
from jaxunlearn.base import Model, UnlearnResult
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.train import TrainConfig, fit
from jaxunlearn.unlearn.lightul import LightULConfig, unlearn, vectors_scorer
from jaxunlearn.unlearn.retrain import ModelState, model_scorer, retrain

METHODS = ("retrain", "lightul", "lightul-wm")


class Outcome(NamedTuple):
  """One request: the new state, what it serves measured, seconds after compilation and of it, diagnostics."""

  state: Any
  utility: dict[str, float]
  completeness: dict[str, float]
  seconds: float
  compile_seconds: float
  info: dict[str, Any]


def run_request(
  key: jax.Array,
  method: str,
  model: Model,
  config: TrainConfig,
  state: ModelState,
  forget: Interactions,
  measure: Measure,
  *,
  lightul: LightULConfig | None = None,
  progress: bool | None = None,
) -> Outcome:
  """Serves one request, and measures what is served afterwards.

  LightUL runs twice, cold and warm; Retrain runs one epoch before, which compiles all that its others run.

  Args:
    key: of the request; for "retrain" that of the fit, so that only the data differ.
    method: one of `METHODS`; "lightul-wm" is LightUL without phantoms, whatever `lightul` says.
    model: the base model.
    config: how it was trained; Retrain trains so again, the number of epochs included.
    state: before the request.
    forget: the pairs.
    measure: of utility and completeness.
    lightul: LightUL's configuration.
    progress: as for `train.fit`.
  """
  check_choice("method", method, METHODS)
  if method == "retrain":
    retained = state.interactions.without(forget)
    warm_up = dataclasses.replace(config, num_epochs=1)
    _, cold = _timed(lambda: UnlearnResult(fit(key, model, retained, warm_up, progress=False).params, {}))
    result, seconds = _timed(lambda: retrain(model, config, progress=progress).unlearn(key, state, forget))
    utility, completeness = measure(model_scorer(model, result.state))
    compile_seconds = max(0.0, cold - seconds / config.num_epochs)
    return Outcome(result.state, utility, completeness, seconds, compile_seconds, dict(result.info))

  chosen = dataclasses.replace(lightul or LightULConfig(), phantoms=method == "lightul")

  def request() -> UnlearnResult:
    return unlearn(key, model, state.params, state.interactions, forget, chosen, diagnostics=True)

  _, cold = _timed(request)
  result, seconds = _timed(request)
  utility, completeness = measure(vectors_scorer(result.state.vectors))
  info = dict(result.info)
  # The released code ranks with these and takes the AUC from the whitened ones: shown beside, never as the utility.
  as_published, _ = measure(vectors_scorer(info.pop("unwhitened")))
  info["ndcg_unwhitened"] = as_published["ndcg@20"]
  return Outcome(result.state, utility, completeness, seconds, max(0.0, cold - seconds), info)


def _timed(work: Any) -> tuple[UnlearnResult, float]:
  start = time.perf_counter()
  result = work()
  jax.block_until_ready(jax.tree.leaves(result.state))
  return result, time.perf_counter() - start
