"""The cells of a comparison: one method, model and seed each, a result.json of its own, run once and then kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from experiments import _common, _distances, _identity, _results
from experiments._methods import (
  LIGHTUL,
  OWN_FIT,
  Outcome,
  defaults,
  run_own,
  run_request,
  settings,
  unfinished,
  variant,
)
from jaxunlearn import checkpoint
from jaxunlearn.base import Embeddings, Scorer
from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.recipes import Recipe
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn._partitions import pretrained
from jaxunlearn.unlearn.lightul import LightULConfig
from jaxunlearn.unlearn.retrain import ModelState, model_scorer


class Cells:
  """The cells of one model: trains an original a seed when one is needed, runs a method on it, writes a result.

  A cell that is there is not run again, and the same settings resume. Other settings raise: the base configuration,
  the data and the forget set have to be those of every result in the folder, LightUL's those of the cell.

  Args:
    folder: of the model's cells, `folder/METHOD/seedN/result.json`.
    name: the model's.
    recipe: its configuration, and how it is trained.
    recipe_name: for the record.
    dataset: with test pairs.
    forget: pairs of its train part.
    measure: of the same dataset and forget set.
    epochs: to train; 0: found once, on a validation part of train with seed 0, and the same for all seeds and Retrain.
    lightul: changes of LightUL's preset.
    changes: {method: {field: value}} of the other methods' configurations.
    shard_epochs: of every shard of methods that train models of their own; 0: the recipe's.
    shard_recipe: of these shards; "": each method's own.
    shard_changes: of that recipe, as for `_methods.settings`.
    overwrite: remove what the folder holds, whatever its settings.
    progress: as for `train.fit`.

  Raises:
    ValueError: the folder holds results of other settings; the message says which.
  """

  def __init__(
    self,
    folder: Path,
    name: str,
    recipe: Recipe,
    recipe_name: str,
    dataset: Dataset,
    forget: Interactions,
    measure: _common.Measure,
    *,
    epochs: int = 0,
    lightul: dict[str, Any] | None = None,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    shard_epochs: int = 0,
    shard_recipe: str = "",
    shard_changes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
  ) -> None:
    self.folder, self.name, self.dataset, self.forget, self.measure = folder, name, dataset, forget, measure
    self.lightul, self.progress, self.model = lightul or {}, progress, recipe.model(name)
    self.changes, self.shard_epochs, self.shard_recipe = changes or {}, shard_epochs, shard_recipe
    self.shard_changes = shard_changes
    self.retained = dataset.train.without(forget)
    self.num_found = 0  # cells that were there
    _results.prepare_out(folder)
    if overwrite:
      names = (_identity.FILE_NAME, "select", "selection.json")
      _identity.remove(*folder.glob("*/seed*"), *(folder / name for name in names))
    epochs = epochs or self._select(recipe)
    self.config: TrainConfig = dataclasses.replace(recipe.train_config, num_epochs=epochs)
    self.identity: dict[str, Any] = {
      "config": {"recipe": recipe_name, "model": recipe.model_config, "train": self.config},
      "data_hash": dataset.train.digest(),
      "forget_hash": forget.digest(),
    }
    for path in sorted(folder.glob(f"*/seed*/{_results.FILE_NAME}")):
      _identity.check(path.parent, _results.load_results(path)[0], self.identity, {"config": _common.defaults(recipe)})
    _identity.claim(folder, self.identity, {"config": _common.defaults(recipe)})

  def _select(self, recipe: Recipe) -> int:
    """The number of epochs: read from the folder, or found on a validation part and kept there."""
    path, data = self.folder / "selection.json", self.dataset.train
    identity = {"config": {"model": recipe.model_config, "train": recipe.train_config}, "data_hash": data.digest()}
    _identity.claim(self.folder / "select", identity, {"config": _common.defaults(recipe)})
    if not path.exists():
      found = _common.select_epochs(
        jax.random.key(0), self.model, data, recipe.train_config, folder=self.folder / "select", progress=self.progress
      )
      _identity.write_json(path, {"num_epochs": max(1, found.num_epochs), "history": found.history})
    return int(json.loads(path.read_text(encoding="utf-8"))["num_epochs"])

  def path(self, method: str, seed: int, objective: str = "preserve") -> Path:
    """The folder of a cell."""
    return self.folder / _label(method, objective) / f"seed{seed}"

  def run(self, method: str, seed: int, objective: str = "preserve") -> None:
    """One cell, unless it is there; "l2unrank[hops=2]" is l2unrank with that change, in a folder of that name."""
    out, label = self.path(method, seed, objective), _label(method, objective)
    method, _, own = variant(method)
    chosen: dict[str, Any] = {}
    if method in LIGHTUL:
      chosen = {"lightul": LightULConfig.preset(objective, self.name, **{**self.lightul, **own})}
    elif method != "original":
      changes = {**self.changes.get(method, {}), **own}
      chosen = settings(
        method, self.name, self.config, changes, shard_epochs=self.shard_epochs, shard_recipe=self.shard_recipe,
        shard_changes=self.shard_changes,
      )  # fmt: skip
    if (out / _results.FILE_NAME).exists():
      stored = _results.load_results(out)[0]
      newer = {"lightul": LightULConfig(), "method": defaults(method)}
      _identity.check(out, stored, {"config": chosen}, {"config": newer})
      self.num_found += 1
      return
    if method == "original":
      measured = self._original(out, seed)
    elif method in OWN_FIT:
      measured = self._own(method, seed, chosen)
    else:
      measured = self._request(out, method, seed, chosen.get("lightul", chosen.get("method")))
    identity = dict(self.identity)
    result = _results.make_result(
      method=label,
      model=self.name,
      dataset=self.dataset.name,
      seeds=[seed],
      config={**identity.pop("config"), "lightul": None, **chosen},
      **identity,
      **measured,
    )
    _results.write_result(out, result)

  def _original(self, out: Path, seed: int) -> dict[str, Any]:
    data = self.dataset.train
    fitted = _common.timed_fit(
      jax.random.key(seed), self.model, data, self.config, folder=out / "fit", progress=self.progress
    )
    state = ModelState(fitted.value.params, data)
    checkpoint.save(out / "model", state.params, overwrite=True)
    scorer = model_scorer(self.model, state)
    utility, completeness = self.measure(scorer)
    completeness |= _distances.unranked(scorer, self.forget, self.retained)
    seconds = {"fit_seconds": fitted.seconds, "compile_seconds": fitted.compile_seconds}
    return self._measured(utility, completeness, seconds, {})

  def state(self, seed: int) -> ModelState:
    """The original model of a seed, trained now if it is not there."""
    if not (self.path("original", seed) / _results.FILE_NAME).exists():
      self.run("original", seed)
    params, _ = checkpoint.restore(self.path("original", seed) / "model")
    return ModelState(params, self.dataset.train)

  def _vectors(self, seed: int) -> Any:
    """Vectors that partitions of a seed are made from, WMF's: trained once and shared by its methods."""
    path = self.folder / "vectors" / f"seed{seed}"

    def vectors(key: jax.Array, interactions: Interactions) -> Embeddings:
      return _common.cached_vectors(path, lambda: pretrained(key, interactions))

    return vectors

  def _own(self, method: str, seed: int, chosen: dict[str, Any]) -> dict[str, Any]:
    own = run_own(
      jax.random.key(seed), method, self.name, chosen, self.dataset.train, self.forget, self.measure,
      vectors=self._vectors(seed), progress=self.progress,
    )  # fmt: skip
    info = {**own.outcome.info, "fit_utility": own.fit_utility, "fit_completeness": own.fit_completeness}
    outcome = own.outcome._replace(info=info)
    return self._against_retrain(method, seed, outcome, own.fit_scorer, {"fit_seconds": own.fit_seconds})

  def _request(self, out: Path, method: str, seed: int, chosen: Any) -> dict[str, Any]:
    state = self.state(seed)
    fitted = _results.load_results(self.path("original", seed))[0]
    folder = unfinished(out, method, fitted["efficiency"]["fit_seconds"])
    outcome = run_request(
      jax.random.key(seed), method, self.model, self.config, state, self.forget, self.measure, chosen=chosen,
      checkpoint_dir=folder, progress=self.progress,
    )  # fmt: skip
    if method == "retrain":
      checkpoint.save(out / "model", outcome.state.params, overwrite=True)
    if folder is not None:
      _identity.remove(folder)
    return self._against_retrain(method, seed, outcome, model_scorer(self.model, state), {})

  def _against_retrain(
    self, method: str, seed: int, outcome: Outcome, before: Scorer, more: dict[str, float]
  ) -> dict[str, Any]:
    completeness = {
      **outcome.completeness, **_distances.unranked(outcome.scorer, self.forget, self.retained, before)
    }  # fmt: skip
    seconds = {**more, "unlearn_seconds": outcome.seconds, "compile_seconds": outcome.compile_seconds}
    reference = self.path("retrain", seed) / _results.FILE_NAME
    if method != "retrain" and reference.exists():
      retrained = _results.load_results(reference)[0]
      if "auc" in retrained["completeness"]:
        completeness["auc_retrain"] = retrained["completeness"]["auc"]
      seconds["retrain_ratio"] = _results.ratio(retrained["efficiency"]["unlearn_seconds"], outcome.seconds)
    # Retrain is compared with the Retrain of the seed before: what two seeds differ by is the noise floor.
    other = self._retrained(seed - 1 if method == "retrain" else seed)
    if other is not None:
      completeness |= _distances.to_reference(outcome.scorer, other, self.retained)
    return self._measured(outcome.utility, completeness, seconds, outcome.info)

  def _retrained(self, seed: int) -> Scorer | None:
    """Retrain's scorer, where that cell is there with its model."""
    folder = self.path("retrain", seed)
    if not (folder / _results.FILE_NAME).exists() or not (folder / "model").exists():
      return None
    params, _ = checkpoint.restore(folder / "model")
    return model_scorer(self.model, ModelState(params, self.retained))

  def _measured(
    self, utility: dict[str, float], completeness: dict[str, float], seconds: dict[str, float], info: dict[str, Any]
  ) -> dict[str, Any]:
    return {
      "utility": utility,
      "completeness": completeness,
      "efficiency": {**seconds, "peak_memory_mb": _results.peak_memory_mb()},
      "info": {**info, "num_epochs": self.config.num_epochs},
    }


def _label(method: str, objective: str) -> str:
  """LightUL's names carry the objective: "lightul[paper]", "lightul[paper+phantom_ratio=0.1]"."""
  name, text, _ = variant(method)
  return f"{name}[{'+'.join(filter(None, (objective, text)))}]" if name in LIGHTUL else method
