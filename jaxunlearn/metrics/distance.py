"""Distance between two scorers: differences of scores, rank correlation, overlap of top-k lists."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # scipy.stats, half a second of imports, is loaded when it is first used
from jax import lax

from jaxunlearn._validate import check_whole
from jaxunlearn.base import Scorer
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.metrics import _chunks
from jaxunlearn.metrics.completeness import pair_scores
from jaxunlearn.metrics.ranking import top_k_items

KS = (20, 50)
NUM_PAIRS = 1 << 17
NUM_USERS = 512


class ScoreDistance(NamedTuple):
  """How far a scorer is from a reference, usually Retrain.

  Attributes:
    mean_abs: mean |s − s_ref| over the sampled pairs, in raw scores.
    relative_abs: `mean_abs` in standard deviations of the reference's scores over the same pairs.
    spearman: Spearman's correlation of the two scores over the sampled pairs, all users pooled.
    user_spearman: mean over the sampled users of Spearman's correlation over all items.
    overlap: {k: mean over all users of |A ∩ B| ÷ max(|A|, |B|)}, A and B the two top-k lists.
    num_pairs: pairs sampled.
    num_users: users whose full rankings were correlated.
  """

  mean_abs: float
  relative_abs: float
  spearman: float
  user_spearman: float
  overlap: dict[int, float]
  num_pairs: int
  num_users: int


def sample_pairs(num_users: int, num_items: int, *, num_pairs: int = NUM_PAIRS, seed: int = 0) -> Interactions:
  """Pairs drawn uniformly from all user × item pairs, duplicates merged: the same for every scorer and method."""
  check_whole("num_pairs", num_pairs)
  rng = np.random.default_rng(seed)
  user, item = rng.integers(0, num_users, num_pairs), rng.integers(0, num_items, num_pairs)
  return Interactions.from_pairs(user, item, num_users=num_users, num_items=num_items)


def mean_absolute_difference(scorer: Scorer, reference: Scorer, pairs: Interactions) -> float:
  """Mean |s − s_ref| of raw scores over `pairs`, accumulated in float64.

  The scale of a score is part of it: a model whose scores are twice another's is far away and ranks alike. Compare
  it within one base model and recipe, or read `ScoreDistance.relative_abs`.

  Raises:
    ValueError: no pairs, or axes that differ.
  """
  a, b = _both(scorer, reference, pairs)
  return float(np.mean(np.abs(a - b)))


def pair_spearman(scorer: Scorer, reference: Scorer, pairs: Interactions) -> float:
  """Spearman's correlation of both scores over `pairs`, all users pooled; NaN where one of them is constant.

  Pooled, it mostly sees which users and items score high anywhere. `user_spearman` compares rankings.

  Raises:
    ValueError: no pairs, or axes that differ.
  """
  return _correlation(*(scipy.stats.rankdata(scores) for scores in _both(scorer, reference, pairs)))


def _both(scorer: Scorer, reference: Scorer, pairs: Interactions) -> tuple[np.ndarray, np.ndarray]:
  if not len(pairs):
    raise ValueError("Expected at least one pair to compare scores on, got none.")
  a, b = (pair_scores(one, pairs).astype(np.float64) for one in (scorer, reference))
  for name, scores in (("scorer", a), ("reference", b)):
    if not np.isfinite(scores).all():
      raise ValueError(f"Expected finite scores from {name}, got {int(np.sum(~np.isfinite(scores)))} that are not.")
  return a, b


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
  a, b = a - a.mean(), b - b.mean()
  size = np.sqrt(np.sum(a * a) * np.sum(b * b))
  return float(np.sum(a * b) / size) if size > 0 else float("nan")


def _average_ranks(scores: jax.Array) -> jax.Array:
  """Ranks from 0, ties averaged, minus their mean: float32 [I] of one row."""
  size = scores.shape[0]
  order = jnp.argsort(scores)
  values = scores[order]
  place = jnp.arange(size, dtype=jnp.int32)
  starts = jnp.concatenate([jnp.ones(1, bool), values[1:] != values[:-1]])
  ends = jnp.concatenate([starts[1:], jnp.ones(1, bool)])
  first = lax.cummax(jnp.where(starts, place, 0))
  last = lax.cummin(jnp.where(ends, place, size - 1), reverse=True)
  ranks = 0.5 * (first + last).astype(jnp.float32) - 0.5 * (size - 1)
  return jnp.zeros(size, jnp.float32).at[order].set(ranks)


@jax.jit
def _row_correlations(scorer: Scorer, reference: Scorer, users: jax.Array) -> jax.Array:
  """float32 [n, C]: Spearman's correlation of the two rows of each user of int32 [n, C]; NaN where undefined."""

  def correlate(chunk: jax.Array) -> jax.Array:
    rows = scorer.scores(chunk), reference.scores(chunk)
    a, b = (jax.vmap(_average_ranks)(row) for row in rows)
    size = jnp.sqrt(jnp.sum(a * a, axis=1)) * jnp.sqrt(jnp.sum(b * b, axis=1))
    fine = jnp.all(jnp.isfinite(rows[0]) & jnp.isfinite(rows[1]), axis=1)
    return jnp.where(fine, jnp.sum(a * b, axis=1) / size, jnp.inf)

  return lax.map(correlate, users)


