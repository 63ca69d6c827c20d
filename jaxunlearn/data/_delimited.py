"""Delimited text to columns: a fast path in pyarrow, and a slow one that only words the error message.

The fast path never loops over lines. When it refuses a file, or its columns hold what a rating table must not,
`_explain` reads the file again line by line and names the first bad one.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from jaxunlearn.data._files import existing_file, shorten
from jaxunlearn.data.ratings import RatingTable

_NUMBER = re.compile(r"-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_CANONICAL = "^(0|[1-9][0-9]{0,17})$"  # up to 18 digits: within int64 without looking further
_MAX_INT64 = np.iinfo(np.int64).max
_MAX_FLOAT32, _MAX_FLOAT64 = float(np.finfo(np.float32).max), float(np.finfo(np.float64).max)

_SEPARATORS = ("::", "\t", ";", "|", ",", " ")  # by how seldom they stand in a field

Role = Literal["user", "item", "rating", "timestamp"]


def other_separator(text: str, separator: str) -> str:
  """What a line that `separator` does not cut seems to be cut by, and the remedy; "" where that cannot be told."""
  found = next((mark for mark in _SEPARATORS if mark in text), None)
  if separator in text or found is None:
    return ""
  return (
    f" It seems to be separated by {found!r}, not {separator!r}: use the reader of that form, or read_csv(separator=…)."
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
  """How lines of a file are cut, and which field is what.

  Attributes:
    separator: between fields: one character, or "::".
    num_fields: fields a line.
    columns: role -> index of its field; rating and timestamp may be absent.
    expected: the form in words, for messages.
    header: whether line 1 names the columns.
    quoted: whether a field may stand in double quotes.
    integer_ids: True when ids must be integers; False infers integers where every id is one, else strings.
    dates: whether the timestamp column may also hold ISO dates (CSV); they become seconds since 1970.
  """

  separator: str
  num_fields: int
  columns: dict[Role, int]
  expected: str
  header: bool = False
  quoted: bool = False
  integer_ids: bool = False
  dates: bool = False


def _read_columns(path: Path, form: Form) -> dict[Role, pa.ChunkedArray]:
  """The wanted columns, typed. A `::` file is read as `:`-separated with empty columns between, without a copy."""
  width = len(form.separator)
  names = [f"f{i}" for i in range((form.num_fields - 1) * width + 1)]
  at = {role: names[index * width] for role, index in form.columns.items()}
  kinds: dict[str, pa.DataType] = {name: pa.null() for i, name in enumerate(names) if i % width}
  for role, name in at.items():
    if role in ("user", "item"):
      # Distinct ids are few: as dictionary codes, text ids cost four bytes a row.
      kinds[name] = pa.int64() if form.integer_ids else pa.dictionary(pa.int32(), pa.string())
    elif role == "rating":
      kinds[name] = pa.float32()
    elif not form.dates:
      kinds[name] = pa.float64()
  table = pyarrow.csv.read_csv(
    path,
    read_options=pyarrow.csv.ReadOptions(column_names=names, skip_rows=int(form.header), block_size=16 << 20),
    parse_options=pyarrow.csv.ParseOptions(
      delimiter=form.separator[0], quote_char='"' if form.quoted else False, ignore_empty_lines=True
    ),
    convert_options=pyarrow.csv.ConvertOptions(
      column_types=kinds,
      include_columns=[*at.values(), *(name for name, kind in kinds.items() if kind == pa.null())],
      null_values=[""],
      strings_can_be_null=True,
    ),
  )
  return {role: table[name] for role, name in at.items()}


class Refused(ValueError):
  """A column holds what a rating table must not; the caller says where."""


def ids_of(column: pa.ChunkedArray) -> np.ndarray:
  """int64 or str [N] from a column of integers, strings or dictionary-encoded strings.

  Raises:
    Refused: a missing or negative id.
  """
  if column.null_count:
    raise Refused("missing id")
  if pa.types.is_integer(column.type):
    values = column.to_numpy()
    if values.size and (values.min() < 0 or values.max() > _MAX_INT64):
      raise Refused("negative id, or one beyond int64")
    return values.astype(np.int64, copy=False)
  if not pa.types.is_dictionary(column.type):
    column = column.dictionary_encode()
  merged = column.unify_dictionaries()
  words = merged.chunk(0).dictionary if merged.num_chunks else pa.array([], pa.string())
  codes = np.concatenate([np.zeros(0, np.int32), *(chunk.indices.to_numpy() for chunk in merged.chunks)])
  if pc.all(pc.match_substring_regex(words, _CANONICAL)).as_py():
    return words.cast(pa.int64()).to_numpy()[codes]
  if pc.all(pc.match_substring_regex(words, "^-?[0-9]{1,18}$")).as_py() and pc.any(pc.starts_with(words, "-")).as_py():
    raise Refused("negative id")
  return words.to_numpy(zero_copy_only=False).astype(str)[codes]


def numbers_of(column: pa.ChunkedArray, kind: Literal["rating", "timestamp"]) -> np.ndarray:
  """float32 [N] ratings, or timestamps as int64 [N] (float64 where some are not whole).

  Raises:
    Refused: a missing value, NaN, infinity, or not a number.
  """
  if column.null_count:
    raise Refused(f"missing {kind}")
  if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
    column = column.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
  if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
    raise Refused(f"{kind} of type {column.type}")
  values = column.to_numpy()
  if not np.isfinite(values).all():
    raise Refused(f"{kind} that is not finite")
  if kind == "rating":
    return values.astype(np.float32, copy=False)
  if values.dtype.kind == "f" and (np.abs(values) < 2**53).all() and (values == np.floor(values)).all():
    return values.astype(np.int64)
  return values.astype(np.float64 if values.dtype.kind == "f" else np.int64, copy=False)


def table_of(columns: dict[Role, Any]) -> RatingTable:
  """The rating table of typed pyarrow columns.

  Raises:
    Refused: a column holds what a rating table must not.
  """
  return RatingTable(
    user_ids=ids_of(columns["user"]),
    item_ids=ids_of(columns["item"]),
    rating=numbers_of(columns["rating"], "rating") if "rating" in columns else None,
    timestamp=numbers_of(columns["timestamp"], "timestamp") if "timestamp" in columns else None,
  )


def read_delimited(path: Path, form: Form) -> RatingTable:
  """Reads a delimited file of the given form.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is empty, or a line is malformed; the message names the line, its text and the remedy.
  """
  path = existing_file(path)
  try:
    columns = _read_columns(path, form)
    if len(columns["user"]) == 0:
      raise ValueError(f"{path} holds no ratings; expected {form.expected}.")
    return table_of(columns)
  except (pa.ArrowInvalid, Refused) as error:
    _explain(path, form, error)


def fields_of(text: str, separator: str, where: str) -> list[str]:
  """The fields of one line of quoted CSV; ValueError with `where` where it is none, or several."""
  try:
    return next(csv.reader(io.StringIO(text), delimiter=separator), [])
  except csv.Error as error:
    raise ValueError(
      f"{where}: {shorten(text)}: {error}. If its lines end in carriage returns alone, convert them (tr '\\r' '\\n')."
    ) from error


def _rows(path: Path, form: Form) -> Iterator[tuple[int, Sequence[str], str]]:
  """(1-based line number, fields, text) of each line that is not empty, the header left out."""
  with open(path, "rb") as handle:
    for number, line in enumerate(handle, start=1):
      if (number == 1 and form.header) or not line.strip(b"\r\n"):
        continue
      try:
        text = line.decode("utf-8").rstrip("\r\n")
      except UnicodeDecodeError:
        shown = shorten(line.decode("utf-8", "replace"))
        raise ValueError(f"{path}, line {number}: {shown} is not UTF-8; convert the file (iconv -t utf-8).") from None
      if form.quoted:
        yield number, fields_of(text, form.separator, f"{path}, line {number}"), text
      else:
        yield number, text.split(form.separator), text


def _fault(role: Role, value: str, form: Form, all_integers: bool) -> str | None:
  """What is wrong with one field and what to do about it, or None."""
  if value == "":
    return f"the {role} is missing; fill it in or drop the line"
  if role in ("user", "item"):
    if re.fullmatch(r"-\d+", value, re.ASCII) and (form.integer_ids or all_integers):
      return f"negative {role} id {value}; ids start at 0, and -1 often marks a missing one: drop the line"
    if form.integer_ids and not re.fullmatch(r"\d+", value, re.ASCII):
      return f"{role} id {shorten(value, 30)} is not an integer; for other ids use read_csv"
    if form.integer_ids and int(value) > _MAX_INT64:
      return f"{role} id {shorten(value, 30)} is beyond int64; use read_csv, which reads such ids as strings"
    return None
  if value.lower().lstrip("+-") in ("nan", "inf", "infinity"):
    return f"the {role} is {value}; fill it in or drop the line"
  if form.dates and role == "timestamp" and not _NUMBER.fullmatch(value):
    try:
      np.datetime64(value.replace("/", "-").rstrip("Z"))
      return None
    except ValueError:
      return f"the timestamp {shorten(value, 30)} is neither a number nor an ISO date; convert it or do not name it"
  if not _NUMBER.fullmatch(value):
    return f"the {role} {shorten(value, 30)} is not a number; correct or drop the line"
  if abs(float(value)) > (_MAX_FLOAT32 if role == "rating" else _MAX_FLOAT64):
    return f"the {role} {shorten(value, 30)} is too large; correct or drop the line"
  return None


def _explain(path: Path, form: Form, error: Exception) -> NoReturn:
  """Raises a ValueError that names the first bad line."""
  # A negative id is a mistake among integers and a plain string among strings, so the second look knows which.
  for all_integers in (False, True) if "negative id" in str(error) else (False,):
    for number, fields, text in _rows(path, form):
      where = f"{path}, line {number}: {shorten(text)}"
      if len(fields) != form.num_fields:
        raise ValueError(
          f"{where} has {len(fields)} fields; expected {form.expected} ({form.num_fields} fields)."
          f"{other_separator(text, form.separator)}"
        ) from error
      for role, index in form.columns.items():
        fault = _fault(role, fields[index], form, all_integers)
        if fault:
          raise ValueError(f"{where}: {fault}; expected {form.expected}.") from error
  _explain_dates(path, form, error)
  raise ValueError(f"{path}: {error}; expected {form.expected}.") from error


def _explain_dates(path: Path, form: Form, error: Exception) -> None:
  """Raises where some timestamps are numbers and some are dates, each fine by itself."""
  if not form.dates or "timestamp" not in form.columns:
    return
  first: tuple[int, str, bool] | None = None
  for number, fields, _ in _rows(path, form):
    value = fields[form.columns["timestamp"]]
    numeric = bool(_NUMBER.fullmatch(value))
    first = first or (number, value, numeric)
    if numeric != first[2]:
      kinds = ("a date", "a number")
      raise ValueError(
        f"{path}, line {number}: the timestamp {shorten(value, 30)} is {kinds[numeric]}, that of line {first[0]} "
        f"({shorten(first[1], 30)}) is {kinds[first[2]]}; write all in one way."
      ) from error
