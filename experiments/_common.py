"""What the scripts share: datasets and models from flags, a run's folder, measurements of what is served."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from absl import flags

from experiments import _flags
from jaxunlearn import checkpoint
from jaxunlearn.base import Embeddings, Model, Scorer
from jaxunlearn.data import datasets, forget
from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.data.lightgcn_text import read_pairs
from jaxunlearn.metrics.completeness import Probe, completeness_auc, completeness_probe
from jaxunlearn.metrics.ranking import RankingEvaluator
from jaxunlearn.models import CONFIGS
from jaxunlearn.recipes import Recipe
from jaxunlearn.train import FitResult, TrainConfig, fit, fit_with_selection
from jaxunlearn.unlearn.lightul import LightULConfig

flags.disclaim_key_flags()  # flags belong to the script that calls for them, so that its --help lists them

KS = (10, 20, 50)


def use_compilation_cache() -> None:
  """Keeps compiled programs between runs, in $JAXUNLEARN_CACHE or ~/.cache/jaxunlearn, beside the datasets.

  JAX's own variables, where they are set, come first.
  """
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.config.update("jax_compilation_cache_dir", str(datasets.cache_dir() / "xla"))
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)  # not 1: a script has many small programs


def data_flags(dataset: str) -> None:
  """--dataset, --data_dir and --download."""
  flags.DEFINE_string("dataset", dataset, f"{', '.join(datasets.NAMES)}, or a folder of your own in --data_dir")
  flags.DEFINE_string("data_dir", None, "folder of dataset folders; default: $JAXUNLEARN_DATA, then the download cache")
  flags.DEFINE_boolean("download", True, "fetch a dataset that is not found from its publisher")


def forget_flags() -> None:
  """--forget, --by, --ratio and --selection."""
  flags.DEFINE_string("forget", None, "file of pairs to forget, `user item item …` a line, positions as in train.txt")
  flags.DEFINE_enum("by", "interaction", ["interaction", "user", "item"], "what is drawn when there is no --forget")
  flags.DEFINE_float("ratio", 0.01, "share that is drawn when there is no --forget, in (0, 1)")
  flags.DEFINE_integer("pairs", 0, "number of random pairs that is drawn instead of a share", lower_bound=0)
  flags.DEFINE_enum("selection", "random", ["random", "core", "edge"], "how it is drawn")


def forget_from_flags(data: Interactions, *, seed: int) -> Interactions:
  """The forget set that the flags name; every pair of it is checked to be in `data`.

  Raises:
    ValueError: flags that exclude each other; a pair that is not there.
  """
  values = flags.FLAGS
  first = "forget" if values.forget else "pairs" if values.pairs else None
  ignored = [name for name in ("pairs", "by", "ratio", "selection") if values[name].present and name != first]
  if first and ignored:
    raise ValueError(
      f"Expected --{first} alone, which says what is forgotten, got --{', --'.join(ignored)} too; leave one out."
    )
  if values.pairs and not values.forget:
    return draw_pairs(np.random.default_rng(seed), data, values.pairs)
  found = read_forget(values.forget, data, by=values.by, ratio=values.ratio, selection=values.selection, seed=seed)
  absent = found.select(~data.contains(found))
  if len(absent):
    some = ", ".join(f"({u}, {i})" for u, i in zip(absent.user[:5].tolist(), absent.item[:5].tolist(), strict=True))
    raise ValueError(
      f"Expected pairs of the data in --forget={values.forget}, but {len(absent)} of its {len(found)} are not there, "
      f"never trained on or forgotten before: {some}{', …' if len(absent) > 5 else ''} (positions, not raw ids). Leave "
      "them out of the file."
    )
  return found


def draw_pairs(rng: np.random.Generator, data: Interactions, count: int) -> Interactions:
  """`count` distinct pairs of `data`, uniformly.

  Raises:
    ValueError: there are not that many, or nothing would be left.
  """
  if not 0 < count < len(data):
    raise ValueError(f"Expected --pairs={count} in [1, {len(data) - 1}], fewer than there are.")
  keep = np.zeros(len(data), bool)
  keep[rng.choice(len(data), count, replace=False)] = True
  return data.select(keep)


def load_dataset() -> Dataset:
  """The dataset that the flags name."""
  return datasets.load(flags.FLAGS.dataset, data_dir=flags.FLAGS.data_dir, download=flags.FLAGS.download)


def present(prefix: str) -> dict[str, Any]:
  """{field: value} of the flags --prefix.field that the command line sets: they override a recipe or a preset."""
  start = f"{prefix}."
  given = [name for name in flags.FLAGS if name.startswith(start) and flags.FLAGS[name].present]
  return {name[len(start) :]: flags.FLAGS[name].value for name in given}


def refuse_unused(*used: str) -> None:
  """Raises ValueError for a flag --NAME.field of the command line whose NAME is not among those that are used."""
  given = [name for name in flags.FLAGS if "." in name and flags.FLAGS[name].present]
  for name in given:
    if name.partition(".")[0] not in used:
      raise ValueError(
        f"Expected flags that are read here, got --{name}, which is for another model or method: omit it."
      )


def define_model_flags(prefix: str = "") -> None:
  """--train.* and --MODEL.* for every model; what is not given comes from the recipe. "shards.": of its submodels."""
  _flags.define(f"{prefix}train", TrainConfig())
  for name, config in CONFIGS.items():
    _flags.define(f"{prefix}{name}", config())


def define_lightul_flags() -> None:
  """--lightul.*; what LightUL minimises is named by --objective(s), whether it has phantoms by the method."""
  _flags.define("lightul", LightULConfig(), without=("objective", "phantoms"))


def override(recipe: Recipe, model: str) -> Recipe:
  """The recipe with the command line's changes.

  Raises:
    ValueError: --train.num_epochs is given where --epochs says how long to train.
  """
  values = flags.FLAGS
  if "epochs" in values and values.epochs and values["train.num_epochs"].present:
    raise ValueError(
      f"Expected no --train.num_epochs={values['train.num_epochs'].value}: --epochs={values.epochs} says how long "
      "every training is; set --epochs."
    )
  config = recipe.model_config
  if config is not None:
    config = dataclasses.replace(config, **present(model))
  return Recipe(config, dataclasses.replace(recipe.train_config, **present("train")))


def defaults(recipe: Recipe) -> dict[str, Any]:
  """{"model": …, "train": …}: what a field that is newer than a kept run was then; see `_identity.differences`."""
  model = None if recipe.model_config is None else type(recipe.model_config)()
  return {"model": model, "train": TrainConfig()}


class Timed(NamedTuple):
  """A result, its wall seconds after compilation (NaN for a resumed run), and the seconds that compilation took."""

  value: Any
  seconds: float
  compile_seconds: float


def timed_fit(
  key: jax.Array, model: Model, data: Interactions, config: TrainConfig, *, folder: Path | None, progress: bool | None
) -> Timed:
  """`train.fit` for a fixed number of epochs, with one epoch before to compile (and time that apart)."""
  start = time.perf_counter()
  fit(key, model, data, dataclasses.replace(config, num_epochs=1), progress=False)
  first = time.perf_counter() - start
  resumed = folder is not None and bool(checkpoint.steps(folder))
  start = time.perf_counter()
  result = fit(key, model, data, config, checkpoint_dir=folder, progress=progress)
  jax.block_until_ready(result.params)
  seconds = time.perf_counter() - start
  compile_seconds = max(0.0, first - seconds / max(1, config.num_epochs))
  return Timed(result, math.nan, math.nan) if resumed else Timed(result, seconds, compile_seconds)


def select_epochs(
  key: jax.Array, model: Model, data: Interactions, config: TrainConfig, *, folder: Path | None, progress: bool | None
) -> FitResult:
  """Epochs found on the validation part, nothing refitted."""
  return fit_with_selection(key, model, data, config, refit=False, checkpoint_dir=folder, progress=progress)


def read_forget(
  path: str | None, data: Interactions, *, by: str, ratio: float, selection: str, seed: int
) -> Interactions:
  """The forget set: a file of pairs (`user item item …`, positions), or drawn."""
  if path:
    return read_pairs(path, num_users=data.num_users, num_items=data.num_items)
  rng = np.random.default_rng(seed)
  return forget.sample_forget(rng, data, by=cast(Any, by), ratio=ratio, selection=cast(Any, selection))


def cached_vectors(path: Path, make: Callable[[], Embeddings]) -> Embeddings:
  """Vectors that partitions are made from, trained once and kept in a folder."""
  if not path.exists():
    checkpoint.save(path, make())
  found, _ = checkpoint.restore(path, Embeddings(..., ...))  # type: ignore[arg-type]
  return cast(Embeddings, found)


_FEWEST = 20  # forgotten pairs that an AUC is taken of: of one pair it is 0 or 1, of twenty its sampling sd is 0.09
NO_AUC = f"No AUC: of a request of fewer than {_FEWEST} pairs it would be a matter of chance."
_ACTIVE = 0.05  # share of the users that counts as active, CURE4Rec's


class Measure:
  """Utility and completeness of a scorer, on fixed pairs: build once, call for each model that is served.

  Utility: full ranking, masking all of the original train pairs, forgotten ones included, so that every model ranks
  the same candidates; active_ndcg@20 is of the twentieth of the users with the most train pairs, inactive_ndcg@20 of
  the others: their difference is CURE4Rec's unfairness, before it is weighed by shards. Completeness: all forgotten
  pairs against as many retained ones, drawn once from `probe_seed`; of fewer than twenty there is none, it would be a
  matter of chance.

  Args:
    dataset: with test pairs.
    forgotten: pairs of its train part; None: no completeness.
    mask: pairs that are no recommendations; None: all of train. A script that holds pairs back passes those too: a
      model that ranks them high is right.
    probe_seed: of the retained pairs.
  """

  def __init__(
    self, dataset: Dataset, forgotten: Interactions | None = None, *, mask: Interactions | None = None,
    probe_seed: int = 0,
  ) -> None:  # fmt: skip
    if dataset.test is None:
      raise ValueError(f"Expected a dataset with test pairs, got {dataset!r}.")
    self.ranking = RankingEvaluator(dataset.test, mask=dataset.train if mask is None else mask, ks=KS)
    degree = dataset.train.user_degrees()[self.ranking.users]
    self.active = np.argsort(np.argsort(-degree, kind="stable"), kind="stable") < max(1, round(_ACTIVE * degree.size))
    self.probe: Probe | None = None
    if forgotten is not None and len(forgotten) >= _FEWEST:
      self.probe = completeness_probe(np.random.default_rng(probe_seed), dataset.train.without(forgotten), forgotten)

  def __call__(self, scorer: Scorer) -> tuple[dict[str, float], dict[str, float]]:
    """({"ndcg@20": …}, {"auc": …}); the second is empty without a forget set, or with one of a few pairs."""
    return self.utility(scorer), {} if self.probe is None else {"auc": completeness_auc(scorer, self.probe)}

  def utility(self, scorer: Scorer, **groups: np.ndarray) -> dict[str, float]:
    """{"ndcg@20": …}; also NAME_ndcg@20 of each group of users, bool [num_users], that has someone with a test pair."""
    found = self.ranking(scorer, per_user=True)
    utility = dict(found.values)
    assert found.per_user is not None
    asked = {name: some[self.ranking.users] for name, some in groups.items()}
    for name, some in {"active": self.active, "inactive": ~self.active, **asked}.items():
      if some.any():
        utility[f"{name}_ndcg@20"] = float(found.per_user["ndcg@20"][some].mean(dtype=np.float64))
    return utility


def save_run(out: Path, state: Any, metadata: dict[str, Any]) -> None:
  """The state under out/model, replacing what is there."""
  checkpoint.save(out / "model", state, metadata, overwrite=True)


def restore_run(run: str | os.PathLike[str], like: Callable[[dict[str, Any]], Any]) -> tuple[Any, dict[str, Any]]:
  """The state and metadata of a run's folder; `like` makes the expected structure from the metadata."""
  path = Path(run) / "model"
  return checkpoint.restore(path, like(checkpoint.read_metadata(path)))