def user_spearman(
  scorer: Scorer,
  reference: Scorer,
  *,
  num_users: int = NUM_USERS,
  seed: int = 0,
  users: np.ndarray | None = None,
  chunk_size: int | None = None,
) -> tuple[float, np.ndarray]:
  """Spearman's correlation over *all* items, user by user: the mean, and float32 [n] of the users.

  Nothing is masked. A user whose scores are constant in one of the two has no ranking: NaN there, and left out of
  the mean (a mean over nobody is NaN).

  Args:
    scorer: what is compared.
    reference: with what.
    num_users: users drawn without replacement; all if there are not more.
    seed: of the draw.
    users: int [n], positions, instead of a draw.
    chunk_size: users at once; chosen by memory when None.

  Raises:
    ValueError: axes that differ, a user out of range, no user, or scores that are not finite.
  """
  _check_same_axes(scorer, reference)
  if users is None:
    check_whole("num_users", num_users)
    drawn = np.random.default_rng(seed).permutation(scorer.num_users)[:num_users]
    users = np.sort(drawn)
  users = _chunks.check_users(users, scorer.num_users)
  if not len(users):
    raise ValueError("Expected at least one user to compare rankings of, got none.")
  wider = scorer if not scorer.inner_product else reference
  size = _chunks.chunk_size_for(wider, len(users), chunk_size)
  laid_out = np.pad(users, (0, -len(users) % size), mode="edge").reshape(-1, size)
  rows = np.asarray(_row_correlations(scorer, reference, jnp.asarray(laid_out))).reshape(-1)[: len(users)]
  if np.isinf(rows).any():
    raise ValueError(f"Expected finite scores, got others for {int(np.isinf(rows).sum())} of {len(users)} users.")
  ranked = rows[~np.isnan(rows)]
  return float(ranked.mean(dtype=np.float64)) if ranked.size else float("nan"), rows


def overlap_at_k(
  scorer: Scorer,
  reference: Scorer,
  k: int,
  *,
  mask: Interactions | None = None,
  users: np.ndarray | None = None,
  chunk_size: int | None = None,
) -> float:
  """Mean over users of |A ∩ B| ÷ max(|A|, |B|), A and B being the two lists of the k best unmasked items.

  Both lists have k items unless fewer are unmasked. Users with nothing left to list are left out (NaN if all are).

  Args:
    scorer: what is compared.
    reference: with what.
    k: ≥ 1.
    mask: pairs that neither may list, usually the retained ones; None lists any item.
    users: int [n], positions; all when None.
    chunk_size: users at once; chosen by memory when None.

  Raises:
    ValueError: k < 1, axes that differ, or NaN scores.
  """
  _check_same_axes(scorer, reference)
  users = np.arange(scorer.num_users) if users is None else users
  listed = [top_k_items(one, users, k, mask, chunk_size=chunk_size)[0] for one in (scorer, reference)]
  keys = [np.arange(len(items))[:, None] * scorer.num_items + items.astype(np.int64) for items in listed]
  both = np.isin(keys[0], keys[1][listed[1] >= 0]) & (listed[0] >= 0)  # −1 is a place that is empty
  longest = np.maximum(*(np.sum(items >= 0, axis=1) for items in listed))
  some = longest > 0
  return float(np.mean(both.sum(axis=1)[some] / longest[some])) if some.any() else float("nan")


def _check_same_axes(scorer: Scorer, reference: Scorer) -> None:
  mine, theirs = (scorer.num_users, scorer.num_items), (reference.num_users, reference.num_items)
  if mine != theirs:
    raise ValueError(f"Expected scorers over the same (users, items), got {mine} and {theirs}.")


def score_distance(
  scorer: Scorer,
  reference: Scorer,
  *,
  mask: Interactions | None = None,
  ks: Sequence[int] = KS,
  num_pairs: int = NUM_PAIRS,
  num_users: int = NUM_USERS,
  seed: int = 0,
) -> ScoreDistance:
  """All distances between two scorers, on pairs and users that depend on `seed` and the axes alone.

  The unit is the noise floor: the same distance between two Retrains of different seeds (this function again). A
  method is as close as can be told when it is no farther from one Retrain than another Retrain is. Raw scores carry
  their model's scale (`mean_abs`); `relative_abs`, the correlations and the overlaps do not.

  Args:
    scorer: what is compared.
    reference: with what, usually Retrain.
    mask: pairs that neither top-k list may hold, usually the retained ones.
    ks: list lengths, each ≥ 1.
    num_pairs: user × item pairs to draw, ≥ 1.
    num_users: users whose full rankings are correlated, ≥ 1.
    seed: of both draws.

  Raises:
    ValueError: axes that differ, scores that are not finite, an argument out of range.
  """
  _check_same_axes(scorer, reference)
  pairs = sample_pairs(scorer.num_users, scorer.num_items, num_pairs=num_pairs, seed=seed)
  a, b = _both(scorer, reference, pairs)
  spread = float(np.std(b))
  mean_abs = float(np.mean(np.abs(a - b)))
  mean, rows = user_spearman(scorer, reference, num_users=num_users, seed=seed)
  overlap = functools.partial(overlap_at_k, scorer, reference, mask=mask)
  return ScoreDistance(
    mean_abs=mean_abs,
    relative_abs=mean_abs / spread if spread > 0 else float("nan"),
    spearman=_correlation(scipy.stats.rankdata(a), scipy.stats.rankdata(b)),
    user_spearman=mean,
    overlap={int(k): overlap(k) for k in ks},
    num_pairs=len(pairs),
    num_users=len(rows),
  )
