"""Resamples of an attack's numbers, all at once."""

from __future__ import annotations

import numpy as np

CHUNK = 1 << 20  # counts at once: the running sums of 2 × 8 MB


def resampled_attack(
  rng: np.random.Generator, inside: np.ndarray, outside: np.ndarray, fprs: np.ndarray, num_bootstrap: int
) -> np.ndarray:
  """AUC and true positive rates of resamples of either side, drawn with replacement.

  The scores are put in order once: a resample is how often each of them was drawn, and its curve two running sums.

  Args:
    rng: for each resample, members are drawn first.
    inside: float [M], numbers of members.
    outside: float [N], of non-members.
    fprs: float [F], false positive rates.
    num_bootstrap: B, resamples.

  Returns:
    float [B, 1 + F]: the AUC, then the true positive rate at each of `fprs`.
  """
  _, place = np.unique(-np.concatenate([inside, outside]), return_inverse=True)  # equal scores share a place
  num_places = int(place.max()) + 1
  results = np.empty((num_bootstrap, 1 + fprs.size))
  chunk = max(1, CHUNK // num_places)
  for first in range(0, num_bootstrap, chunk):
    counts = np.empty((2, min(chunk, num_bootstrap - first), num_places), np.int64)
    for row in range(counts.shape[1]):
      for side, (start, size) in enumerate(((0, inside.size), (inside.size, outside.size))):
        drawn = place[start + rng.integers(size, size=size)]
        counts[side, row] = np.bincount(drawn, minlength=num_places)
    found, false = np.cumsum(counts, axis=2)
    twice = (counts[1] * (2 * found - counts[0])).sum(axis=1)  # members above a non-member, ties one half
    results[first : first + chunk, 0] = twice / (2 * inside.size * outside.size)
    steps = np.concatenate([np.zeros((len(found), 1), np.int64), found], axis=1)
    for column, fpr in enumerate(fprs, 1):
      allowed = (false / outside.size <= fpr * (1 + 1e-12)).sum(axis=1, keepdims=True)
      results[first : first + chunk, column] = np.take_along_axis(steps, allowed, axis=1)[:, 0] / inside.size
  return results
