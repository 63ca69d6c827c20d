"""Splits are values: drawn, saved, loaded, passed. Host code, so randomness is a NumPy `Generator`."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from jaxunlearn._validate import check_choice, check_fraction, check_whole
from jaxunlearn.data._files import atomic_writer
from jaxunlearn.data.interactions import Interactions

_FORMAT = "jaxunlearn-split-1"
_PARTS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """Three disjoint sets of pairs over the same users and items; validation and test may hold no pairs."""

  train: Interactions
  validation: Interactions
  test: Interactions

  def __post_init__(self) -> None:
    """Refuses parts that share a pair."""
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
      shared = getattr(self, first).intersection(getattr(self, second))
      if len(shared):
        raise ValueError(
          f"Expected disjoint {first} and {second}, but they share {len(shared)} pairs, (user, item) "
          f"({shared.user[0]}, {shared.item[0]}) among them; take one side `without` the other."
        )

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes one `.npz` file, whole or not at all.

    Raises:
      OSError: the file cannot be written; the message names it.
    """
    parts = {part: getattr(self, part) for part in _PARTS}
    header = {
      "format": _FORMAT,
      "num_users": self.train.num_users,
      "num_items": self.train.num_items,
      "digest": {part: pairs.digest() for part, pairs in parts.items()},
    }
    arrays = {f"{part}_{axis}": getattr(pairs, axis) for part, pairs in parts.items() for axis in ("user", "item")}
    with atomic_writer(path) as handle:
      np.savez(handle, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)

  @classmethod
  def load(cls, path: str | os.PathLike[str]) -> Split:
    """Reads what `save` wrote, and checks it.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not a split, or its content does not have the digest it was saved with.
    """
    path = Path(path)
    if not path.is_file():
      raise FileNotFoundError(f"Expected a saved split at {path}, found nothing.")
    try:
      with np.load(path, allow_pickle=False) as stored:
        header = json.loads(stored["header"].tobytes())
        arrays = {name: stored[name] for name in stored.files if name != "header"}
      if header["format"] != _FORMAT:
        raise KeyError("format")
      parts = {
        part: Interactions.from_pairs(
          arrays[f"{part}_user"],
          arrays[f"{part}_item"],
          num_users=header["num_users"],
          num_items=header["num_items"],
        )
        for part in _PARTS
      }
      changed = [part for part in _PARTS if parts[part].digest() != header["digest"][part]]
    except (KeyError, ValueError, TypeError, AttributeError, zipfile.BadZipFile, EOFError, OSError) as error:
      raise ValueError(f"{path} is not a split saved by Split.save ({type(error).__name__}: {error}).") from error
    if changed:
      raise ValueError(f"{path} was altered since it was saved: {', '.join(changed)} differ from the stored digest.")
    return cls(**parts)


def _checked_ratios(ratios: Sequence[float]) -> tuple[float, float, float]:
  ratios = tuple(float(r) for r in ratios)
  if len(ratios) != 3 or not all(r >= 0 for r in ratios) or ratios[0] == 0 or not abs(sum(ratios) - 1) <= 1e-6:
    raise ValueError(f"Expected ratios=(train, validation, test), each >= 0, train > 0, sum 1; got {ratios}.")
  return ratios


def _share(counts: np.ndarray | int, ratio: float) -> np.ndarray:
  """⌊count · ratio⌋; the epsilon keeps 10 · 0.3 at 3, not at the 2 that binary fractions would give."""
  return np.floor(np.asarray(counts) * ratio + 1e-9).astype(np.int64)


def _rank_in_user(order: np.ndarray, interactions: Interactions) -> np.ndarray:
  """int64 [N]: for each row, its place (0 first) among its user's rows when sorted by `order`, ties by row."""
  by_user = np.lexsort((order, interactions.user))
  rank = np.empty(len(interactions), np.int64)
  starts = interactions.indptr()[:-1]
  rank[by_user] = np.arange(len(interactions)) - np.repeat(starts, interactions.user_degrees())
  return rank


def _split_by_rank(
  interactions: Interactions, rank: np.ndarray, num_validation: np.ndarray | int, num_test: np.ndarray | int
) -> Split:
  """Rows of rank below `num_test` go to test, the next `num_validation` to validation, the rest to train."""
  in_test = rank < num_test
  in_validation = ~in_test & (rank < num_test + num_validation)
  return Split(
    interactions.select(~in_test & ~in_validation), interactions.select(in_validation), interactions.select(in_test)
  )


