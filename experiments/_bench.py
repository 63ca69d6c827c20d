"""Timing of ours against another's, in turns, so that both see the same load of the machine."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class MissingLibrary(Exception):
  """A library to compare with is not installed; the message says how to add it."""


class Side(NamedTuple):
  """Something to time: `run` does `units` units of work and returns when they are done."""

  name: str
  run: Callable[[], object]
  units: int = 1


class Target(NamedTuple):
  """The other's side, and the ratio of seconds (ours by the other's) to reach."""

  side: Side
  ratio: float


class Row(NamedTuple):
  """One comparison.

  Attributes:
    row: which part of the benchmark it belongs to.
    work: the unit of work that the seconds are of.
    ours: what of ours was run.
    other: what it was compared with.
    ours_seconds: median over the rounds.
    other_seconds: the same of the other.
    ratio: median over the rounds of ours by the other's of the same round.
    target: the ratio to reach.
    reached: whether it was.
    headline: whether it is the best of ours against this other.
    ours_values: seconds of each round.
    other_values: the same of the other.
  """

  row: str
  work: str
  ours: str
  other: str
  ours_seconds: float
  other_seconds: float
  ratio: float
  target: float
  reached: bool
  headline: bool
  ours_values: list[float]
  other_values: list[float]


def library(name: str) -> Any:
  """The imported module.

  Raises:
    MissingLibrary: it is not installed.
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    package = name.partition(".")[0]
    raise MissingLibrary(f"{package} is not installed; pip install 'jaxunlearn[bench]' adds it") from error


def in_turns(sides: Sequence[Side], repeats: int) -> list[list[float]]:
  """Seconds a unit of each side, one a round; a round before them, which compiles, is not counted."""
  for side in sides:
    side.run()
  seconds: list[list[float]] = [[] for _ in sides]
  for _ in range(repeats):
    for side, values in zip(sides, seconds, strict=True):
      start = time.perf_counter()
      side.run()
      values.append((time.perf_counter() - start) / side.units)
  return seconds


def compare(row: str, work: str, ours: Sequence[Side], others: Sequence[Target], repeats: int) -> list[Row]:
  """Each of ours against each of the others, all measured in the same rounds."""
  seconds = in_turns([*ours, *(target.side for target in others)], repeats)
  rows: list[Row] = []
  for (side, target), theirs in zip(others, seconds[len(ours) :], strict=True):
    ratios = [statistics.median(a / b for a, b in zip(mine, theirs, strict=True)) for mine in seconds[: len(ours)]]
    for one, mine, ratio in zip(ours, seconds[: len(ours)], ratios, strict=True):
      rows.append(
        Row(
          row=row,
          work=work,
          ours=one.name,
          other=side.name,
          ours_seconds=statistics.median(mine),
          other_seconds=statistics.median(theirs),
          ratio=ratio,
          target=target,
          reached=ratio <= target,
          headline=ratio == min(ratios),
          ours_values=mine,
          other_values=theirs,
        )
      )
  return rows
