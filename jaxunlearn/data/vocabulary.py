"""Raw ids on one side, array positions on the other."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import Any, Literal

import numpy as np

from jaxunlearn._validate import check_choice, check_whole


def _kind_of(value: Any) -> str:
  if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
    return "an integer"
  return "a string" if isinstance(value, str) else type(value).__name__


def as_ids(values: Any, name: str = "ids") -> np.ndarray:
  """`values` as int64 [N] or as strings [N] (NumPy `str`), the two kinds of raw id.

  Raises:
    ValueError: more than one dimension, integers mixed with strings, another type, or an integer beyond int64.
  """
  if isinstance(values, str | bytes):
    raise ValueError(f"Expected {name} as a list, got {values!r}; put a single one into brackets.")
  if isinstance(values, np.ndarray) and values.dtype.kind in "iuU":
    array = values
  else:
    listed = list(values)
    kinds = {_kind_of(value) for value in listed}
    if ended := [value for value in listed if isinstance(value, str) and value.endswith("\0")]:
      raise ValueError(f"Expected {name} that do not end in a NUL, which NumPy drops, got {ended[0]!r}; strip it.")
    if len(kinds) > 1 or not kinds <= {"an integer", "a string"}:
      got = ", ".join(sorted(kinds))
      raise ValueError(f"Expected {name} all integers or all strings, got {got}; convert them first.")
    array = np.asarray(listed) if listed else np.zeros(0, np.int64)
  if array.ndim != 1:
    raise ValueError(f"Expected {name} of one dimension, got shape {array.shape}.")
  if array.dtype.kind == "U":
    return array
  if array.dtype.kind not in "iu" or (array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max):
    raise ValueError(f"Expected {name} within int64, got {array.max()}; pass them as strings.")
  return array.astype(np.int64, copy=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
  """Raw ids in the order of their positions. Two vocabularies are equal when their ids and order are.

  Ids are integers or strings, never both. Build one with `from_ids` or `identity`; the plain constructor keeps
  the order it is given.

  Attributes:
    ids: int64 [V] or str [V], distinct; `ids[p]` is the raw id at position p.
  """

  ids: np.ndarray
  # Kept because encode() is called once a request: sorting a million ids for one lookup would cost a second.
  _order: np.ndarray = dataclasses.field(init=False, repr=False)
  _sorted: np.ndarray = dataclasses.field(init=False, repr=False)

  def __post_init__(self) -> None:
    """Freezes a copy of the ids, and refuses repeated ones."""
    ids = as_ids(self.ids, "vocabulary ids").copy()
    ids.flags.writeable = False
    object.__setattr__(self, "ids", ids)
    order = np.argsort(ids, kind="stable")
    in_order = ids[order]
    repeated = in_order[1:][in_order[1:] == in_order[:-1]]
    if repeated.size:
      raise ValueError(f"Expected distinct ids, got {repeated[0].item()!r} more than once; use Vocabulary.from_ids.")
    object.__setattr__(self, "_order", order)
    object.__setattr__(self, "_sorted", in_order)

  @classmethod
  def from_ids(cls, values: Any) -> Vocabulary:
    """The distinct ids of `values`, ascending, so that it depends on the set of ids and not on the order of rows.

    Raises:
      ValueError: `values` mixes integers and strings or holds another type.
    """
    return cls(np.unique(as_ids(values)))

  @classmethod
  def identity(cls, size: int) -> Vocabulary:
    """Ids 0 … size-1, each at its own position: for files that hold positions already.

    Raises:
      ValueError: size is negative, or no whole number.
    """
    check_whole("size", size, least=0)
    return cls(np.arange(size, dtype=np.int64))

  def __len__(self) -> int:
    """Number of ids."""
    return int(self.ids.shape[0])

  def __eq__(self, other: object) -> bool:
    """Whether kind, ids and order are the same."""
    if not isinstance(other, Vocabulary):
      return NotImplemented
    return self.kind == other.kind and np.array_equal(self.ids, other.ids)

  def __hash__(self) -> int:
    """Hash of the digest, in step with equality."""
    return hash(self.digest)

  def __repr__(self) -> str:
    """Size and kind, not the ids."""
    return f"Vocabulary({len(self):,} {self.kind} ids)"

  @property
  def kind(self) -> Literal["int", "str"]:
    """Which kind of raw id this holds."""
    return "str" if self.ids.dtype.kind == "U" else "int"

  def encode(self, ids: Any, *, missing: Literal["raise", "ignore"] = "raise") -> np.ndarray:
    """int32 [N]: the position of each raw id.

    Args:
      ids: integers or strings [N], repeats allowed.
      missing: "raise", or "ignore" for -1 in place of a position where the id is unknown.

    Raises:
      ValueError: an id is unknown (the first five are named), is of the other kind, or `missing` is misspelt.
    """
    check_choice("missing", missing, ("raise", "ignore"))
    ids = as_ids(ids)
    if not ids.size:
      return np.zeros(0, np.int32)
    if len(self) and (ids.dtype.kind == "U") != (self.kind == "str"):
      got = "str" if ids.dtype.kind == "U" else "int"
      raise ValueError(f"Expected {self.kind} ids, got {got} ids such as {ids[:1].tolist()[0]!r}; convert them first.")
    if not len(self):
      known, positions = np.zeros(ids.shape, bool), np.zeros(ids.shape, np.int32)
    else:
      at = np.minimum(np.searchsorted(self._sorted, ids), len(self) - 1)
      known, positions = self._sorted[at] == ids, self._order[at].astype(np.int32)
    if missing == "raise" and not known.all():
      unknown = list(dict.fromkeys(ids[~known].tolist()))
      more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
      shown = ", ".join(repr(v) for v in unknown[:5])
      raise ValueError(f"Unknown ids: {shown}{more}. Drop them, or pass missing='ignore'.")
    return np.where(known, positions, np.int32(-1))

  def decode(self, positions: Any) -> np.ndarray:
    """int64 [N] or str [N]: the raw id at each position.

    Raises:
      ValueError: a position is out of range (NumPy would wrap a negative one around without a word).
    """
    positions = np.asarray(positions)
    if positions.size and not np.issubdtype(positions.dtype, np.integer):
      raise ValueError(f"Expected integer positions, got dtype {positions.dtype}.")
    outside = (positions < 0) | (positions >= len(self))
    if outside.any():
      raise ValueError(f"Expected positions in [0, {len(self)}), got {positions[outside].ravel()[:5].tolist()}.")
    return self.ids[positions.astype(np.int64)]

  @functools.cached_property
  def digest(self) -> str:
    """SHA-256 (hex) of kind, ids and order: equal vocabularies have equal digests on any machine."""
    sha = hashlib.sha256(f"{self.kind} {len(self)}\n".encode())
    if self.kind == "int":
      sha.update(np.ascontiguousarray(self.ids, "<i8").tobytes())
    else:
      for value in self.ids.tolist():
        encoded = value.encode("utf-8", "surrogatepass")
        sha.update(len(encoded).to_bytes(8, "little") + encoded)
    return sha.hexdigest()

  def to_json(self) -> dict[str, Any]:
    """A dict of plain types for `json.dump`; identities take one number instead of all their ids."""
    if self.kind == "int" and np.array_equal(self.ids, np.arange(len(self))):
      return {"kind": "identity", "size": len(self)}
    return {"kind": self.kind, "ids": self.ids.tolist()}

  @classmethod
  def from_json(cls, value: dict[str, Any]) -> Vocabulary:
    """The vocabulary that `to_json` described.

    Raises:
      ValueError: `value` is not of that form.
    """
    match value:
      case {"kind": "identity", "size": int(size)}:
        return cls.identity(size)
      case {"kind": "int" | "str" as kind, "ids": list(ids)}:
        if not ids:
          return cls(np.zeros(0, np.int64 if kind == "int" else str))
        vocabulary = cls(as_ids(ids))
        if vocabulary.kind == kind:
          return vocabulary
    raise ValueError(f"Expected a vocabulary as Vocabulary.to_json writes it, got {str(value)[:80]}.")
