"""Readers of rating files: MovieLens, RecBole's `.inter`, CSV and Parquet with named columns.

Each returns a `RatingTable` of raw rows; `index_ratings` turns that into pairs of positions. A file that is not of
its form raises a ValueError with the file, the 1-based line, the text, and what to do.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from jaxunlearn.data._delimited import (
  Form,
  Refused,
  Role,
  fields_of,
  ids_of,
  numbers_of,
  other_separator,
  read_delimited,
)
from jaxunlearn.data._files import existing_file, shorten
from jaxunlearn.data.ratings import RatingTable

_MOVIELENS_COLUMNS: dict[Role, int] = {"user": 0, "item": 1, "rating": 2, "timestamp": 3}
_MOVIELENS_SEPARATORS = {".data": "\t", ".dat": "::", ".base": "\t", ".test": "\t"}


def read_movielens(path: str | os.PathLike[str]) -> RatingTable:
  """A MovieLens ratings file, its form told by its name.

  `u.data` (and `u1.base`, `u1.test`) is tab-separated, `ratings.dat` is separated by `::`, `ratings.csv` has the
  header `userId,movieId,rating,timestamp`. Ids are positive integers; timestamps are seconds since 1970.
  ML-10M's ten million lines take seconds and under 2 GB.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the name ends otherwise, the file is empty, or a line is malformed.
  """
  path = Path(path)
  if path.suffix == ".csv":
    return read_csv(path, user="userId", item="movieId", rating="rating", timestamp="timestamp")
  separator = _MOVIELENS_SEPARATORS.get(path.suffix)
  if separator is None:
    raise ValueError(f"Expected a file named u.data, ratings.dat or ratings.csv, got {path.name}; use read_csv.")
  shown = (" tab " if separator == "\t" else separator).join(["user", "item", "rating", "timestamp"])
  form = Form(separator=separator, num_fields=4, columns=_MOVIELENS_COLUMNS, expected=f"`{shown}`", integer_ids=True)
  return read_delimited(path, form)


def _header(path: Path, separator: str, quoted: bool) -> list[str]:
  with open(path, "rb") as handle:
    line = handle.readline()
  try:
    text = line.decode("utf-8-sig").rstrip("\r\n")
  except UnicodeDecodeError:
    raise ValueError(f"{path}, line 1: not UTF-8 text; convert the file, or use the reader of its form.") from None
  if not quoted:
    return text.split(separator)
  return fields_of(text, separator, f"{path}, line 1")


def _locate(path: Path, header: list[str], wanted: dict[Role, str], separator: str | None = None) -> dict[Role, int]:
  """Role -> index in the header, line 1 of a text where there is a separator; ValueError: a name absent, or twice."""
  for role, name in wanted.items():
    if header.count(name) != 1:
      problem = "no column" if name not in header else "more than one column"
      place = (
        f"{path}, line 1: {shorten(', '.join(header), 100)}" if separator else f"{path}: {', '.join(header)[:100]}"
      )
      cause = other_separator(header[0], separator) if separator and len(header) == 1 else ""
      raise ValueError(f"{place} has {problem} named {name!r}; pass the name of the {role} column.{cause}")
  return {role: header.index(name) for role, name in wanted.items()}


def _wanted(user: str, item: str, rating: str | None, timestamp: str | None) -> dict[Role, str]:
  named: dict[Role, str | None] = {"user": user, "item": item, "rating": rating, "timestamp": timestamp}
  return {role: name for role, name in named.items() if name is not None}


def read_inter(path: str | os.PathLike[str]) -> RatingTable:
  """A RecBole atomic file: tab-separated, with a typed header such as `user_id:token item_id:token rating:float`.

  `user_id` and `item_id` must be there; `rating` and `timestamp` are read where they are; the rest is skipped.
  Ids are integers when every id of a column is written as one, else strings.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is empty, lacks a column, or has a malformed line.
  """
  path = existing_file(path)
  header = _header(path, "\t", quoted=False)
  names = [field.partition(":")[0] for field in header]
  if not all(":" in field for field in header):
    raise ValueError(
      f"{path}, line 1: {shorten(chr(9).join(header), 100)} is not a typed header; expected tab-separated `name:type` "
      "such as `user_id:token`. For an untyped header use read_csv(separator='\\t')."
    )
  optional = {name: name if name in names else None for name in ("rating", "timestamp")}
  columns = _locate(path, names, _wanted("user_id", "item_id", **optional), "\t")
  form = Form(
    separator="\t", num_fields=len(header), columns=columns, header=True, expected=f"tab-separated {', '.join(header)}"
  )
  return read_delimited(path, form)


def read_csv(
  path: str | os.PathLike[str],
  *,
  user: str = "user_id",
  item: str = "item_id",
  rating: str | None = None,
  timestamp: str | None = None,
  separator: str = ",",
) -> RatingTable:
  """A CSV file with a header line; fields may stand in double quotes but not hold line breaks.

  Ids are integers when every id of a column is written as one (without leading zeros), else strings.

  Args:
    path: the file, UTF-8.
    user: name of the user column.
    item: name of the item column.
    rating: name of the rating column; None reads none.
    timestamp: name of the timestamp column (numbers, or ISO dates, which become seconds since 1970); None reads none.
    separator: one character between fields.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is empty, lacks a column, or has a malformed line.
  """
  if len(separator) != 1:
    raise ValueError(f"Expected separator of one character, got {separator!r}.")
  path = existing_file(path)
  header = _header(path, separator, quoted=True)
  columns = _locate(path, header, _wanted(user, item, rating, timestamp), separator)
  form = Form(
    separator=separator,
    num_fields=len(header),
    columns=columns,
    header=True,
    quoted=True,
    dates=True,
    expected=f"columns {', '.join(header)}",
  )
  return read_delimited(path, form)


def read_parquet(
  path: str | os.PathLike[str],
  *,
  user: str = "user_id",
  item: str = "item_id",
  rating: str | None = None,
  timestamp: str | None = None,
) -> RatingTable:
  """A Parquet file with named columns; only those named are read.

  Args:
    path: the file.
    user: name of the user column, integers or strings.
    item: name of the item column, likewise.
    rating: name of the rating column (numbers); None reads none.
    timestamp: name of the timestamp column (numbers or dates, which become seconds since 1970); None reads none.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is empty or no Parquet file, lacks a column, or a column holds a missing or negative id,
      NaN, or another type; the message names column and 1-based row.
  """
  path = existing_file(path)
  wanted = _wanted(user, item, rating, timestamp)
  try:
    _locate(path, pyarrow.parquet.read_schema(path).names, wanted)
    table = pyarrow.parquet.read_table(path, columns=list(dict.fromkeys(wanted.values())))
  except pa.ArrowInvalid as error:
    raise ValueError(f"{path} is not a Parquet file: {error}. For text use read_csv.") from error
  if table.num_rows == 0:
    raise ValueError(f"{path} holds no ratings; was the export cut off?")
  read: dict[Role, np.ndarray] = {}
  for role, name in wanted.items():
    column = table[name]
    try:
      if role == "user" or role == "item":
        if not (_is_text(column.type) or pa.types.is_integer(column.type)):
          raise Refused(f"ids of type {column.type}")
        read[role] = ids_of(column)
      else:
        read[role] = numbers_of(column, role)
    except Refused as error:
      raise ValueError(
        f"{path}, column {name!r}{_first_bad_row(column)}: {error}. Expected {role} as "
        f"{'integers >= 0 or strings' if role in ('user', 'item') else 'finite numbers'}; drop or correct the row."
      ) from error
  return RatingTable(read["user"], read["item"], read.get("rating"), read.get("timestamp"))


def _is_text(kind: pa.DataType) -> bool:
  return (
    pa.types.is_string(kind)
    or pa.types.is_large_string(kind)
    or (pa.types.is_dictionary(kind) and _is_text(kind.value_type))
  )


def _first_bad_row(column: pa.ChunkedArray) -> str:
  """', row n' of the first missing, negative or not finite value; '' where the fault is the type."""
  null = column.is_null().to_numpy()
  if null.any():
    return f", row {int(np.flatnonzero(null)[0]) + 1}"
  if _is_text(column.type) or not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
    return ""
  values = column.to_numpy()
  bad = ~np.isfinite(values) if values.dtype.kind == "f" else values < 0
  return f", row {int(np.flatnonzero(bad)[0]) + 1}" if bad.any() else ""
