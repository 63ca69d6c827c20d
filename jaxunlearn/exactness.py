"""Proof of exactness: train from scratch on what is retained, and compare bit by bit."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxunlearn.base import State, Unlearner


class ExactReport(NamedTuple):
  """What `verify_exact` found.

  Attributes:
    exact: every array is bitwise that of training from scratch.
    differing: {array: largest absolute difference} of those that are not; NaN where shapes differ.
    num_arrays: arrays compared.
    derived: arrays of the state that were computed from pairs which may have been forgotten since, and that training
      from scratch took over as they are (a partition made from embeddings of all pairs).
    advice: how to be exact without that condition, or what to try where bits differ; "" when there is nothing to do.
  """

  exact: bool
  differing: dict[str, float]
  num_arrays: int
  derived: list[str]
  advice: str

  def __str__(self) -> str:
    verdict = "bitwise equal" if self.exact else f"DIFFERENT in {len(self.differing)}"
    lines = [f"{self.num_arrays} arrays against training from scratch on the retained pairs: {verdict}"]
    lines += [f"  {name}: up to {gap:.3g}" for name, gap in self.differing.items()]
    lines += [f"derived from data that may include forgotten pairs: {name}" for name in self.derived]
    return "\n".join([*lines, *([self.advice] if self.advice else [])])


def verify_exact(key: jax.Array, unlearner: Unlearner, state: State) -> ExactReport:
  """Trains from scratch on the state's retained pairs, same key and partition, and compares every array bit by bit.

  It proves that nothing but the retained pairs, the key and what `derived` lists has entered the parameters. It costs a
  whole fit. Bits are equal on one device kind with deterministic scatters (CPU; GPU with
  `XLA_FLAGS=--xla_gpu_deterministic_ops=true`).

  Args:
    key: that of the fit and of the requests since.
    unlearner: that made the state; an exact method.
    state: after any number of requests.

  Raises:
    ValueError: the method does not claim exactness.
  """
  if unlearner.refit is None:
    raise ValueError(
      f"Expected an exact method, got {unlearner.name!r} with guarantee {unlearner.guarantee!r}: training from scratch "
      "would not give its parameters. Compare what it serves with Retrain's instead (metrics)."
    )
  fresh = unlearner.refit(key, state)
  differing: dict[str, float] = {}
  ours, theirs = (jax.tree_util.tree_leaves_with_path(tree) for tree in (state, fresh))
  if [path for path, _ in ours] != [path for path, _ in theirs]:
    raise ValueError("Expected a state of this unlearner, got one of another structure.")
  for (path, a), (_, b) in zip(ours, theirs, strict=True):
    gap = _gap(np.asarray(a), np.asarray(b))
    if gap is not None:
      differing[jax.tree_util.keystr(path)] = gap
  derived: list[str] = getattr(state, "derived", [])
  advice = (
    'Exact given these. For exactness without a condition partition by ids (SISA, or partition="random-users"), or by '
    "vectors that never saw what may be forgotten, or partition anew and train everything."
    if derived
    else ""
  )
  if differing:
    advice = (
      "The key has to be that of the fit and of all requests since; another key gives other arrays, and a state whose "
      "fit and requests had different ones has none." + (f" {advice}" if advice else "")
    )
  return ExactReport(not differing, differing, len(ours), derived, advice)


def _gap(a: Any, b: Any) -> float | None:
  """None for equal bits, else the largest absolute difference."""
  if a.shape != b.shape or a.dtype != b.dtype:
    return float("nan")
  if a.tobytes() == b.tobytes():
    return None
  return float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64))))
