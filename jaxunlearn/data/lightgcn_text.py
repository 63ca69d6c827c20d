"""The text form of LightGCN's releases: a line a user, `user item item …`, all positions.

Forget sets use the same form. A user may have several lines, or a line without items (which still counts towards
the number of users).
"""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from jaxunlearn.data._files import atomic_writer, existing_file, shorten
from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.data.vocabulary import Vocabulary

_CHUNK_BYTES = 32 << 20  # parsing holds about 20 bytes a byte of text, so this bounds it to well under a gigabyte
_MAX_POSITION = np.iinfo(np.int32).max - 1  # the axis is one longer and must fit int32 too
_DIGIT, _SPACE = np.zeros(256, bool), np.zeros(256, bool)
_DIGIT[ord("0") : ord("9") + 1] = True
_SPACE[[ord(c) for c in " \t\r\n"]] = True
_EXPECTED = "expected `user item item …`, positions >= 0 separated by spaces"


@dataclasses.dataclass(frozen=True)
class _Parsed:
  user: np.ndarray  # int32 [N], as in the file: repeats are not merged yet
  item: np.ndarray  # int32 [N]
  num_users: int  # largest user position plus one, users without items included
  num_items: int

  def pairs(self, num_users: int, num_items: int) -> Interactions:
    return Interactions.from_pairs(self.user, self.item, num_users=num_users, num_items=num_items)


def _refuse(path: Path, number: int, line: bytes) -> None:
  """Raises if `line` is not of the form; the slow twin of `_parse_chunk`, used to word the message."""
  text = line.decode("utf-8", "replace")
  if "\r" in text.removesuffix("\r"):
    raise ValueError(
      f"{path}, line {number}: {shorten(text)}: a carriage return within the line, of which users would be taken for "
      f"items; {_EXPECTED}, a line a user. Convert the line ends (tr '\\r' '\\n')."
    )
  where = f"{path}, line {number}: {shorten(text)}"
  for token in text.split():
    if re.fullmatch(r"-\d+", token, re.ASCII):
      raise ValueError(f"{where}: negative position {token}; {_EXPECTED}. Positions start at 0.")
    if not re.fullmatch(r"\d+", token, re.ASCII):
      raise ValueError(f"{where}: {shorten(token, 30)} is not a position; {_EXPECTED}. Map raw ids with a Vocabulary.")
    if len(token.lstrip("0")) > 10 or int(token) > _MAX_POSITION:
      raise ValueError(
        f"{where}: position {shorten(token, 30)} is beyond int32; {_EXPECTED} up to {_MAX_POSITION}. These look like "
        "raw ids: read them as a table and map them with a Vocabulary."
      )


def _explain(path: Path, first_line: int, chunk: bytes) -> NoReturn:
  for offset, line in enumerate(chunk.split(b"\n")):
    _refuse(path, first_line + offset, line)
  raise ValueError(f"{path}, from line {first_line}: unreadable; {_EXPECTED}.")


def _chunks(path: Path) -> Iterator[tuple[int, bytes]]:
  """(number of its first line, bytes) of pieces that end at line ends."""
  with open(path, "rb") as handle:
    line = 1
    rest = b""
    while block := handle.read(_CHUNK_BYTES):
      whole, newline, tail = (rest + block).rpartition(b"\n")
      rest = tail
      if newline:
        yield line, whole + newline
        line += whole.count(b"\n") + 1
    if rest:
      yield line, rest + b"\n"


def _parse_chunk(path: Path, first_line: int, chunk: bytes) -> tuple[np.ndarray, np.ndarray, int]:
  """(user [n], item [n], largest user or -1) of whole lines, without a Python loop over them."""
  data = np.frombuffer(chunk, np.uint8)
  digit = _DIGIT[data]
  returns = data[:-1] == ord("\r")  # the chunk ends in a newline
  if not (digit | _SPACE[data]).all() or (returns & (data[1:] != ord("\n"))).any():
    _explain(path, first_line, chunk)
  before = np.concatenate([[False], digit[:-1]])
  start = np.flatnonzero(digit & ~before)
  if not start.size:
    return np.zeros(0, np.int32), np.zeros(0, np.int32), -1
  end = np.flatnonzero(before & ~digit)  # the chunk ends in a newline, so every number has an end
  # At most 18 digits cannot overflow int64, so the comparison below is exact; longer ones are for _explain.
  values = np.fromstring(chunk, dtype=np.int64, sep=" ") if int((end - start).max()) <= 18 else None
  if values is None or values.size != start.size or int(values.max()) > _MAX_POSITION:
    _explain(path, first_line, chunk)
  line = np.searchsorted(np.flatnonzero(data == ord("\n")), start)
  leads = np.concatenate([[True], line[1:] != line[:-1]])
  values = values.astype(np.int32)
  users = values[leads]
  lengths = np.diff(np.append(np.flatnonzero(leads), values.size)) - 1
  return np.repeat(users, lengths), values[~leads], int(users.max())


