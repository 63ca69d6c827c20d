"""The parts of `stream`: requests, what is measured along them, the table and the plot."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments import _common, _names
from jaxunlearn.base import Scorer, Unlearner
from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.metrics.completeness import auc, pair_scores
from jaxunlearn.unlearn.retrain import ModelState

_COMPILED = "/jax/core/compile/backend_compile_duration"
_count = 0
NUM_RETAINED = 1 << 14


@functools.cache  # a listener is for good
def count_compilations() -> None:
  """Counts from now on, for `counting_compilations`."""
  jax.monitoring.register_event_duration_secs_listener(_on_event)


def _on_event(event: str, duration_secs: float, **more: str | int) -> None:
  global _count
  del duration_secs, more
  _count += event == _COMPILED


@contextlib.contextmanager
def counting_compilations() -> Iterator[list[int]]:
  """A list that, at the end, holds how many programs XLA compiled inside (or loaded from its cache)."""
  counted: list[int] = []
  before = _count
  yield counted
  counted.append(_count - before)


class Along:
  """Measures a state along the stream: utility, and the AUC of the pairs forgotten so far against retained ones.

  All points rank the test pairs of the same users, forgotten ones included: what a list is worth to someone who left is
  no loss. remaining_ndcg@20 is therefore of those with a pair that is not yet forgotten, everyone else's for Original.

  The retained pairs are drawn once, from those that no request takes, and serve every point: drawn anew for each, their
  sampling error would look like ups and downs of the stream.
  """

  def __init__(self, dataset: Dataset, forgotten: list[Interactions]) -> None:
    self.forgotten = forgotten  # after each request, all so far
    self.train, self.measure = dataset.train, _common.Measure(dataset)
    kept = dataset.train.without(forgotten[-1])
    drawn = np.zeros(len(kept), bool)
    drawn[np.random.default_rng(0).choice(len(kept), min(NUM_RETAINED, len(kept)), replace=False)] = True
    self.retained = kept.select(drawn)

  def __call__(self, scorer: Scorer, requests: int) -> dict[str, float]:
    """After that many requests (≥ 1)."""
    so_far = self.forgotten[requests - 1]
    remaining = self.train.user_degrees() > so_far.user_degrees()
    utility = self.measure.utility(scorer, remaining=remaining)
    completeness = auc(pair_scores(scorer, self.retained), pair_scores(scorer, so_far))
    return {"requests": requests, "pairs": len(so_far), **utility, "auc": completeness}


def draw_requests(data: Interactions, requests: int, pairs: int, seed: int) -> list[Interactions]:
  """Disjoint requests of random pairs.

  Raises:
    ValueError: nothing would be left.
  """
  total = requests * pairs
  if total >= len(data):
    raise ValueError(f"Expected --requests × --pairs = {total} below {len(data)}, the number of pairs there are.")
  drawn = np.random.default_rng(seed).permutation(len(data))[:total].reshape(requests, pairs)
  return [data.select(np.isin(np.arange(len(data)), rows)) for rows in drawn]


def draw_users(data: Interactions, requests: int, seed: int) -> list[Interactions]:
  """Requests of one user each, with all of their pairs, in random order: ERASE's, but for its order of user ids.

  Raises:
    ValueError: nobody would be left.
  """
  users = np.flatnonzero(data.user_degrees())
  if requests >= len(users):
    raise ValueError(f"Expected --requests={requests} below {len(users)}, the number of users there are.")
  order = np.random.default_rng(seed).permutation(users)[:requests]
  return [data.select(data.user == user) for user in order]


def reference_places(requests: int, references: int) -> list[int]:
  """After how many requests Retrain trains anew: as many places, evenly spaced, the last of them at the end."""
  return sorted({max(1, round(requests * number / references)) for number in range(1, references + 1)})


def against(points: list[dict[str, float]], references: list[dict[str, float]]) -> list[dict[str, float]]:
  """The points, with ERASE's RelEff@20 = NDCG@20 ÷ Retrain's where there is a Retrain after as many requests."""
  known = {point["requests"]: point for point in references}
  found = []
  for point in points:
    ratios = {}
    if point["requests"] in known:
      for prefix in ("", "remaining_"):
        name = f"{prefix}ndcg@20"
        if name in point and known[point["requests"]][name] > 0:
          ratios[f"{prefix}releff@20"] = point[name] / known[point["requests"]][name]
    found.append({**point, **ratios})
  return found


def run_stream(
  unlearner: Unlearner, key: jax.Array, state: ModelState, requests: list[Interactions], along: Along,
  places: Collection[int], *, progress: bool,
) -> dict[str, Any]:  # fmt: skip
  """All requests in turn, measured after each number of them in `places`; then all at once, from the state before."""
  points, seconds, compiled, now = [], [], [], state
  for number, request in enumerate(tqdm(requests, desc=unlearner.name, disable=not progress), 1):
    start = time.perf_counter()
    with counting_compilations() as counted:
      now = unlearner.unlearn(jax.random.fold_in(key, number), now, request).state
      jax.block_until_ready(jax.tree.leaves(now))
    seconds.append(time.perf_counter() - start)
    compiled += counted
    if number in places:
      points.append(along(unlearner.scorer(now), number))
  joint = unlearner.unlearn(key, state, along.forgotten[-1]).state
  return {
    "points": points,
    "joint": along(unlearner.scorer(joint), len(requests)),
    "seconds": seconds,
    "compiled": compiled,
  }


def so_far(requests: list[Interactions]) -> list[Interactions]:
  """After each request, all pairs that are forgotten."""
  found = [requests[0]]
  for request in requests[1:]:
    found.append(found[-1].union(request))
  return found


def table(
  streams: dict[str, Any], references: list[dict[str, float]], before: dict[str, float]
) -> tuple[list[str], list[list[str]]]:
  """Headings and cells: the end of each stream, the one request of all of it, Retrain and the model before."""

  def row(name: str, point: dict[str, float], seconds: str = "–", compiled: str = "–") -> list[str]:
    names = ("ndcg@20", "releff@20", "remaining_ndcg@20", "remaining_releff@20", "auc")
    numbers = [f"{point[name]:.4f}" if name in point else "–" for name in names]
    return [name, f"{point['pairs']:.0f}", *numbers, seconds, compiled]

  body = [row("Original", before)] + [row("Retrain", point) for point in references]
  for method, found in streams.items():
    warm = found["seconds"][1:] or found["seconds"]
    compiled = str(sum(found["compiled"][1:]))
    body.append(row(_names.display(method), found["points"][-1], f"{np.median(warm):.3f}", compiled))
    body.append(row(f"{_names.display(method)}, at once", found["joint"]))
  heads = ["", "pairs", "NDCG@20", "RelEff@20", "NDCG@20 of who remains", "RelEff@20 of these", "AUC"]
  return [*heads, "median s, warm", "compiled after the first"], body


def draw(streams: dict[str, Any], references: list[dict[str, float]], path: Path) -> list[Path]:
  """NDCG@20 and AUC along the stream; nothing where matplotlib is not installed."""
  try:
    from experiments import _plot
  except ImportError:
    print("No plot: matplotlib is not installed; pip install 'jaxunlearn[plots]' adds it.", file=sys.stderr)
    return []
  panels = []
  for metric, name in (("ndcg@20", "NDCG@20"), ("auc", "completeness AUC of the pairs so far")):
    series = [
      (label, [point["pairs"] for point in points], [point[metric] for point in points])
      for label, points in [("Retrain", references)]
      + [(_names.display(method), found["points"]) for method, found in streams.items()]
      + [(f"{_names.display(method)}, at once", [found["joint"]]) for method, found in streams.items()]
      if points
    ]
    panels.append((name, series))
  return _plot.lines(panels, path, "pairs forgotten")
