"""Membership audits: can an attacker tell from a served model which pairs it was trained on?

Attacks give every pair a number that is higher the more it looks trained on; `attack_result` says how well members and
non-members are told apart. Everything below it takes arrays of scores, so any model can be audited, ours or not.

Members of an unlearned model's audit are the forgotten pairs, non-members are *held-out positives*: pairs of the same
kind that were never trained on. Random pairs that nobody ever liked will not do: every model, exact retraining
included, tells liked from unliked. Against held-out positives exact retraining is at 0.5, and that is the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # scipy.stats, half a second of imports, is loaded when it is first used
from jax import lax

from jaxunlearn._validate import check_fraction, check_positive, check_whole
from jaxunlearn.base import Scorer
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.metrics import _chunks
from jaxunlearn.metrics._bootstrap import resampled_attack
from jaxunlearn.metrics.completeness import auc

FPRS = (0.001, 0.01)


class AttackResult(NamedTuple):
  """How well an attack tells members from non-members.

  Attributes:
    auc: P(member above non-member), ties one half; 0.5 is chance.
    auc_interval: its bootstrap interval.
    tpr: {false positive rate: largest share of members found at no more false alarms than that}.
    tpr_interval: {false positive rate: bootstrap interval of it}.
    fpr_curve: float [P], false positive rates of the ROC curve, ascending from 0 to 1.
    tpr_curve: float [P], true positive rates there.
    num_members: pairs of either kind.
    num_non_members: likewise.
  """

  auc: float
  auc_interval: tuple[float, float]
  tpr: dict[float, float]
  tpr_interval: dict[float, tuple[float, float]]
  fpr_curve: np.ndarray
  tpr_curve: np.ndarray
  num_members: int
  num_non_members: int


def _checked(name: str, scores: np.ndarray) -> np.ndarray:
  side = np.asarray(scores, np.float64)
  if side.ndim != 1 or not side.size:
    raise ValueError(f"Expected {name} of shape [n] with n > 0, got shape {side.shape}.")
  if np.isnan(side).any():
    raise ValueError(f"Expected {name} without NaN, got {int(np.isnan(side).sum())} NaN of {side.size}.")
  return side


def roc(members: np.ndarray, non_members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """False and true positive rates at every threshold, from (0, 0) to (1, 1); equal scores are one step.

  Args:
    members: float [M], scores of pairs that were trained on.
    non_members: float [N], of pairs that were not.

  Raises:
    ValueError: a side is empty, is not of one dimension, or holds NaN.
  """
  inside, outside = _checked("members", members), _checked("non_members", non_members)
  scores = np.concatenate([inside, outside])
  is_member = np.arange(scores.size) < inside.size
  order = np.argsort(-scores, kind="stable")
  ranked = scores[order]
  last = np.append(ranked[1:] != ranked[:-1], True)  # a threshold lies between different scores only
  found = np.cumsum(is_member[order])[last]
  false = np.cumsum(~is_member[order])[last]
  return np.append(0.0, false / outside.size), np.append(0.0, found / inside.size)


def tpr_at(members: np.ndarray, non_members: np.ndarray, fpr: float) -> float:
  """The largest share of members that a threshold finds with at most `fpr` of the non-members above it.

  With fewer than 1 / fpr non-members that is the share of members above all of them.

  Raises:
    ValueError: as `roc`; fpr is not in [0, 1].
  """
  check_fraction("fpr", fpr, closed=True)
  false, found = roc(members, non_members)
  return float(found[np.searchsorted(false, fpr * (1 + 1e-12), side="right") - 1])


def attack_result(
  members: np.ndarray,
  non_members: np.ndarray,
  *,
  fprs: Sequence[float] = FPRS,
  num_bootstrap: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> AttackResult:
  """AUC and true positive rates of an attack, with percentile bootstrap intervals over pairs of either kind.

  The intervals are over pairs, with the models fixed: they say nothing of other seeds of training.

  Args:
    members: float [M], the attack's numbers of pairs that were trained on once; higher: more like a member.
    non_members: float [N], of pairs that never were.
    fprs: false positive rates to report.
    num_bootstrap: resamples, ≥ 1.
    level: of the intervals, in (0, 1).
    seed: of the resampling.

  Raises:
    ValueError: a side is empty or holds NaN; an argument is out of range.
  """
  inside, outside = _checked("members", members), _checked("non_members", non_members)
  check_whole("num_bootstrap", num_bootstrap)
  check_fraction("level", level)
  tpr = {float(fpr): tpr_at(inside, outside, fpr) for fpr in fprs}
  drawn = resampled_attack(np.random.default_rng(seed), inside, outside, np.asarray(list(tpr)), num_bootstrap)
  low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
  false, found = roc(inside, outside)
  return AttackResult(
    auc=auc(inside, outside),
    auc_interval=(float(low[0]), float(high[0])),
    tpr=tpr,
    tpr_interval={fpr: (float(low[1 + n]), float(high[1 + n])) for n, fpr in enumerate(tpr)},
    fpr_curve=false,
    tpr_curve=found,
    num_members=inside.size,
    num_non_members=outside.size,
  )


@jax.jit
def _standardised(scorer: Scorer, users: jax.Array, items: jax.Array) -> jax.Array:
  def of_chunk(chunk: tuple[jax.Array, jax.Array]) -> jax.Array:
    scores = scorer.scores(chunk[0])
    own = jnp.take_along_axis(scores, chunk[1][:, None], axis=1)[:, 0]
    spread, largest = jnp.std(scores, axis=1), jnp.max(jnp.abs(scores), axis=1)
    # The mean of equal numbers is one of them but for rounding, and a spread of rounding errors is none.
    return jnp.where(spread <= 1e-6 * largest, 0.0, (own - jnp.mean(scores, axis=1)) / spread)

  return lax.map(of_chunk, (users, items))


def standardised_scores(scorer: Scorer, pairs: Interactions, *, chunk_size: int | None = None) -> np.ndarray:
  """float32 [N]: each pair's score in standard deviations of its user's scores over all items, from their mean.

  What attacks look at: raw scores carry the scale of the model and of the user, which differ between trainings and say
  nothing of the pair. A user whose scores are all equal gives 0.

  Args:
    scorer: what is served.
    pairs: over the scorer's axes.
    chunk_size: pairs at once; chosen by memory when None.

  Raises:
    ValueError: axes that differ, or scores that are not finite.
  """
  _chunks.check_axes(scorer, pairs=pairs)
  count = len(pairs)
  if not count:
    return np.zeros(0, np.float32)
  rows = 1 << (count - 1).bit_length()
  size = _chunks.chunk_size_for(scorer, rows, chunk_size)
  laid_out = [np.pad(side, (0, -count % size)).reshape(-1, size) for side in (pairs.user, pairs.item)]
  found = np.asarray(_standardised(scorer, *map(jnp.asarray, laid_out))).reshape(-1)[:count]
  if not np.isfinite(found).all():
    raise ValueError(f"Expected finite scores, got {int((~np.isfinite(found)).sum())} pairs with others.")
  return found


def memorisation(shadow: np.ndarray, included: np.ndarray) -> np.ndarray:
  """float [P]: by how much a pair's score is higher where it was trained on: mean inside minus mean outside.

  Args:
    shadow: float [S, P], the pairs' scores in each shadow model.
    included: bool [S, P], whether that model was trained on the pair.

  Raises:
    ValueError: shapes differ, a score is not finite, or a pair is in all of the shadow models or in none.
  """
  inside, outside = _both_sides(shadow, included)
  return np.asarray(np.nanmean(inside, axis=0) - np.nanmean(outside, axis=0))


def _truths(name: str, values: np.ndarray) -> np.ndarray:
  """As bool; ValueError where there is another number than 0 and 1."""
  array = np.asarray(values)
  if not np.isin(array, (0, 1)).all():
    raise ValueError(f"Expected {name} as booleans, or 0 and 1, got {array!r:.60}.")
  return array.astype(bool)


def _both_sides(shadow: np.ndarray, included: np.ndarray, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
  shadow, included = np.asarray(shadow, np.float64), _truths("included", included)
  if shadow.shape != included.shape or shadow.ndim != 2:
    raise ValueError(f"Expected shadow and included of one shape [S, P], got {shadow.shape} and {included.shape}.")
  if not np.isfinite(shadow).all():
    raise ValueError(f"Expected finite shadow scores, got {int((~np.isfinite(shadow)).sum())} others of {shadow.size}.")
  fewest = min(int(included.sum(axis=0).min()), int((~included).sum(axis=0).min()))
  if fewest < least:
    raise ValueError(
      f"Expected every pair in at least {least} shadow models and out of as many, got one with {fewest}; train more, "
      "or draw halves that are balanced (shadow_halves)."
    )
  return np.where(included, shadow, np.nan), np.where(included, np.nan, shadow)


def likelihood_ratio(
  observed: np.ndarray, shadow: np.ndarray, included: np.ndarray, *, per_pair_variance: bool | None = None
) -> np.ndarray:
  """The likelihood-ratio attack (LiRA, online): log N(s; in) − log N(s; out) of each pair, float [P].

  Two normal distributions a pair are fitted to its scores in the shadow models that were trained on it and in those
  that were not; what is returned says which of them the audited model's score comes from.

  Args:
    observed: float [P], the audited model's scores of the pairs (`standardised_scores`).
    shadow: float [S, P], the same of each shadow model.
    included: bool [S, P], whether a shadow model was trained on the pair.
    per_pair_variance: a variance for each pair, or one for all; None: each from 32 shadow models a side on, below which
      estimates of single variances are noise.

  Raises:
    ValueError: shapes differ, a score is not finite, or a pair has fewer than two shadow models on a side.

  References:
    Carlini et al., Membership Inference Attacks From First Principles, IEEE S&P 2022, algorithm 1.
  """
  observed = np.asarray(observed, np.float64)
  if observed.shape != np.shape(shadow)[1:]:
    raise ValueError(f"Expected observed of shape {np.shape(shadow)[1:]}, got {observed.shape}.")
  if not np.isfinite(observed).all():
    raise ValueError(f"Expected finite observed scores, got {int((~np.isfinite(observed)).sum())} others.")
  sides = _both_sides(shadow, included, least=2)
  if per_pair_variance is None:
    per_pair_variance = min(int(np.isfinite(side).sum(axis=0).min()) for side in sides) >= 32
  logs = []
  for side in sides:
    mean = np.nanmean(side, axis=0)
    spread = np.nanstd(side, axis=0, ddof=1)
    if not per_pair_variance:
      spread = np.full_like(mean, np.sqrt(np.mean(np.square(spread))))
    logs.append(scipy.stats.norm.logpdf(observed, mean, np.maximum(spread, 1e-9)))
  return np.asarray(logs[0] - logs[1])


def shadow_halves(rng: np.random.Generator, num_shadows: int, num_pairs: int) -> np.ndarray:
  """bool [num_shadows, num_pairs]: which pairs each shadow model is trained on; every pair is in exactly half of them.

  Raises:
    ValueError: num_shadows is odd or below 4.
  """
  if num_shadows < 4 or num_shadows % 2:
    raise ValueError(
      f"Expected an even num_shadows={num_shadows} of at least 4, so that every pair is in half of them."
    )
  first = np.arange(num_shadows)[:, None] < num_shadows // 2
  return rng.permuted(np.broadcast_to(first, (num_shadows, num_pairs)), axis=0)


def trained_attack(
  features: np.ndarray, labels: np.ndarray, attacked: np.ndarray, *, ridge: float = 1e-3, num_iterations: int = 50
) -> np.ndarray:
  """Logistic regression from features of known members and non-members, applied to others: float [P], log-odds.

  Args:
    features: float [N, F], of pairs whose membership the attacker knows (retained pairs, held-out positives).
    labels: bool [N], True for members; both must occur.
    attacked: float [P, F], of the pairs in question.
    ridge: weight of ½‖w‖² a pair on standardised features, > 0.
    num_iterations: of Newton's method, at most.

  Raises:
    ValueError: shapes differ, a value is not finite, or only one label occurs.
  """
  features, attacked = np.asarray(features, np.float64), np.asarray(attacked, np.float64)
  target = _truths("labels", labels).astype(np.float64)
  if features.ndim != 2 or attacked.ndim != 2 or features.shape[1] != attacked.shape[1]:
    raise ValueError(f"Expected features [N, F] and attacked [P, F], got {features.shape} and {attacked.shape}.")
  if target.shape != features.shape[:1] or not 0 < target.sum() < target.size:
    raise ValueError(f"Expected labels of shape {features.shape[:1]} with members and non-members, got {labels!r:.60}.")
  if not (np.isfinite(features).all() and np.isfinite(attacked).all()):
    raise ValueError("Expected finite features of all pairs, got others.")
  check_positive("ridge", ridge)
  mean, spread = features.mean(axis=0), features.std(axis=0)
  spread = np.where(spread > 0, spread, 1.0)

  def design(x: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(x)), (x - mean) / spread])

  x = design(features)
  penalty = np.diag(np.append(0.0, np.full(features.shape[1], ridge * len(x))))
  weight = np.zeros(x.shape[1])
  for _ in range(num_iterations):
    odds = 1.0 / (1.0 + np.exp(-np.clip(x @ weight, -30, 30)))
    gradient = x.T @ (odds - target) + penalty @ weight
    hessian = (x * (odds * (1 - odds) + 1e-9)[:, None]).T @ x + penalty
    step = np.linalg.solve(hessian, gradient)
    weight -= step
    if np.abs(step).max() < 1e-10:
      break
  return np.asarray(design(attacked) @ weight)
