"""The one training loop: `epoch.train_epoch` on the device, and a host loop around it.

`fit` adds early stopping, checkpoints, exact resume and a progress bar; `fit_with_selection` finds the number of epochs
on a held-out part of train and then trains on all of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxunlearn import checkpoint
from jaxunlearn.base import Context, Model, Params, scorer_of
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.data.splits import hold_out
from jaxunlearn.epoch import (
  TrainConfig,
  TrainData,
  TrainState,
  copy_tree,
  init_state,
  prepare,
  state_from,
  train_epoch,
)
from jaxunlearn.metrics.ranking import RankingEvaluator

__all__ = [
  "FitResult",
  "TrainConfig",
  "TrainData",
  "TrainState",
  "fit",
  "fit_with_selection",
  "init_state",
  "prepare",
  "train_epoch",
]


class FitResult(NamedTuple):
  """Outcome of `fit`.

  Attributes:
    params: of the best validated epoch, or of the last when there was no validation.
    context: of the training pairs.
    num_epochs: the epoch that `params` are of.
    history: one dict an epoch: "epoch", "loss", and the validation metrics where there was one.
  """

  params: Params
  context: Context
  num_epochs: int
  history: list[dict[str, float]]


def fit(
  key: jax.Array,
  model: Model,
  interactions: Interactions,
  config: TrainConfig,
  *,
  validation: Interactions | None = None,
  params: Params | None = None,
  context: Context | None = None,
  checkpoint_dir: str | os.PathLike[str] | None = None,
  progress: bool | None = None,
  label: str = "",
) -> FitResult:
  """Trains a model.

  Args:
    key: everything random is folded in from it.
    model: what to train; one with `batches="none"` is returned as it is initialised.
    interactions: the training pairs.
    config: how.
    validation: pairs, disjoint from `interactions`, whose ranking metric decides when to stop and which epoch to
      return; without them, `config.num_epochs` epochs are trained and the last is returned.
    params: start from these instead of a fresh initialisation (warm start).
    context: read by the forward pass instead of `model.context(interactions)` (an aggregator's frozen submodels).
    checkpoint_dir: where to keep the last two checkpoints. If it holds one of the same configuration, data, key, warm
      start and context, training resumes from it and ends bitwise where an uninterrupted run would.
    progress: show a progress bar; None: only when standard error is a terminal.
    label: text before the progress bar.

  Raises:
    ValueError: there is nothing to train on; `params` are not of this model over these users and items; the loss is
      not finite (epoch and step are named); the checkpoint is of another run.
    OSError: the checkpoint directory cannot be written.
  """
  given, context = context, model.context(interactions) if context is None else context
  if model.batches == "none":
    return FitResult(model.init(key, interactions.num_users, interactions.num_items), context, 0, [])
  if not len(interactions):
    raise ValueError(f"Expected at least one training pair for {model.name}, got {interactions!r}.")
  evaluator = RankingEvaluator(validation, mask=interactions, ks=(config.cutoff,)) if validation is not None else None
  if params is None:
    state = init_state(key, model, interactions, config)
  else:
    _check_start(key, model, interactions, params)
    state = state_from(model, copy_tree(params), config)
  best, best_value, best_epoch, stale = copy_tree(state.average), -np.inf, 0, 0
  history: list[dict[str, float]] = []

  run = (
    checkpoint.RunDirectory(checkpoint_dir, _identity(key, model, interactions, config, validation, params, given))
    if checkpoint_dir
    else None
  )
  if run is not None and (found := run.latest({"train": state, "best": best})) is not None:
    saved, meta = found
    state, best = saved["train"], saved["best"]
    best_value, best_epoch, stale, history = meta["best_value"], meta["best_epoch"], meta["stale"], meta["history"]
    best_value = -np.inf if best_value is None else best_value

  data = prepare(model, interactions, config)
  done = int(state.epoch)
  show = sys.stderr.isatty() if progress is None else progress
  bar = tqdm(total=config.num_epochs, initial=done, desc=label or f"fit {model.name}", unit="epoch", disable=not show)
  with bar:
    while done < config.num_epochs and stale < config.patience:
      state, loss, bad_step = train_epoch(
        key,
        state,
        context,
        data,
        jnp.float32(config.learning_rate),
        jnp.float32(config.average),
        jnp.float32(config.user_weight_power),
        model=model,
        optimizer=config.optimizer,
        batch_size=config.batch_size,
        num_negatives=config.num_negatives,
        avoid_positives=config.avoid_positives,
        batch_factor=config.batch_factor,
      )
      done += 1
      if int(bad_step) >= 0:
        raise ValueError(
          f"Training {model.name} diverged: the loss is not finite at epoch {done}, step {int(bad_step)} "
          f"(learning_rate={config.learning_rate}). Lower learning_rate or raise the L2 weight"
          + (f"; the last checkpoint in {checkpoint_dir} is from before." if run is not None else ".")
        )
      record = {"epoch": float(done), "loss": float(loss)}
      if evaluator is not None and (done % config.eval_every == 0 or done == config.num_epochs):
        value = evaluator(scorer_of(model, state.average, context)).values[config.monitor]
        record[f"validation_{config.monitor}"] = value
        if value > best_value:
          best_value, best_epoch, stale = value, done, 0
          best = copy_tree(state.average)
        else:
          stale += 1
      history.append(record)
      bar.update()
      bar.set_postfix({name: f"{value:.4f}" for name, value in record.items() if name != "epoch"})
      last = done == config.num_epochs or stale >= config.patience
      if run is not None and (done % config.checkpoint_every == 0 or last):
        kept = best if evaluator is not None else state.average
        meta = {"best_value": None if best_epoch == 0 else best_value, "best_epoch": best_epoch, "stale": stale}
        run.save(done, {"train": state, "best": kept}, {**meta, "history": history})
  if evaluator is None:
    return FitResult(state.average, context, done, history)
  return FitResult(best, context, best_epoch, history)


def _check_start(key: jax.Array, model: Model, interactions: Interactions, params: Params) -> None:
  """Raises ValueError where a warm start is not of this model over these users and items."""
  own = jax.eval_shape(lambda one: model.init(one, interactions.num_users, interactions.num_items), key)
  wanted, found = (
    {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    for tree in (own, params)
  )
  for name in sorted(wanted.keys() | found.keys()):
    if wanted.get(name) != found.get(name):
      raise ValueError(
        f"Expected params{name} of shape {wanted.get(name, 'none at all')} for {model.name} over {interactions!r}, got "
        f"{found.get(name, 'none')}; pass parameters that were trained on the same axes by the same configuration."
      )


def _identity(
  key: jax.Array, model: Model, interactions: Interactions, config: TrainConfig, validation: Interactions | None,
  params: Params | None, context: Context | None,
) -> dict[str, Any]:  # fmt: skip
  """What must be equal for a checkpoint to be resumed; how often it is written is not part of it."""
  fields = dataclasses.asdict(config)
  fields.pop("checkpoint_every")
  if config.reference_batch_size is None:  # checkpoints that are older than this field go on
    fields.pop("reference_batch_size")
  return {
    "model": model.name,
    "model_config": repr(model.config),
    "key": np.asarray(jax.random.key_data(key)).tolist(),
    "data": interactions.digest(),
    "validation": validation.digest() if validation is not None else None,
    "config": fields,
    "params": _digest(params),
    "context": _digest(context),
  }


def _digest(tree: Any) -> str | None:
  """Of the leaves of a warm start or a context; None for none, as in checkpoints that are older than this entry."""
  if tree is None:
    return None
  found = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    array = np.asarray(leaf)
    found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode() + array.tobytes())
  return found.hexdigest()


def fit_with_selection(
  key: jax.Array,
  model: Model,
  interactions: Interactions,
  config: TrainConfig,
  *,
  refit: bool = True,
  checkpoint_dir: str | os.PathLike[str] | None = None,
  progress: bool | None = None,
) -> FitResult:
  """Finds the number of epochs on a part of train, then trains on all of it for that many.

  Args:
    key: fold 2 draws the validation part, the rest trains.
    model: what to train.
    interactions: all training pairs.
    config: `num_epochs` is the upper bound, `validation_fraction` the part.
    refit: False keeps the validation part out and returns the selected parameters.
    checkpoint_dir: as for `fit`; the two stages have a folder each.
    progress: as for `fit`.

  Returns:
    A FitResult whose `history` is the selection's.
  """
  seed = np.asarray(jax.random.key_data(jax.random.fold_in(key, 2))).tolist()
  train, validation = hold_out(np.random.default_rng(seed), interactions, config.validation_fraction)
  part = (lambda name: os.path.join(checkpoint_dir, name)) if checkpoint_dir else (lambda name: None)
  selected = fit(
    key,
    model,
    train,
    config,
    validation=validation,
    checkpoint_dir=part("select"),
    progress=progress,
    label=f"select {model.name}",
  )
  if not refit:
    return selected
  final = dataclasses.replace(config, num_epochs=max(1, selected.num_epochs))
  result = fit(
    key, model, interactions, final, checkpoint_dir=part("refit"), progress=progress, label=f"refit {model.name}"
  )
  return result._replace(history=selected.history)
