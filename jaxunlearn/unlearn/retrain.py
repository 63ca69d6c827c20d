"""Retrain: train again, from scratch, on what is retained. The reference for every other method."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import jax
from flax import struct

from jaxunlearn._validate import check_own_vectors, check_trained
from jaxunlearn.base import Model, Params, Scorer, Unlearner, UnlearnResult, scorer_of
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.requests import Request, resolve
from jaxunlearn.train import TrainConfig, fit


class ModelState(struct.PyTreeNode):
  """A trained model and the pairs that it is trained on: all that a single-model method keeps between requests.

  Attributes:
    params: the model's parameters.
    interactions: the retained pairs; nothing that was forgotten.
  """

  params: Params
  interactions: Interactions


def fit_model(
  key: jax.Array, model: Model, interactions: Interactions, config: TrainConfig, **options: Any
) -> ModelState:
  """`train.fit` for a fixed number of epochs, as a state. `options` go to `train.fit`."""
  return ModelState(fit(key, model, interactions, config, **options).params, interactions)


def model_scorer(model: Model, state: ModelState) -> Scorer:
  """Serves a state: vectors encoded over the graph of the retained pairs."""
  return scorer_of(model, state.params, model.context(state.interactions))


def post_hoc(
  name: str,
  model: Model,
  config: TrainConfig,
  forget_pairs: Callable[[jax.Array, ModelState, Interactions], UnlearnResult],
  *,
  progress: bool | None = None,
) -> Unlearner:
  """An `Unlearner` that trains as usual and changes the trained model at a request; an empty one changes nothing.

  Args:
    name: of the method.
    model: what is trained and served.
    config: how it is trained.
    forget_pairs: (key, state, pairs of the state, at least one) -> result.
    progress: as for `train.fit`.

  Raises:
    ValueError: the model is not trained, so that there is no loss to unlearn with; of a request: the state is not one
      of a single trained model.
  """
  check_trained(name, model)

  def fit_fn(key: jax.Array, interactions: Interactions) -> ModelState:
    return fit_model(key, model, interactions, config, progress=progress)

  def unlearn_fn(key: jax.Array, state: ModelState, request: Request | Interactions) -> UnlearnResult:
    if not isinstance(state, ModelState):
      raise ValueError(
        f"Expected a ModelState, which {name} and retrain fit, got {type(state).__name__}: another method's."
      )
    forget = resolve(request, state.interactions)
    if not len(forget):
      return UnlearnResult(state, {"num_forgotten": 0, "seconds": 0.0})
    return forget_pairs(key, state, forget)

  return Unlearner(fit_fn, unlearn_fn, lambda state: model_scorer(model, state), "approximate", name)


def retrain(
  model: Model,
  config: TrainConfig,
  *,
  progress: bool | None = None,
  checkpoint_dir: str | os.PathLike[str] | None = None,
) -> Unlearner:
  """Unlearning by training again.

  Guarantee: exact. `unlearn(key, fit(_, D), F).params` is bitwise what `fit(key, D ∖ F).params` is, on one device
  kind with deterministic scatters: initialisation, sampling and the number of epochs depend on the key and on the
  retained pairs, and on nothing else. The number of epochs is a hyper-parameter: it was chosen once, with a
  validation part of the original data, and is not chosen again.

  After a request a forgotten user's or item's row is its initialisation, moved by the draws as a negative (items)
  or not at all (users without a retained pair); the graph, the sampler's tables and the optimizer state are new. The
  vocabulary keeps the raw id: the row must stay where it is. Drop the id outside if it is personal itself.

  Cost: one fit on the retained pairs.

  Args:
    model: any model.
    config: how it is trained, for the fit and for each request.
    progress: as for `train.fit`.
    checkpoint_dir: where one request's training keeps its checkpoints, so that the same request, asked again after an
      interruption, resumes; another request needs another folder (ValueError). The fit keeps none there.

  Raises:
    ValueError: the model is `frozen`: its vectors came from elsewhere, and nothing here trains them anew.
  """
  check_own_vectors("retrain", model)

  def fit_fn(key: jax.Array, interactions: Interactions) -> ModelState:
    return fit_model(key, model, interactions, config, progress=progress, label=f"fit {model.name}")

  def unlearn_fn(key: jax.Array, state: ModelState, request: Request | Interactions) -> UnlearnResult:
    forget = resolve(request, state.interactions)
    if not len(forget):
      return UnlearnResult(state, {"num_forgotten": 0, "seconds": 0.0})
    start = time.perf_counter()
    retained = state.interactions.without(forget)
    new = fit_model(
      key, model, retained, config, checkpoint_dir=checkpoint_dir, progress=progress, label=f"retrain {model.name}"
    )
    jax.block_until_ready(new.params)
    return UnlearnResult(new, {"num_forgotten": len(forget), "seconds": time.perf_counter() - start})

  def refit_fn(key: jax.Array, state: ModelState) -> ModelState:
    return fit_fn(key, state.interactions)

  return Unlearner(fit_fn, unlearn_fn, lambda state: model_scorer(model, state), "exact", "retrain", refit_fn)
