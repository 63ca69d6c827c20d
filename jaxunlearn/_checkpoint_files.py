"""The files of a checkpoint directory: JSON, the manifest, temporary names and atomic renames; no arrays."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging as absl_logging

MANIFEST = "manifest.json"


def bare_name(name: str) -> str:
  """The checkpoint that a file name belongs to: of `.step_00000001.old` that is `step_00000001`."""
  match = re.fullmatch(r"\.(.+)\.old", name)
  return match[1] if match else name


def _old(path: Path) -> Path:
  return path.with_name(f".{path.name}.old")


def resolve(path: Path) -> Path | None:
  """Where the checkpoint `path` is: there, or under its name for the instant in which it is replaced; or None."""
  return next((place for place in (path, _old(path)) if place.exists()), None)


def to_json(value: Any, where: str) -> str:
  """JSON text of a dict; NumPy values become plain ones.

  Raises:
    TypeError: a key is not text (JSON would turn it into text) or a value has no JSON form; the message says where.
  """
  _check_keys(value, where)

  def plain(item: Any) -> Any:
    if isinstance(item, np.generic):
      return item.item()
    if isinstance(item, np.ndarray):
      return item.tolist()
    raise TypeError(f"Expected JSON values in {where}, got {type(item).__name__}: {item!r:.80}.")

  return json.dumps(value, default=plain, ensure_ascii=False)


def _check_keys(value: Any, where: str) -> None:
  if isinstance(value, dict):
    for key, inner in value.items():
      if not isinstance(key, str):
        raise TypeError(f"Expected text keys in {where}, got {key!r}; store the dict as two lists, keys and values.")
      _check_keys(inner, f"{where}[{key!r}]")
  elif isinstance(value, list | tuple) and value and isinstance(value[0], dict | list | tuple):
    for index, inner in enumerate(value):
      _check_keys(inner, f"{where}[{index}]")


def read_json(path: Path) -> Any:
  """The value in a JSON file; OSError naming the file where that cannot be had."""
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise OSError(f"Cannot read the checkpoint {path.parent}: {path.name}: {error}") from error


def _digest(path: Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path) -> None:
  """Lists every file of `folder` with its size and digest in `manifest.json`."""
  listed = sorted(file for file in folder.rglob("*") if file.is_file())
  entries = {file.relative_to(folder).as_posix(): [file.stat().st_size, _digest(file)] for file in listed}
  with (folder / MANIFEST).open("w", encoding="utf-8") as file:
    file.write(json.dumps({"files": entries}, indent=1))
    file.flush()
    os.fsync(file.fileno())


def verify(folder: Path, *, digests: bool = True) -> None:
  """Raises OSError, naming folder and file, where a file is absent or not the one that was written."""
  manifest = read_json(folder / MANIFEST)
  if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
    raise OSError(f"Cannot read the checkpoint {folder}: {MANIFEST} is damaged.")
  for name, (size, digest) in manifest["files"].items():
    file = folder / name
    if not file.is_file():
      raise OSError(f"The checkpoint {folder} is incomplete: {name} is missing.")
    if file.stat().st_size != size:
      raise OSError(f"The checkpoint {folder} is damaged: {name} has {file.stat().st_size} bytes, {size} were written.")
    if digests and _digest(file) != digest:
      raise OSError(f"The checkpoint {folder} is damaged: {name} has changed since it was written.")


def is_other(path: Path) -> bool:
  """Whether what is at `path` is neither a checkpoint, whole or damaged, nor an empty folder: somebody's own."""
  if not path.exists():
    return False
  return not path.is_dir() or not ((path / MANIFEST).is_file() or next(path.iterdir(), None) is None)


def is_complete(path: Path) -> bool:
  """Whether every file of the checkpoint `path` is there in its full size (digests are read by `restore`)."""
  found = resolve(path)
  try:
    if found is not None:
      verify(found, digests=False)
  except OSError:
    return False
  return found is not None


def _is_alive(process: int) -> bool:
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return False
  except OSError:
    return True
  return True


def _sweep(path: Path) -> None:
  """Removes what killed saves left beside `path`: temporaries of this machine whose process is gone, and trash."""
  name = glob.escape(path.name)
  for left in path.parent.glob(f".{name}.tmp-{glob.escape(platform.node())}-*"):
    process = left.name.rsplit("-", 2)[-2]
    if process.isdigit() and not _is_alive(int(process)):
      shutil.rmtree(left, ignore_errors=True)
  for left in path.parent.glob(f".{name}.trash-*"):
    shutil.rmtree(left, ignore_errors=True)


def _discard(place: Path, path: Path) -> None:
  if place.exists():
    trash = path.with_name(f".{path.name}.trash-{uuid.uuid4().hex[:8]}")
    os.rename(place, trash)
    shutil.rmtree(trash, ignore_errors=True)


def remove(path: Path) -> None:
  """Removes a checkpoint: first its name, at once, and then its files."""
  _discard(_old(path), path)
  _discard(path, path)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Keeps orbax from logging tracebacks of errors that it also raises; warnings still show."""

  def below_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR

  logger = absl_logging.get_absl_logger()
  logger.addFilter(below_error)
  try:
    yield
  finally:
    logger.removeFilter(below_error)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
  """A temporary directory that takes the name `path` when the block ends, and is removed when it fails.

  An earlier `path` keeps its name until then; for the instant between the two renames it is `.name.old`, where
  `resolve` finds it.

  Raises:
    OSError: anything on the way could not be written; the message names `path`.
  """
  temporary = path.with_name(f".{path.name}.tmp-{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary.mkdir()
    yield temporary
    write_manifest(temporary)
    if path.exists():
      _discard(_old(path), path)
      os.rename(path, _old(path))
    os.rename(temporary, path)
    _discard(_old(path), path)
  except Exception as error:  # orbax and tensorstore raise a different type for each way a write can fail
    number = error.errno if isinstance(error, OSError) else None
    reason = f"Cannot write the checkpoint {path}: {error}"
    raise (OSError(number, reason, str(path)) if number is not None else OSError(reason)) from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
