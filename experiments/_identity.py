"""What makes two runs the same run: a folder is resumed by its own settings, and by no others."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments._results import FILE_NAME as RESULT
from experiments._results import plain

FILE_NAME = "identity.json"
_IGNORED = ("config.train.checkpoint_every",)  # how often a run is saved does not change what it finds


def differences(
  stored: Mapping[str, Any], wanted: Mapping[str, Any], defaults: Mapping[str, Any] | None = None, *, prefix: str = ""
) -> list[str]:
  """The texts "NAME is X there and Y here", for each entry of `wanted` that `stored` has otherwise or not at all.

  What `stored` has not is taken from `defaults`: a setting that is newer than the run was not there to be changed.
  """
  found: list[str] = []
  defaults = defaults or {}
  for name, value in wanted.items():
    path = f"{prefix}{name}"
    there = stored.get(name, defaults.get(name))
    if path in _IGNORED or there == value:
      continue
    if isinstance(value, Mapping) and isinstance(there, Mapping):
      found += differences(there, value, defaults.get(name), prefix=f"{path}.")
    else:
      found.append(f"{path} is {_short(there)} there and {_short(value)} here")
  return found


def _short(value: Any) -> str:
  text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
  return text if len(text) <= 40 else text[:12] + "…"  # the rest of a digest tells a reader nothing


def check(
  where: str | os.PathLike[str],
  stored: Mapping[str, Any],
  wanted: Mapping[str, Any],
  defaults: Mapping[str, Any] | None = None,
) -> None:
  """Raises ValueError where what lies in the folder `where` was made with other settings than `wanted`."""
  found = differences(stored, plain(wanted), plain(defaults or {}))
  if found:
    more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
    raise ValueError(
      f"{where} holds results of another run: {'; '.join(found[:5])}{more}. "
      "Pass --overwrite to start anew there, or another --out."
    )


def claim(folder: Path, identity: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
  """Marks a folder as that of one run, before its first checkpoint is written there.

  Raises:
    ValueError: it is that of another run; the message says what differs. Or it holds what no run claimed.
  """
  path = folder / FILE_NAME
  if path.exists():
    check(folder, read_json(path), identity, defaults)
    return
  foreign = [name for name in (RESULT, "model") if (folder / name).exists()]
  if foreign:
    raise ValueError(
      f"{folder} holds {foreign[0]} of another kind of run. Pass --overwrite to start anew there, or another --out."
    )
  folder.mkdir(parents=True, exist_ok=True)
  write_json(path, identity)


def kept(
  path: Path,
  identity: Mapping[str, Any],
  make: Callable[[], Mapping[str, Any]],
  defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """What `make` finds, from the file where it is there.

  Raises:
    ValueError: it is there, of other settings.
  """
  if path.exists():
    stored = read_json(path)
    check(path, stored["identity"], identity, defaults)
    return dict(stored["found"])
  found = plain(make())
  path.parent.mkdir(parents=True, exist_ok=True)
  write_json(path, {"identity": identity, "found": found})
  return dict(found)


def alone(folder: Path, kind: str) -> None:
  """Raises ValueError where a folder is that of another script, whose result would be replaced.

  Args:
    folder: --out.
    kind: the entry that tells this script's result.json from the others'.
  """
  path = folder / RESULT
  if (folder / FILE_NAME).exists() or (path.exists() and kind not in read_json(path)):
    raise ValueError(f"{folder} holds a run of another script, whose result would be lost: choose another --out.")


def read_json(path: Path) -> dict[str, Any]:
  """The entries of a JSON file.

  Raises:
    ValueError: it is damaged.
  """
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ValueError(f"{path} is damaged ({error}). Pass --overwrite to start anew there, or another --out.") from None
  if not isinstance(found, dict):
    raise ValueError(f"{path} is damaged (no object). Pass --overwrite to start anew there, or another --out.")
  return found


def write_json(path: Path, value: Any) -> None:
  """Writes a JSON file, whole or not at all, of `plain` values: a number that is not finite becomes null."""
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    temporary.write_text(json.dumps(plain(value), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def remove(*paths: Path) -> None:
  """Removes files and folders, those that are there."""
  for path in paths:
    if path.is_dir() and not path.is_symlink():
      shutil.rmtree(path)
    else:
      path.unlink(missing_ok=True)