def random_split(
  rng: np.random.Generator,
  interactions: Interactions,
  ratios: Sequence[float] = (0.8, 0.1, 0.1),
  by: Literal["user", "pair"] = "user",
) -> Split:
  """Splits at random.

  Args:
    rng: the source of randomness; equal generators give equal splits.
    interactions: the pairs to split.
    ratios: shares (train, validation, test), sum 1. Validation and test get ⌊n · ratio⌋, train the rest.
    by: "user" applies the ratios to each user's pairs (a user with fewer than 1/ratio pairs keeps them all in
      train); "pair" to all pairs at once.

  Raises:
    ValueError: ratios or `by` are not as above.
  """
  _, validation, test = _checked_ratios(ratios)
  check_choice("by", by, ("user", "pair"))
  noise = rng.random(len(interactions))
  if by == "pair":
    rank = np.empty(len(interactions), np.int64)
    rank[np.argsort(noise, kind="stable")] = np.arange(len(interactions))
    return _split_by_rank(interactions, rank, _share(len(interactions), validation), _share(len(interactions), test))
  counts = interactions.user_degrees()[interactions.user]
  return _split_by_rank(
    interactions, _rank_in_user(noise, interactions), _share(counts, validation), _share(counts, test)
  )


def _checked_timestamps(timestamps: np.ndarray, interactions: Interactions) -> np.ndarray:
  timestamps = np.asarray(timestamps)
  if timestamps.shape != (len(interactions),):
    raise ValueError(f"Expected one timestamp for each of {len(interactions)} pairs, got shape {timestamps.shape}.")
  if timestamps.dtype.kind not in "iuf" or (timestamps.dtype.kind == "f" and not np.isfinite(timestamps).all()):
    raise ValueError(f"Expected finite numbers as timestamps, got dtype {timestamps.dtype}; drop rows without one.")
  return timestamps


def leave_n_out(
  order: np.random.Generator | np.ndarray, interactions: Interactions, n: int = 1, *, validation: bool = True
) -> Split:
  """Each user's n last pairs for test and, with `validation`, the n before them for validation.

  Args:
    order: timestamps [N] aligned with `interactions` ("last" is latest; equal times keep row order), or a
      generator for n pairs at random.
    interactions: the pairs to split.
    n: pairs a user for each of test and validation, >= 1.
    validation: whether to take a validation part too.

  A user who would be left without a training pair keeps all pairs in train.

  Raises:
    ValueError: n < 1, or timestamps that do not fit the pairs.
  """
  check_whole("n", n)
  if isinstance(order, np.random.Generator):
    keys = order.random(len(interactions))
  else:
    keys = _checked_timestamps(order, interactions)
  counts = interactions.user_degrees()[interactions.user]
  from_last = counts - 1 - _rank_in_user(keys, interactions)
  held_out = n * (1 + validation)
  from_last = np.where(counts > held_out, from_last, np.iinfo(np.int64).max)  # beyond every cut: stays in train
  return _split_by_rank(interactions, from_last, n * int(validation), n)


def time_split(timestamps: np.ndarray, interactions: Interactions, ratios: Sequence[float] = (0.8, 0.1, 0.1)) -> Split:
  """Oldest pairs to train, then validation, the latest to test; no train pair is later than a test pair.

  Args:
    timestamps: numbers [N] aligned with `interactions`; equal times keep row order.
    interactions: the pairs to split.
    ratios: shares (train, validation, test), sum 1. Validation and test get ⌊N · ratio⌋, train the rest.

  Raises:
    ValueError: timestamps do not fit the pairs, or ratios are not as above.
  """
  _, validation, test = _checked_ratios(ratios)
  count = len(interactions)
  from_last = np.empty(count, np.int64)
  order = np.argsort(_checked_timestamps(timestamps, interactions), kind="stable")
  from_last[order] = np.arange(count - 1, -1, -1)
  return _split_by_rank(interactions, from_last, _share(count, validation), _share(count, test))


def hold_out(
  rng: np.random.Generator, interactions: Interactions, fraction: float
) -> tuple[Interactions, Interactions]:
  """(train, validation): ⌊N · fraction⌋ pairs drawn uniformly without replacement become validation.

  Raises:
    ValueError: fraction is outside (0, 1), or so small that no pair is drawn.
  """
  check_fraction("fraction", fraction)
  count = int(_share(len(interactions), fraction))
  if count == 0:
    raise ValueError(f"fraction={fraction} of {len(interactions)} pairs is no pair at all; raise it.")
  held = np.zeros(len(interactions), bool)
  held[rng.permutation(len(interactions))[:count]] = True
  return interactions.select(~held), interactions.select(held)
