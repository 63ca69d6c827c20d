"""Rows as a file holds them, and the way from there to positions: merging, thresholds, k-core, vocabularies."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxunlearn._validate import check_whole
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.data.vocabulary import Vocabulary, as_ids


@dataclasses.dataclass(frozen=True, eq=False)
class RatingTable:
  """What the readers return: one row a rating, in the order of the file, raw ids.

  Attributes:
    user_ids: int64 [N] or str [N].
    item_ids: int64 [N] or str [N].
    rating: float32 [N], in the publisher's units, or None.
    timestamp: int64 or float64 [N], in the publisher's units (MovieLens: seconds since 1970), or None.
    duplicates: rows merged away so far; readers merge nothing, so 0 from them (see `index_ratings`).
  """

  user_ids: np.ndarray
  item_ids: np.ndarray
  rating: np.ndarray | None = None
  timestamp: np.ndarray | None = None
  duplicates: int = 0

  def __post_init__(self) -> None:
    """Checks kinds and lengths of the columns, and that numbers are finite."""
    object.__setattr__(self, "user_ids", as_ids(self.user_ids, "user_ids"))
    object.__setattr__(self, "item_ids", as_ids(self.item_ids, "item_ids"))
    for name in ("item_ids", "rating", "timestamp"):
      column = getattr(self, name)
      if column is not None and np.shape(column) != self.user_ids.shape:
        raise ValueError(f"Expected {name} of shape {self.user_ids.shape} as user_ids, got {np.shape(column)}.")
    for name in ("rating", "timestamp"):
      column = getattr(self, name)
      if column is not None and not np.isfinite(column).all():
        row = int(np.flatnonzero(~np.isfinite(column))[0])
        raise ValueError(f"Expected finite numbers in {name}, got {column[row]} in row {row}; drop the row.")

  def __len__(self) -> int:
    """Number of rows."""
    return int(self.user_ids.shape[0])


@dataclasses.dataclass(frozen=True, eq=False)
class IndexedRatings:
  """A rating table as positions, before any split.

  Attributes:
    interactions: the pairs that were kept; every user and every item has at least one.
    users: raw user ids by position.
    items: raw item ids by position.
    rating: float32 [N] aligned with `interactions`, or None.
    timestamp: int64 or float64 [N] aligned with `interactions`, or None.
    duplicates: rows that named a pair again and were merged.
  """

  interactions: Interactions
  users: Vocabulary
  items: Vocabulary
  rating: np.ndarray | None
  timestamp: np.ndarray | None
  duplicates: int


def k_core_rows(interactions: Interactions, k: int) -> np.ndarray:
  """bool [N]: the rows of the k-core, the largest part in which every user and item left has at least k pairs.

  Raises:
    ValueError: k is negative.
  """
  check_whole("k", k, least=0)
  keep = np.ones(len(interactions), bool)
  while True:
    kept = interactions.select(keep)
    enough = (kept.user_degrees() >= k)[kept.user] & (kept.item_degrees() >= k)[kept.item]
    if enough.all():
      return keep
    keep[keep] = enough


def k_core(interactions: Interactions, k: int) -> Interactions:
  """The k-core over unchanged axes; users and items outside it keep their (now empty) rows.

  Raises:
    ValueError: k is negative.
  """
  return interactions.select(k_core_rows(interactions, k))


def _one_row_a_pair(key: np.ndarray, rating: np.ndarray | None, timestamp: np.ndarray | None) -> np.ndarray:
  """Row numbers, ascending by key, one a key: the latest, then the highest rated, then the last in the file."""
  order = np.argsort(key, kind="stable")
  in_order = key[order]
  last = np.append(in_order[1:] != in_order[:-1], True)
  shared = np.flatnonzero(~last | np.append(False, ~last[:-1]))  # places whose pair has more than one row
  if shared.size:  # only these need the slower sort by three keys, and most files have none
    rows = order[shared]
    columns = [column[rows] for column in (rating, timestamp) if column is not None]
    order[shared] = rows[np.lexsort([*columns, key[rows]])]
  return order[last]


def index_ratings(table: RatingTable, *, min_rating: float | None = None, k_core: int = 0) -> IndexedRatings:
  """Turns raw rows into sorted unique pairs of positions with their vocabularies.

  In this order: rows that repeat a pair are merged (the latest timestamp wins, then the highest rating) and
  counted; pairs rated below `min_rating` are dropped; the `k_core` is taken; positions are given to the ids that
  are left, ascending. So positions do not depend on the order of rows in the file.

  Args:
    table: raw rows.
    min_rating: lowest rating that counts as a positive, in the table's units; None keeps all.
    k_core: fewest pairs a user and an item must have, repeated until stable; 0 keeps all.

  Raises:
    ValueError: min_rating without ratings, k_core < 0, or nothing is left.
  """
  if not len(table):
    raise ValueError("Expected at least one row, got an empty table.")
  users, items = Vocabulary.from_ids(table.user_ids), Vocabulary.from_ids(table.item_ids)
  user, item = users.encode(table.user_ids), items.encode(table.item_ids)
  rows = _one_row_a_pair(user.astype(np.int64) * len(items) + item, table.rating, table.timestamp)
  duplicates = table.duplicates + len(table) - rows.size
  if min_rating is not None:
    if table.rating is None:
      raise ValueError(f"min_rating={min_rating} needs ratings, and this table has none; pass min_rating=None.")
    rows = rows[table.rating[rows] >= min_rating]
  pairs = Interactions(user[rows], item[rows], len(users), len(items))  # rows ascend by key: sorted, unique
  if k_core:
    keep = k_core_rows(pairs, k_core)
    pairs, rows = pairs.select(keep), rows[keep]
  if not len(pairs):
    raise ValueError(f"No pair is left of {len(table)} rows with min_rating={min_rating}, k_core={k_core}; lower them.")
  user_at, item_at = np.flatnonzero(pairs.user_degrees()), np.flatnonzero(pairs.item_degrees())
  return IndexedRatings(
    interactions=Interactions(
      np.searchsorted(user_at, pairs.user).astype(np.int32),
      np.searchsorted(item_at, pairs.item).astype(np.int32),
      user_at.size,
      item_at.size,
    ),
    users=Vocabulary(users.ids[user_at]),
    items=Vocabulary(items.ids[item_at]),
    rating=None if table.rating is None else table.rating[rows],
    timestamp=None if table.timestamp is None else table.timestamp[rows],
    duplicates=duplicates,
  )
