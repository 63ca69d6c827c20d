"""Deletion requests: what is to be forgotten, by raw id, resolved against the data of the moment.

Row numbers kept from an earlier request delete the wrong rows without an error; ids do not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from jaxunlearn._validate import check_choice
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.data.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Request:
  """One batch of deletions. Its three parts add up; a pair named twice counts once.

  Attributes:
    pairs: (user id, item id) tuples: these pairs.
    users: user ids: all their pairs. Like the others, any iterable; it is read once.
    items: item ids: all their pairs.
    user_vocabulary: maps user ids to positions, the one the data was read with; None where ids are positions already,
      which integer raw ids of a file are not.
    item_vocabulary: likewise.
    missing: what to do with an id, a pair, or an entity without pairs that is not in the data: "raise", or "ignore".
  """

  pairs: Sequence[tuple[Any, Any]] = ()
  users: Sequence[Any] = ()
  items: Sequence[Any] = ()
  user_vocabulary: Vocabulary | None = None
  item_vocabulary: Vocabulary | None = None
  missing: Literal["raise", "ignore"] = "raise"

  def __post_init__(self) -> None:
    check_choice("missing", self.missing, ("raise", "ignore"))
    for name in ("pairs", "users", "items"):
      given = getattr(self, name)
      if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ValueError(f"Expected {name} as a list of ids, got {given!r}; put a single one into brackets.")
      if not isinstance(given, Sequence | np.ndarray):  # an iterator is empty the second time it is asked
        object.__setattr__(self, name, tuple(given))
    wrong = [pair for pair in self.pairs if not _is_pair(pair)]
    if wrong:
      raise ValueError(f"Expected pairs as (user id, item id), got {_first_five(wrong)}.")

  def resolve(self, interactions: Interactions) -> Interactions:
    """The pairs of `interactions` that the request names, as positions. Empty for an empty request.

    Raises:
      ValueError: something named is not there (the first five are listed), unless missing="ignore".
    """
    num_users, num_items = interactions.num_users, interactions.num_items
    for name, vocabulary, size in (
      ("user", self.user_vocabulary, num_users), ("item", self.item_vocabulary, num_items),
    ):  # fmt: skip
      if vocabulary is not None and len(vocabulary) != size:
        raise ValueError(
          f"Expected {name}_vocabulary of the data's {size:,} {name}s, got one of {len(vocabulary):,}: its positions "
          "would be those of others. Use the vocabulary that the data was read with."
        )
    pairs = list(self.pairs)
    pair_user = _positions("user", [p[0] for p in pairs], self.user_vocabulary, num_users, self.missing)
    pair_item = _positions("item", [p[1] for p in pairs], self.item_vocabulary, num_items, self.missing)
    known = (pair_user >= 0) & (pair_item >= 0)
    named = Interactions.from_pairs(pair_user[known], pair_item[known], num_users=num_users, num_items=num_items)
    present = interactions.contains(named)
    if self.missing == "raise" and not present.all():
      absent = np.isin(pair_user * num_items + pair_item, named.select(~present).keys())
      shown = [pairs[i] for i in np.flatnonzero(absent)]
      raise ValueError(
        f"Expected every pair of the request to be in the training data; not there: {_first_five(shown)}. "
        "Drop them, or pass missing='ignore'."
      )
    keep = interactions.keys()
    chosen = np.isin(keep, named.select(present).keys())
    for kind, ids, vocabulary, size, column in (
      ("user", self.users, self.user_vocabulary, num_users, interactions.user),
      ("item", self.items, self.item_vocabulary, num_items, interactions.item),
    ):
      at = _positions(kind, list(ids), vocabulary, size, self.missing)
      marked = np.zeros(size, bool)
      marked[at[at >= 0]] = True
      has_pairs = np.bincount(column, minlength=size) > 0
      if self.missing == "raise" and (empty := [i for i, p in zip(ids, at, strict=True) if not has_pairs[p]]):
        raise ValueError(
          f"Expected every {kind} of the request to have pairs left; without any: {_first_five(empty)}. "
          "Drop them, or pass missing='ignore'."
        )
      chosen |= marked[column]
    return interactions.select(chosen)


def _is_pair(pair: Any) -> bool:
  return isinstance(pair, Sequence | np.ndarray) and not isinstance(pair, str | bytes) and len(pair) == 2


def _first_five(things: Sequence[Any]) -> str:
  return ", ".join(map(str, things[:5])) + (f", … ({len(things)} in all)" if len(things) > 5 else "")


def _positions(
  kind: str, ids: list[Any], vocabulary: Vocabulary | None, size: int, missing: Literal["raise", "ignore"]
) -> np.ndarray:
  """int64 positions, −1 for what is unknown and ignored."""
  if not ids:
    return np.zeros(0, np.int64)
  if vocabulary is not None:
    return np.asarray(vocabulary.encode(ids, missing=missing), np.int64)
  at = np.asarray(ids)
  if not np.issubdtype(at.dtype, np.integer):
    raise ValueError(
      f"Expected integer {kind} positions in the request, got {ids[0]!r}; pass {kind}_vocabulary for raw ids."
    )
  outside = (at < 0) | (at >= size)
  if missing == "raise" and outside.any():
    raise ValueError(f"Expected {kind} positions in [0, {size}), got {_first_five(at[outside].tolist())}.")
  return np.where(outside, -1, at).astype(np.int64)


def resolve(request: Request | Interactions, interactions: Interactions) -> Interactions:
  """The forget set as positions: a `Request` is looked up, `Interactions` are checked to be all there.

  Raises:
    ValueError: a pair is not in the data, or the request forgets every pair there is.
  """
  forget = request.resolve(interactions) if isinstance(request, Request) else request
  retained_of(interactions, forget)
  return forget


def retained_of(interactions: Interactions, forget: Interactions) -> Interactions:
  """What a request leaves.

  Raises:
    ValueError: these are no `Interactions`, a pair is not in the data (the first five are listed), or nothing is left.
  """
  if not isinstance(forget, Interactions):
    hint = "resolve it first: request.resolve(interactions)." if isinstance(forget, Request) else "build a Request."
    raise ValueError(f"Expected Interactions to forget, got {type(forget).__name__}; {hint}")
  retained = interactions.without(forget)
  if len(forget) and not len(retained):
    raise ValueError(
      f"Expected a request that leaves something to recommend from, got one that forgets all {len(forget)} pairs; "
      "delete the model instead."
    )
  return retained
