"""Writing a file whole or not at all, and showing a piece of a file in a message."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
  """A binary file under a temporary name beside `path`, renamed to `path` once the block ends without error.

  A reader, or a run that was killed, therefore never sees half a file.

  Raises:
    OSError: the file cannot be written; the message names `path`.
  """
  path = Path(path)
  # Not tempfile's: its files are private (0600), and the renamed result would stay so.
  temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
  try:
    with open(temporary, "xb") as handle:
      yield handle
      handle.flush()
      os.fsync(handle.fileno())
    os.replace(temporary, path)
  except OSError as error:
    raise OSError(f"Could not write {path}: {error.strerror or error}. Check the folder and its free space.") from error
  finally:
    temporary.unlink(missing_ok=True)


def shorten(text: str, width: int = 60) -> str:
  """`text` quoted for a message, cut in the middle when longer than `width` characters."""
  text = text.rstrip("\r\n")
  if len(text) > width:
    text = f"{text[: width - 20]} … {text[-17:]}"
  return repr(text)


def existing_file(path: str | os.PathLike[str]) -> Path:
  """`path` as a `Path`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file has no bytes.
  """
  path = Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"Expected a file at {path}, found {'a folder' if path.is_dir() else 'nothing'}.")
  if path.stat().st_size == 0:
    raise ValueError(f"{path} is empty. Expected at least one line; was a copy or download cut off?")
  return path
