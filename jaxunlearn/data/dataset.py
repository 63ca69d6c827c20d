"""A dataset as one value: its parts, its vocabularies, its name and its digest."""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import numpy as np

from jaxunlearn.data.interactions import Interactions
from jaxunlearn.data.splits import Split
from jaxunlearn.data.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
  """Training, validation and test pairs over the same users and items, with the raw ids of both.

  Attributes:
    train: the pairs to fit on.
    validation: the pairs to choose epochs with; None where the publisher's split has none (see `hold_out`).
    test: the pairs to measure on, or None.
    users: raw user ids, one a row of the user axis.
    items: raw item ids, one a row of the item axis.
    name: short name for messages and results.
    notes: which file and which options it came from, for the record of a run.
    duplicates: rows of the source that named a pair again and were merged.
    timestamp: int64 or float64 [number of all pairs], aligned with `all_pairs()`; None where unknown.
  """

  train: Interactions
  validation: Interactions | None = None
  test: Interactions | None = None
  users: Vocabulary
  items: Vocabulary
  name: str = "dataset"
  notes: str = ""
  duplicates: int = 0
  timestamp: np.ndarray | None = None

  def __post_init__(self) -> None:
    """Checks that all parts and the vocabularies share their axes."""
    axes = (len(self.users), len(self.items))
    for part, pairs in self.parts().items():
      if (pairs.num_users, pairs.num_items) != axes:
        raise ValueError(
          f"Expected {part} over {axes[0]} users × {axes[1]} items as in the vocabularies, got {pairs!r}; build all "
          "parts with the same num_users and num_items."
        )
    if self.timestamp is not None and self.timestamp.shape != (len(self.all_pairs()),):
      raise ValueError(
        f"Expected one timestamp for each of {len(self.all_pairs())} pairs, got shape {self.timestamp.shape}."
      )

  @classmethod
  def from_split(
    cls,
    split: Split,
    *,
    users: Vocabulary | None = None,
    items: Vocabulary | None = None,
    name: str = "dataset",
    notes: str = "",
    duplicates: int = 0,
    timestamp: np.ndarray | None = None,
  ) -> Dataset:
    """The dataset of a split; parts without pairs become None, vocabularies default to positions as ids."""
    return cls(
      train=split.train,
      validation=split.validation if len(split.validation) else None,
      test=split.test if len(split.test) else None,
      users=Vocabulary.identity(split.train.num_users) if users is None else users,
      items=Vocabulary.identity(split.train.num_items) if items is None else items,
      name=name,
      notes=notes,
      duplicates=duplicates,
      timestamp=timestamp,
    )

  @property
  def num_users(self) -> int:
    """Rows of the user axis."""
    return len(self.users)

  @property
  def num_items(self) -> int:
    """Rows of the item axis."""
    return len(self.items)

  def parts(self) -> dict[str, Interactions]:
    """The parts that exist, by name."""
    named = {"train": self.train, "validation": self.validation, "test": self.test}
    return {name: pairs for name, pairs in named.items() if pairs is not None}

  def all_pairs(self) -> Interactions:
    """The union of all parts: what there was before splitting."""
    pairs = self.train
    for other in (self.validation, self.test):
      pairs = pairs if other is None else pairs.union(other)
    return pairs

  @functools.cached_property
  def digest(self) -> str:
    """SHA-256 (hex) of all parts and both vocabularies: the data hash of a result."""
    sha = hashlib.sha256(f"{self.users.digest} {self.items.digest}\n".encode())
    for part, pairs in self.parts().items():
      sha.update(f"{part} {pairs.digest()}\n".encode())
    return sha.hexdigest()

  def __repr__(self) -> str:
    """Name and sizes, not the data."""
    sizes = ", ".join(f"{part} {len(pairs):,}" for part, pairs in self.parts().items())
    return f"Dataset({self.name}: {self.num_users:,} users × {self.num_items:,} items; {sizes})"
