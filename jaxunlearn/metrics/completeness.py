"""Completeness of forgetting: do forgotten pairs still score like retained ones? Mann-Whitney AUC."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # scipy.stats, half a second of imports, is loaded when it is first used

from jaxunlearn.base import Scorer
from jaxunlearn.data.interactions import Interactions

PAIR_CHUNK = 1 << 16  # pairs scored at once: 65,536 · 64 floats are 16 MiB a side


class Probe(NamedTuple):
  """The pairs that a completeness AUC is measured on: a value, to be drawn once and saved with the result.

  Attributes:
    retain: retained pairs, label 1.
    forget: forgotten pairs, label 0; all of them.
  """

  retain: Interactions
  forget: Interactions


def auc(positive_scores: np.ndarray, negative_scores: np.ndarray) -> float:
  """P(positive > negative) + ½ P(positive = negative), over all pairs of one of each.

  Computed as (R − P(P + 1)/2) / (P · N) in float64, R being the sum of the tie-averaged ranks of the P positives
  among all P + N scores. Infinite scores are ordered like any other.

  Args:
    positive_scores: float [P], of label 1.
    negative_scores: float [N], of label 0.

  Returns:
    A number in [0, 1]; 0.5 is chance, and what constant scores give.

  Raises:
    ValueError: a side is empty, is not of one dimension, or holds NaN.
  """
  sides = []
  for name, scores in (("positive_scores", positive_scores), ("negative_scores", negative_scores)):
    side = np.asarray(scores, np.float64)
    if side.ndim != 1 or not side.size:
      raise ValueError(f"Expected {name} of shape [n] with n > 0, got shape {side.shape}.")
    if np.isnan(side).any():
      raise ValueError(f"Expected {name} without NaN, got {int(np.isnan(side).sum())} NaN of {side.size}.")
    sides.append(side)
  num_positive, num_negative = len(sides[0]), len(sides[1])
  ranks = scipy.stats.rankdata(np.concatenate(sides))
  above = ranks[:num_positive].sum() - num_positive * (num_positive + 1) / 2
  return float(above / (num_positive * num_negative))


def completeness_probe(rng: np.random.Generator, retain: Interactions, forget: Interactions) -> Probe:
  """Draws as many retained pairs as there are forgotten ones, uniformly and without replacement.

  Where fewer are retained than forgotten, all of them are taken. An empty `forget` gives an empty probe, of
  which no AUC can be computed.

  Args:
    rng: source of the draw; the same state gives the same probe.
    retain: the pairs that stay, disjoint from `forget`.
    forget: the pairs to be forgotten.

  Raises:
    ValueError: the axes differ, or a pair is on both sides.
  """
  shared = int(retain.contains(forget).sum())  # checks the axes too
  if shared:
    raise ValueError(f"Expected retain without the forgotten pairs, got {shared} in both; use retain.without(forget).")
  if len(retain) <= len(forget):
    return Probe(retain, forget)
  # Ascending, so that the draw is Interactions again.
  drawn = np.sort(rng.choice(len(retain), size=len(forget), replace=False))
  return Probe(retain.select(drawn), forget)


@jax.jit
def _pair_scores(scorer: Scorer, users: jax.Array, items: jax.Array) -> jax.Array:
  return scorer.pair_scores(users, items)


def pair_scores(scorer: Scorer, interactions: Interactions, *, chunk_size: int = PAIR_CHUNK) -> np.ndarray:
  """float32 [N]: the raw served score of each pair, computed on the device in chunks of one shape.

  Args:
    scorer: what is served.
    interactions: pairs over the scorer's axes; may be empty.
    chunk_size: pairs scored at once, ≥ 1. Fewer pairs than that are padded to a power of two instead.

  Raises:
    ValueError: the axes of scorer and interactions differ, or chunk_size < 1.
  """
  if (scorer.num_users, scorer.num_items) != (interactions.num_users, interactions.num_items):
    raise ValueError(
      f"Expected pairs over the scorer's {scorer.num_users:,} users × {scorer.num_items:,} items, got {interactions!r}."
    )
  if chunk_size < 1:
    raise ValueError(f"Expected chunk_size={chunk_size} > 0.")
  count = len(interactions)
  if not count:
    return np.zeros(0, np.float32)
  size = min(chunk_size, max(256, 1 << (count - 1).bit_length()))
  pending = []
  for start in range(0, count, size):
    part = slice(start, min(start + size, count))
    pad = (0, size - (part.stop - part.start))
    pending.append(
      _pair_scores(
        scorer,
        jnp.asarray(np.pad(interactions.user[part], pad)),
        jnp.asarray(np.pad(interactions.item[part], pad)),
      )
    )
  return np.concatenate([np.asarray(scores) for scores in pending])[:count]


def completeness_auc(scorer: Scorer, probe: Probe) -> float:
  """AUC of telling retained pairs (label 1) from forgotten ones (label 0) by their served score.

  The target is **the value that Retrain has on the same probe, not 1.0**. Retrain has never seen the forgotten
  pairs and still scores them above chance pairs, because a user's tastes can be inferred from the rest: its AUC is
  what "no longer in the model" looks like. Below it, the forgotten pairs are still remembered; above it they
  stand out as suppressed, and whoever sees the scores can tell which pairs were deleted (a Streisand effect).
  Report |AUC − AUC of Retrain| next to the AUC.

  Raw scores are ranked, never squashed: a float32 sigmoid maps all scores beyond ±17 to one value, and those ties
  would be counted as one half.

  Args:
    scorer: what is served, and nothing from before it.
    probe: from `completeness_probe`; the same one for every method that is compared.

  Raises:
    ValueError: a side of the probe is empty, the axes differ, or a score is NaN.
  """
  return auc(pair_scores(scorer, probe.retain), pair_scores(scorer, probe.forget))