def _parse(path: str | os.PathLike[str]) -> _Parsed:
  path = existing_file(path)
  users, items, largest = [], [], -1
  for first_line, chunk in _chunks(path):
    user, item, last = _parse_chunk(path, first_line, chunk)
    users.append(user)
    items.append(item)
    largest = max(largest, last)
  user, item = np.concatenate(users), np.concatenate(items)
  if not user.size:
    raise ValueError(f"{path} holds no pair; {_EXPECTED}.")
  return _Parsed(user, item, largest + 1, int(item.max()) + 1)


def _check_fits(path: str | os.PathLike[str], parsed: _Parsed, num_users: int | None, num_items: int | None) -> None:
  for axis, found, size in (("user", parsed.num_users, num_users), ("item", parsed.num_items, num_items)):
    if size is not None and found > size:
      raise ValueError(
        f"{path} names {axis} position {found - 1}, but there are {size} {axis}s; is it the file of another dataset?"
      )


def read_pairs(
  path: str | os.PathLike[str], *, num_users: int | None = None, num_items: int | None = None
) -> Interactions:
  """Pairs of one file in LightGCN's text form: a training file, or a forget set.

  Args:
    path: the file.
    num_users: size of the user axis, as of the data the pairs belong to; from the file when None.
    num_items: size of the item axis, likewise.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is empty, a line is malformed (named by its 1-based number), or a position is beyond an
      axis.
  """
  parsed = _parse(path)
  _check_fits(path, parsed, num_users, num_items)
  return parsed.pairs(
    parsed.num_users if num_users is None else num_users, parsed.num_items if num_items is None else num_items
  )


def read_folder(path: str | os.PathLike[str], *, name: str | None = None) -> Dataset:
  """A split as published: `train.txt`, `test.txt`, and `valid.txt` or `validation.txt` where there is one.

  All parts share their axes, as long as the largest position of any of them needs. A test or validation pair that
  is in train too is kept, with a warning: masking train items makes it impossible to recommend.

  Args:
    path: the folder.
    name: name of the dataset; the folder's own when None.

  Raises:
    FileNotFoundError: the folder has no `train.txt`.
    ValueError: a file is empty or malformed.
  """
  folder = Path(path)
  files = {"train": folder / "train.txt"}
  for part, candidates in (("validation", ("valid.txt", "validation.txt")), ("test", ("test.txt",))):
    present = [folder / candidate for candidate in candidates if (folder / candidate).is_file()]
    if present:
      files[part] = present[0]
  parsed = {part: _parse(file) for part, file in files.items()}
  num_users = max(p.num_users for p in parsed.values())
  num_items = max(p.num_items for p in parsed.values())
  parts = {part: p.pairs(num_users, num_items) for part, p in parsed.items()}
  for part in parts.keys() - {"train"}:
    shared = len(parts["train"].intersection(parts[part]))
    if shared:
      warnings.warn(f"{shared} pairs of {files[part]} are in {files['train']} too.", stacklevel=2)
  return Dataset(
    train=parts["train"],
    validation=parts.get("validation"),
    test=parts.get("test"),
    users=Vocabulary.identity(num_users),
    items=Vocabulary.identity(num_items),
    name=folder.resolve().name if name is None else name,
    notes=f"split as published: {', '.join(file.name for file in files.values())}",
    duplicates=sum(p.user.size - len(parts[part]) for part, p in parsed.items()),
  )


def write_lightgcn_text(path: str | os.PathLike[str], interactions: Interactions) -> None:
  """Writes one line a user that has pairs, items ascending; the file appears whole or not at all.

  `read_pairs` with the same axes gives the pairs back; an empty set writes an empty file, which readers refuse.

  Raises:
    OSError: the file cannot be written; the message names it.
  """
  indptr = interactions.indptr()
  with atomic_writer(path) as handle:
    for user in np.flatnonzero(np.diff(indptr)).tolist():
      items = interactions.item[indptr[user] : indptr[user + 1]]
      handle.write(f"{user} {' '.join(map(str, items.tolist()))}\n".encode())
