"""Observed user-item pairs as a value: sorted, unique, with set algebra and views.

`Interactions` lives on the host (NumPy, exact length). `PaddedInteractions` is its device twin: the same
pairs in arrays of a power-of-two capacity, so that a deletion changes a count and not a shape, and nothing
that is jitted over it traces again.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from flax import struct

_MAX_SIZE = np.iinfo(np.int32).max
MIN_CAPACITY = 256  # below this, padding costs nothing and fewer shapes are compiled


def capacity_for(count: int) -> int:
  """The smallest power of two that holds `count` rows, at least `MIN_CAPACITY`."""
  return max(MIN_CAPACITY, 1 << max(0, int(count) - 1).bit_length())


def _first_five(user: np.ndarray, item: np.ndarray) -> str:
  shown = ", ".join(f"({u}, {i})" for u, i in zip(user[:5].tolist(), item[:5].tolist(), strict=True))
  return shown + (f", … ({len(user)} in all)" if len(user) > 5 else "")


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, eq=False)
class Interactions:
  """Implicit positives as positions, sorted by (user, item), without duplicates.

  Build one with `Interactions.from_pairs`; the plain constructor trusts its caller. It is a pytree (the two
  arrays are leaves), so a state may hold it; jitted code takes `padded()` instead, whose shape is stable.

  Attributes:
    user: int32 [N], positions in [0, num_users).
    item: int32 [N], positions in [0, num_items).
    num_users: number of user rows, those without any pair included.
    num_items: number of item rows, likewise.
  """

  user: np.ndarray
  item: np.ndarray
  num_users: int
  num_items: int

  def tree_flatten_with_keys(self) -> tuple[Any, tuple[int, int]]:
    """Leaves with their names, for `jax.tree_util`."""
    key = jax.tree_util.GetAttrKey
    return ((key("user"), self.user), (key("item"), self.item)), (self.num_users, self.num_items)

  @classmethod
  def tree_unflatten(cls, aux: tuple[int, int], leaves: tuple[Any, Any]) -> Interactions:
    """Rebuilds from the leaves, for `jax.tree_util`."""
    return cls(leaves[0], leaves[1], *aux)

  @classmethod
  def from_pairs(
    cls,
    user: Any,
    item: Any,
    *,
    num_users: int | None = None,
    num_items: int | None = None,
  ) -> Interactions:
    """Sorts and merges pairs of positions.

    Args:
      user: integers [N], any order, duplicates allowed (they are merged; compare lengths to count them).
      item: integers [N].
      num_users: size of the user axis; the largest position plus one when None.
      num_items: size of the item axis, likewise.

    Raises:
      ValueError: the arrays differ in length, are not integers, or hold a position out of range or beyond int32.
    """
    user, item = np.asarray(user), np.asarray(item)
    if user.ndim != 1 or user.shape != item.shape:
      raise ValueError(f"Expected user and item of one equal length, got shapes {user.shape} and {item.shape}.")
    for name, array in (("user", user), ("item", item)):
      if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
          f"Expected integer positions in {name}, got dtype {array.dtype}; map raw ids with a Vocabulary."
        )
    num_users = int(user.max()) + 1 if num_users is None and user.size else int(num_users or 0)
    num_items = int(item.max()) + 1 if num_items is None and item.size else int(num_items or 0)
    for name, size in (("user", num_users), ("item", num_items)):
      if size > _MAX_SIZE:
        raise ValueError(
          f"Expected {name} positions below {_MAX_SIZE:,} (int32), got an axis of {size:,} {name}s; these look "
          "like raw ids: map them with a Vocabulary."
        )
    for name, array, size in (("user", user, num_users), ("item", item, num_items)):
      if array.size and (int(array.min()) < 0 or int(array.max()) >= size):
        bad = array[(array < 0) | (array >= size)][0]
        raise ValueError(f"Expected {name} positions in [0, {size}), got {bad}; raise num_{name}s or drop the row.")
    keys = np.unique(user.astype(np.int64) * max(num_items, 1) + item.astype(np.int64))
    out_user, out_item = np.divmod(keys, max(num_items, 1))
    return cls(out_user.astype(np.int32), out_item.astype(np.int32), num_users, num_items)

  def __len__(self) -> int:
    return int(self.user.shape[0])

  def __repr__(self) -> str:
    return f"Interactions({len(self):,} pairs, {self.num_users:,} users × {self.num_items:,} items)"

  def keys(self) -> np.ndarray:
    """int64 [N], ascending: user · num_items + item, one number a pair."""
    # A tree map (`jax.device_put` of a state) may have made the leaves jax arrays, whose int64 is int32: it overflows.
    return np.asarray(self.user).astype(np.int64) * max(self.num_items, 1) + np.asarray(self.item)

  def _check_same_axes(self, other: Interactions) -> None:
    if (self.num_users, self.num_items) != (other.num_users, other.num_items):
      raise ValueError(f"Expected both sides over the same users and items, got {self!r} and {other!r}.")

  def contains(self, other: Interactions) -> np.ndarray:
    """bool [len(other)]: which pairs of `other` are here."""
    self._check_same_axes(other)
    mine, theirs = self.keys(), other.keys()
    if not mine.size:
      return np.zeros(theirs.shape, bool)
    at = np.minimum(np.searchsorted(mine, theirs), mine.size - 1)
    return mine[at] == theirs

  def without(self, forget: Interactions) -> Interactions:
    """The pairs that are not in `forget`.

    Raises:
      ValueError: a pair of `forget` is not here; the message names the first five. Deleting what was never
        there is a mistake to hear about (a second deletion of the same pair, a wrong file).
    """
    self._check_same_axes(forget)
    mine, theirs = self.keys(), forget.keys()
    at = np.searchsorted(mine, theirs)
    absent = np.ones(theirs.shape, bool)
    inside = at < mine.size
    absent[inside] = mine[at[inside]] != theirs[inside]
    if absent.any():
      raise ValueError(
        "Expected every pair of forget to be among the interactions; these (user, item) are not: "
        f"{_first_five(forget.user[absent], forget.item[absent])}. Drop them from the request, or resolve it with "
        "missing='ignore'."
      )
    keep = np.ones(mine.shape, bool)
    keep[at] = False
    return self.select(keep)

  def select(self, keep: np.ndarray) -> Interactions:
    """The pairs where `keep` (bool [N], or ascending row numbers) holds."""
    return Interactions(np.asarray(self.user)[keep], np.asarray(self.item)[keep], self.num_users, self.num_items)

  def union(self, other: Interactions) -> Interactions:
    """Pairs of either side, merged."""
    self._check_same_axes(other)
    return Interactions.from_pairs(
      np.concatenate([self.user, other.user]),
      np.concatenate([self.item, other.item]),
      num_users=self.num_users,
      num_items=self.num_items,
    )

  def intersection(self, other: Interactions) -> Interactions:
    """Pairs of both sides."""
    return self.select(other.contains(self))

  def user_degrees(self) -> np.ndarray:
    """int64 [num_users], read-only: pairs a user. Counted once."""
    return self._degrees[0]

  def item_degrees(self) -> np.ndarray:
    """int64 [num_items], read-only: pairs an item. Counted once."""
    return self._degrees[1]

  @functools.cached_property
  def _degrees(self) -> tuple[np.ndarray, np.ndarray]:
    user, item = np.bincount(self.user, minlength=self.num_users), np.bincount(self.item, minlength=self.num_items)
    user.flags.writeable = item.flags.writeable = False  # whoever asks gets the same arrays
    return user, item

  def indptr(self) -> np.ndarray:
    """int64 [num_users + 1]: user u owns rows indptr[u] to indptr[u + 1]."""
    return np.concatenate([[0], np.cumsum(self.user_degrees())])

  def by_item(self) -> tuple[np.ndarray, np.ndarray]:
    """The same pairs from the other side: int64 [num_items + 1], int32 [N], both read-only. Sorted once.

    Item i's users are the second array's entries from the first one's number i to its number i + 1, ascending.
    """
    return self._by_item

  @functools.cached_property
  def _by_item(self) -> tuple[np.ndarray, np.ndarray]:
    matrix = self.to_csr().tocsc()  # a counting sort, so users stay in order
    indptr, user = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32, copy=False)
    indptr.flags.writeable = user.flags.writeable = False  # whoever asks gets the same arrays
    return indptr, user

  def to_csr(self) -> scipy.sparse.csr_matrix:
    """float32 CSR matrix [num_users, num_items] of ones, indices sorted."""
    return scipy.sparse.csr_matrix(
      (np.ones(len(self), np.float32), self.item, self.indptr()), shape=(self.num_users, self.num_items)
    )

  def digest(self) -> str:
    """SHA-256 (hex) of the axes and the pairs: two equal values have equal digests on any machine."""
    sha = hashlib.sha256(np.asarray([self.num_users, self.num_items, len(self)], "<i8").tobytes())
    sha.update(np.ascontiguousarray(self.user, "<i4").tobytes())
    sha.update(np.ascontiguousarray(self.item, "<i4").tobytes())
    return sha.hexdigest()

  def padded(self, capacity: int | None = None) -> PaddedInteractions:
    """The device twin, in arrays of `capacity` rows (the next power of two when None).

    Raises:
      ValueError: capacity is smaller than the number of pairs.
    """
    capacity = capacity_for(len(self)) if capacity is None else capacity
    if capacity < len(self):
      raise ValueError(f"Expected capacity={capacity} >= {len(self)} pairs.")
    pad = (0, capacity - len(self))
    return PaddedInteractions(
      user=jnp.asarray(np.pad(self.user, pad)),
      item=jnp.asarray(np.pad(self.item, pad)),
      indptr=jnp.asarray(self.indptr().astype(np.int32)),
      count=jnp.asarray(len(self), jnp.int32),
      num_users=self.num_users,
      num_items=self.num_items,
    )


class PaddedInteractions(struct.PyTreeNode):
  """Interactions on the device, padded to a capacity; rows at and beyond `count` are zeros and mean nothing.

  Attributes:
    user: int32 [capacity].
    item: int32 [capacity].
    indptr: int32 [num_users + 1], CSR row starts.
    count: int32 scalar, the number of pairs.
  """

  user: jax.Array
  item: jax.Array
  indptr: jax.Array
  count: jax.Array
  num_users: int = struct.field(pytree_node=False)
  num_items: int = struct.field(pytree_node=False)

  @property
  def capacity(self) -> int:
    """Rows of the arrays, padding included."""
    return self.user.shape[-1]
