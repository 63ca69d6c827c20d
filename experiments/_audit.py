"""The parts of `audit`: the pairs in question, shadow models, the three attacks, table and plot."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from experiments import _names
from experiments._common import Measure
from experiments._methods import Outcome, run_own
from jaxunlearn.base import Model, Scorer
from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.interactions import Interactions, capacity_for
from jaxunlearn.metrics import membership
from jaxunlearn.shards import Placement, train_shards
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn.retrain import ModelState, model_scorer

ATTACKS = {"threshold": "score threshold", "trained": "trained attack", "lira": "likelihood ratio"}
SUBSETS = {"all": "all pairs", "memorised": "most memorised quarter", "atypical": "least typical quarter"}
GROUP = 8  # shadow models that are trained at once, under vmap, and kept together


class Question(NamedTuple):
  """Whose membership is asked for.

  Attributes:
    members: pairs that are to be forgotten.
    non_members: as many held-out pairs.
    base: pairs that every model is trained on; no members.
    known: held-out pairs that the attacker knows not to be members; none of `non_members`.
  """

  members: Interactions
  non_members: Interactions
  base: Interactions
  known: Interactions

  @property
  def targets(self) -> tuple[Interactions, ...]:
    """Members, then non-members."""
    return self.members, self.non_members

  @property
  def train(self) -> Interactions:
    """What the model before the request is trained on."""
    return self.base.union(self.members)


def draw_question(dataset: Dataset, num_pairs: int, seed: int, *, held_out: str = "train") -> Question:
  """Random pairs of train as members, and random held-out pairs, half of them at most; the attacker knows the rest.

  Args:
    dataset: with test pairs for `held_out` "test".
    num_pairs: members, and non-members.
    seed: of the draw.
    held_out: "train": three times `num_pairs` pairs of train, which no model is then trained on; right whatever the
      split. "test": the test pairs. Where they are of another kind than train's (LightUL's ml-1m has high ratings only
      there, a share of each user's pairs rounded down leans to the active users) any attack tells them apart, exact
      retraining included.

  Raises:
    ValueError: there are not as many.
  """
  rng = np.random.default_rng(seed)

  def part(data: Interactions, size: int) -> Interactions:
    keep = np.zeros(len(data), bool)
    keep[rng.choice(len(data), size, replace=False)] = True
    return data.select(keep)

  train, held = dataset.train, dataset.test
  most = 0 if held is None else min(len(train) - 1, len(held) // 2)
  most = (len(train) - 1) // 4 if held_out == "train" else most
  if not 0 < num_pairs <= most:
    raise ValueError(f"Expected --num_pairs={num_pairs} in [1, {most}], at most half of the held-out pairs.")
  if held_out == "train":
    held = part(train, 3 * num_pairs)
    train = train.without(held)
  assert held is not None
  members, non_members = part(train, num_pairs), part(held, num_pairs)
  return Question(members, non_members, train.without(members), held.without(non_members))


def scores_of(scorer: Scorer, question: Question) -> np.ndarray:
  """Standardised scores of members, then non-members: [P]."""
  return np.concatenate([membership.standardised_scores(scorer, pairs) for pairs in question.targets])


def shadow_scores(
  key: jax.Array, model: Model, config: TrainConfig, question: Question, num_shadows: int, folder: Path, seed: int,
  *, progress: bool,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
  """Scores of the pairs in question [S, P] in models trained on `base` and a random half of them, and the halves.

  They are kept in `folder`, each as it is done, or in groups where several are trained at once, and not trained again.
  """
  sizes = [len(pairs) for pairs in question.targets]
  included = membership.shadow_halves(np.random.default_rng(seed + 1), num_shadows, sum(sizes))
  folder.mkdir(parents=True, exist_ok=True)
  size = 1 if Placement().resolved == "map" else GROUP
  capacity = capacity_for(len(question.base) + sum(sizes))  # of all: one program
  found: list[np.ndarray] = []
  with tqdm(total=num_shadows, desc="shadow models", disable=not progress) as bar:
    while (first := sum(map(len, found))) < num_shadows:
      path = folder / f"{first:04d}.npy"
      if not path.exists():
        group = range(first, min(first + size, num_shadows))
        parts = []
        for number in group:
          inside = np.split(included[number], sizes[:1])
          some = (pairs.select(keep) for pairs, keep in zip(question.targets, inside, strict=True))
          parts.append(question.base.union(next(some)).union(next(some)))
        keys = [jax.random.fold_in(key, 1000 + number) for number in group]
        fitted = train_shards(keys, model, parts, config, capacity=capacity, progress=False)
        rows = [
          scores_of(model_scorer(model, ModelState(params, part)), question)
          for params, part in zip(fitted.params, parts, strict=True)
        ]
        temporary = folder / f".{path.name}.{os.getpid()}.tmp.npy"
        np.save(temporary, np.stack(rows))
        os.replace(temporary, path)
      found.append(np.load(path))
      bar.update(len(found[-1]))
  return np.concatenate(found), included


def features(scorer: Scorer, pairs: Interactions, base: Interactions) -> np.ndarray:
  """What the trained attack sees of a pair: its standardised score, and how active its user and item are: [N, 3]."""
  users, items = base.user_degrees()[pairs.user], base.item_degrees()[pairs.item]
  return np.column_stack([membership.standardised_scores(scorer, pairs), np.log1p(users), np.log1p(items)])


def attack(
  scorer: Scorer, question: Question, shadow: np.ndarray, included: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
  """The three attacks' numbers of members, then non-members: {attack: [P]}."""
  observed = scores_of(scorer, question)
  rng = np.random.default_rng(seed + 2)
  kept = np.zeros(len(question.base), bool)
  kept[rng.choice(len(question.base), min(len(question.known), len(question.base)), replace=False)] = True
  sides = [features(scorer, pairs, question.base) for pairs in (question.base.select(kept), question.known)]
  labels = np.repeat([True, False], [len(side) for side in sides])
  asked = np.concatenate([features(scorer, pairs, question.base) for pairs in question.targets])
  return {
    "threshold": observed,
    "trained": membership.trained_attack(np.concatenate(sides), labels, asked),
    "lira": membership.likelihood_ratio(observed, shadow, included),
  }


