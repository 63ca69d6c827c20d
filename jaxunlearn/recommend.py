"""Top items for raw user ids, out of what is served."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxunlearn._validate import check_whole
from jaxunlearn.base import Scorer
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.data.vocabulary import Vocabulary
from jaxunlearn.metrics.ranking import top_k_items


class Recommendations(NamedTuple):
  """One row a requested user, best item first.

  Attributes:
    item_ids: raw ids, int64 or str [N, k]. A slot for which no item is left holds -1 or "" and the score −inf.
    scores: float32 [N, k]: served scores, or for a popularity row the number of pairs of each item.
    by_popularity: bool [N]: whether the row is the popularity list, because nothing is known of the user.
  """

  item_ids: np.ndarray
  scores: np.ndarray
  by_popularity: np.ndarray


def _check_axes(scorer: Scorer, users: Vocabulary, items: Vocabulary, seen: Interactions | None) -> None:
  axes = {"users": (len(users), len(items))}
  if seen is not None:
    axes["seen"] = (seen.num_users, seen.num_items)
  for name, axis in axes.items():
    if axis != (scorer.num_users, scorer.num_items):
      raise ValueError(
        f"Expected {'vocabularies' if name == 'users' else name} over the scorer's {scorer.num_users:,} users × "
        f"{scorer.num_items:,} items, got {axis[0]:,} × {axis[1]:,}; they come from different data."
      )


def most_popular(seen: Interactions, k: int, *, cold_items: bool = False) -> tuple[np.ndarray, np.ndarray]:
  """Positions int32 [≤ k] of the items with most pairs, and those counts; ties by position, cold items as asked."""
  degrees = seen.item_degrees()
  order = np.argsort(-degrees, kind="stable")[:k]
  order = order if cold_items else order[degrees[order] > 0]
  return order.astype(np.int32), degrees[order]


def _best_with_pairs(
  scorer: Scorer, users: np.ndarray, k: int, mask: Interactions | None, has_pairs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """`top_k_items` of the items that have pairs: those whose list is short of k are ranked again, twice as far."""
  best, value = np.full((len(users), k), -1, np.int32), np.full((len(users), k), -np.inf, np.float32)
  enough = k + int(np.sum(~has_pairs))  # that far down, k others have been met, or there are no more
  short, size = np.arange(len(users)), k
  while len(short):
    top, scores = top_k_items(scorer, users[short], size, mask)
    keep = (top >= 0) & has_pairs[top]
    order = np.argsort(~keep, axis=1, kind="stable")[:, :k]
    kept = np.take_along_axis(keep, order, axis=1)
    best[short] = np.where(kept, np.take_along_axis(top, order, axis=1), -1)
    value[short] = np.where(kept, np.take_along_axis(scores, order, axis=1), -np.inf)
    if size >= min(enough, scorer.num_items):
      break
    short, size = short[~kept.all(axis=1)], 2 * size
  return best, value


def recommend(
  scorer: Scorer,
  user_ids: Any,
  k: int,
  *,
  users: Vocabulary,
  items: Vocabulary,
  seen: Interactions | None,
  exclude_seen: bool = True,
  cold_items: bool = False,
) -> Recommendations:
  """The k best items of each user, in raw ids.

  A user that is unknown, or has no pair left in `seen` (wholly forgotten), gets the most popular items of `seen`:
  what remains of the vectors of a forgotten user must not be served. Nor must that of a forgotten item: an item
  without a pair in `seen` is not recommended, unless asked for, since most approximate methods leave its vector near
  where it was. `seen` has to be the retained interactions for this to hold, and after a request the state holds
  exactly those.

  Args:
    scorer: what is served.
    user_ids: raw ids [N], any order, repeats allowed; may be empty, which gives an empty result.
    k: items a user, ≥ 1; beyond what is left to recommend, slots are marked as empty.
    users: raw ids of the scorer's user axis.
    items: raw ids of the scorer's item axis.
    seen: the retained interactions. None leaves out both the exclusion and the popularity fallback: then every user
      has to be known, and `exclude_seen` has to be False.
    exclude_seen: whether to leave out the items of the user's pairs in `seen`.
    cold_items: whether items without a pair in `seen` may be recommended: for models that know of items by other means
      than pairs, and where no item was forgotten.

  Raises:
    ValueError: k < 1; ids of the wrong kind; axes that differ; `seen` is None although something is to be excluded,
      or although a user is unknown; NaN scores.
  """
  check_whole("k", k)
  _check_axes(scorer, users, items, seen)
  if seen is None:
    if exclude_seen:
      raise ValueError("Expected seen when exclude_seen=True, got None; pass the retained interactions.")
    positions = users.encode(user_ids, missing="raise")
    unknown = np.zeros(len(positions), bool)
  else:
    positions = users.encode(user_ids, missing="ignore")
    # Position -1 reads the appended zero: nobody's degree.
    unknown = np.append(seen.user_degrees(), 0)[positions] == 0
  top = np.full((len(positions), k), -1, np.int32)
  scores = np.full((len(positions), k), -np.inf, np.float32)
  if not unknown.all():
    mask = seen if exclude_seen else None
    if seen is None or cold_items:
      top[~unknown], scores[~unknown] = top_k_items(scorer, positions[~unknown], k, mask)
    else:
      has_pairs = seen.item_degrees() > 0
      top[~unknown], scores[~unknown] = _best_with_pairs(scorer, positions[~unknown], k, mask, has_pairs)
  if unknown.any() and seen is not None:
    popular, counts = most_popular(seen, k, cold_items=cold_items)
    top[unknown, : len(popular)], scores[unknown, : len(popular)] = popular, counts
  item_ids = np.full(top.shape, -1 if items.kind == "int" else "", items.ids.dtype)
  item_ids[top >= 0] = items.decode(top[top >= 0])
  return Recommendations(item_ids, scores, unknown)