def subsets(question: Question, shadow: np.ndarray, included: np.ndarray) -> dict[str, np.ndarray]:
  """{subset: bool [P]}: all; the quarter that training changes most; the quarter that others' data foretell least.

  Chosen from the shadow models alone, members and non-members by one rule.
  """
  changed = membership.memorisation(shadow, included)
  typical = np.nanmean(np.where(included, np.nan, shadow), axis=0)
  return {
    "all": np.ones(changed.size, bool),
    "memorised": changed >= np.quantile(changed, 0.75),
    "atypical": typical <= np.quantile(typical, 0.25),
  }


def measure(numbers: dict[str, np.ndarray], chosen: dict[str, np.ndarray], question: Question) -> dict[str, Any]:
  """{attack: {subset: result}} in JSON types; curves of all pairs only."""
  size = len(question.members)
  found: dict[str, Any] = {}
  for name, values in numbers.items():
    found[name] = {}
    for subset, keep in chosen.items():
      result = membership.attack_result(values[:size][keep[:size]], values[size:][keep[size:]])._asdict()
      if subset != "all":
        del result["fpr_curve"], result["tpr_curve"]
      found[name][subset] = result
  return found


def before_and_after(
  key: jax.Array,
  method: str,
  model_name: str,
  configs: dict[str, Any],
  train: Interactions,
  question: Question,
  measured: Measure,
  attacks: Callable[[Scorer], dict[str, Any]],
  *,
  vectors: Any = None,
  progress: bool | None = None,
) -> dict[str, dict[str, Any]]:
  """A method with models of its own, fitted on `train` and asked to forget the members: what attacks find, and utility.

  Args:
    key: of the fit and of the request.
    method: one of `_methods.OWN_FIT`.
    model_name: of the base model.
    configs: from `_methods.settings`.
    train: all pairs, the members included.
    question: the pairs in question.
    measured: of utility.
    attacks: what to find of a scorer.
    vectors: as for `_methods.run_own`.
    progress: as for `train.fit`.

  Returns:
    {"audit": {"METHOD[before]": …, "METHOD": …}, "utility": the same}.
  """
  own = run_own(
    key, method, model_name, configs, train, question.members, measured, vectors=vectors, progress=progress
  )  # fmt: skip
  before = f"{method}[before]"
  return {
    "audit": {before: attacks(own.fit_scorer), method: attacks(own.outcome.scorer)},
    "utility": {before: own.fit_utility, method: own.outcome.utility},
  }


def after(
  method: str, request: Callable[[], Outcome], attacks: Callable[[Scorer], dict[str, Any]]
) -> dict[str, dict[str, Any]]:
  """A method that starts from the original model: what attacks find after the request, and utility, by its name."""
  outcome = request()
  return {"audit": {method: attacks(outcome.scorer)}, "utility": {method: outcome.utility}}


def table(audits: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
  """Headings and cells: AUC with its interval by attack, the likelihood ratio's also by subset and at low rates."""

  def interval(result: dict[str, Any]) -> str:
    low, high = result["auc_interval"]
    return f"{result['auc']:.3f} [{low:.3f}, {high:.3f}]"

  heads = ["method", *(f"{ATTACKS[name]}, AUC" for name in ATTACKS)]
  heads += [f"LR, {SUBSETS[name]}" for name in ("memorised", "atypical")] + ["LR, TPR at 0.1 %", "TPR at 1 %"]
  body = []
  for method, found in audits.items():
    row = [_names.display(method), *(interval(found[name]["all"]) for name in ATTACKS)]
    row += [interval(found["lira"][subset]) for subset in ("memorised", "atypical")]
    body.append([*row, *(f"{found['lira']['all']['tpr'][rate]:.3f}" for rate in (0.001, 0.01))])
  return heads, body


def draw(audits: dict[str, Any], path: Path) -> list[Path]:
  """ROC curves on logarithmic axes, a panel an attack; nothing where matplotlib is not installed."""
  try:
    from experiments import _plot
  except ImportError:
    print("No plot: matplotlib is not installed; pip install 'jaxunlearn[plots]' adds it.", file=sys.stderr)
    return []
  panels = [
    (title, [
      (_names.display(method), found[name]["all"]["fpr_curve"], found[name]["all"]["tpr_curve"])
      for method, found in audits.items()
    ])
    for name, title in ATTACKS.items()
  ]  # fmt: skip
  return _plot.roc(panels, path)
