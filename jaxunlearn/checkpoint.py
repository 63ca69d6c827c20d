"""Save and restore a whole state: a pytree by orbax, and beside it a JSON-able dict (vocabulary, config, requests).

A checkpoint is one directory that appears whole or not at all: it is written under a temporary name beside its own and
renamed at the end. `manifest.json` lists every file with size and SHA-256, so what was cut short or altered later is
found when it is read. `save_step` and `RunDirectory` keep the last few steps of a run. One process writes a checkpoint.

    path/state/         arrays, by orbax          path/tree.json      where each leaf belongs, its kind, shape, dtype
    path/metadata.json  the caller's dict         path/manifest.json  sizes and digests of the other files
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxunlearn import _checkpoint_files as files
from jaxunlearn import _checkpoint_leaves as leaf_records

PathLike = str | os.PathLike[str]

_STEP = re.compile(r"step_(\d{8,})")


def _flatten(tree: Any) -> list[tuple[Any, Any]]:
  return jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: leaf is None)[0]


def save(path: PathLike, state: Any, metadata: Mapping[str, Any] | None = None, *, overwrite: bool = False) -> Path:
  """Writes `state` and `metadata` to the directory `path`, whole or not at all.

  Args:
    path: the directory to make; its parents are made too.
    state: a pytree of jax or NumPy arrays, int, float, bool, typed keys and None. Static fields of its nodes (the
      number of users of an `Interactions`) are not leaves and not stored: put what you need of them into `metadata`.
    metadata: a dict of JSON values with text keys; tuples come back as lists, NumPy numbers and arrays as plain ones.
    overwrite: replace an earlier checkpoint, and nothing else. It stays readable until the new one is complete.

  Returns:
    The path.

  Raises:
    FileExistsError: `path` exists and `overwrite` is not set, or it is no checkpoint.
    OSError: it cannot be written (permission, full disk); the message names `path` and nothing is left behind.
    TypeError: a leaf or a metadata value cannot be stored; the message says where.
  """
  path = Path(os.path.realpath(path))  # of a link, what it points to is replaced
  if jax.process_count() > 1:
    raise ValueError("checkpoint.save writes from one process; gather the state on one and call it there.")
  if files.resolve(path) is not None and not overwrite:
    raise FileExistsError(f"{path} exists; pass overwrite=True to replace it, or choose another path.")
  if files.is_other(path):
    raise FileExistsError(f"{path} is no checkpoint, so overwrite=True does not replace it; choose another path.")
  leaves, arrays = [], {}
  for index, (key_path, leaf) in enumerate(_flatten(state)):
    record, array = leaf_records.describe(jax.tree_util.keystr(key_path), leaf)
    if array is not None:
      arrays[f"leaf_{index:05d}"] = array
    leaves.append({"where": jax.tree_util.keystr(key_path), "path": leaf_records.entry(key_path), **record})
  texts = {
    "tree.json": files.to_json({"format": 1, "leaves": leaves}, "tree"),
    "metadata.json": files.to_json(dict(metadata or {}), "metadata"),
  }
  with files.replacing(path) as temporary:
    if arrays:
      with files.quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(temporary / "state", args=ocp.args.PyTreeSave(arrays))
    for name, text in texts.items():
      (temporary / name).write_text(text, encoding="utf-8")
  return path


def restore(path: PathLike, like: Any = None) -> tuple[Any, dict[str, Any]]:
  """Reads a checkpoint.

  Args:
    path: the directory that `save` made.
    like: a pytree of the state's structure, with arrays or `jax.ShapeDtypeStruct`s for arrays; `...` (Ellipsis) as a
      leaf takes whatever is stored there. A leaf whose `sharding` is not just the first device is restored onto it.
      None: nested dicts and lists as in the file (a NamedTuple or dataclass becomes a dict of its fields).

  Returns:
    (state, metadata). Each leaf is of the kind that was saved: jax array, NumPy array, number, key, None.

  Raises:
    ValueError: `like` and the file differ in structure, shape or dtype; the leaf is named, with both sides.
    OSError: the checkpoint is missing, incomplete or altered; the message names the path.
  """
  path = Path(os.path.realpath(path))
  found = files.resolve(path)
  if found is None:
    raise FileNotFoundError(f"No checkpoint at {path}.")
  files.verify(found)
  records = files.read_json(found / "tree.json")["leaves"]
  metadata = files.read_json(found / "metadata.json")
  targets = [None] * len(records)
  if like is not None:
    targets = _match(records, like)
  arrays = _load(found, records, targets)
  leaves = [leaf_records.rebuild(record, arrays.get(f"leaf_{i:05d}")) for i, record in enumerate(records)]
  if like is None:
    return leaf_records.nest(records, leaves), metadata
  structure = jax.tree_util.tree_structure(like, is_leaf=lambda leaf: leaf is None)
  return jax.tree_util.tree_unflatten(structure, leaves), metadata


def read_metadata(path: PathLike) -> dict[str, Any]:
  """The metadata of a checkpoint alone; raises OSError as `restore` does, digests of other files left unread."""
  path = Path(os.path.realpath(path))
  found = files.resolve(path)
  if found is None:
    raise FileNotFoundError(f"No checkpoint at {path}.")
  files.verify(found, digests=False)
  return files.read_json(found / "metadata.json")


def _match(records: list[dict[str, Any]], like: Any) -> list[Any]:
  """The leaf of `like` for each record; ValueError where the two differ."""
  expected = {jax.tree_util.keystr(path): leaf for path, leaf in _flatten(like)}
  stored = {record["where"] for record in records}
  problems = [f"state{name} is stored but not expected" for name in sorted(stored - expected.keys())]
  problems += [f"state{name} is expected but not stored" for name in sorted(expected.keys() - stored)]
  if not problems and list(expected) != [record["where"] for record in records]:
    problems = ["the leaves are in another order"]
  for record in records if not problems else ():
    want = expected[record["where"]]
    if want is ...:
      continue
    have = leaf_records.signature(record.get("kind"), record.get("shape"), record.get("dtype"))
    if hasattr(want, "shape") and hasattr(want, "dtype"):
      need = leaf_records.signature("array", want.shape, want.dtype)
    else:
      need = leaf_records.signature("none" if want is None else type(want).__name__, None, None)
    if have != need:
      problems.append(f"state{record['where']} is stored as {have}, expected {need}")
  if problems:
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    raise ValueError("The checkpoint does not match `like`: " + "; ".join(problems[:5]) + more + ".")
  return [expected[record["where"]] for record in records]


def _load(path: Path, records: list[dict[str, Any]], targets: list[Any]) -> dict[str, Any]:
  """The arrays by leaf name: on the sharding of its target if that has one, else on the host."""
  arguments = {}
  for index, (record, target) in enumerate(zip(records, targets, strict=True)):
    if "shape" not in record or (0 in record["shape"]):
      continue
    sharding = getattr(target, "sharding", None) if record["kind"] == "jax" else None
    if sharding is not None and sharding.device_set != {jax.devices()[0]}:  # there, arrays stay uncommitted
      arguments[f"leaf_{index:05d}"] = ocp.ArrayRestoreArgs(sharding=sharding)
    else:
      arguments[f"leaf_{index:05d}"] = ocp.RestoreArgs(restore_type=np.ndarray)
  if not arguments:
    return {}
  try:
    with files.quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      return checkpointer.restore(path / "state", args=ocp.args.PyTreeRestore(restore_args=arguments))
  except Exception as error:  # tensorstore raises a different type for each way a file can be broken
    raise OSError(f"Cannot read the checkpoint {path}: {error}") from error


def steps(directory: PathLike) -> list[int]:
  """The numbers of the complete steps in `directory`, ascending; a missing directory has none."""
  folder = Path(directory)
  if not folder.is_dir():
    return []
  numbers = {int(match[1]) for entry in folder.iterdir() if (match := _STEP.fullmatch(files.bare_name(entry.name)))}
  return sorted(number for number in numbers if files.is_complete(folder / f"step_{number:08d}"))


def latest(directory: PathLike) -> Path | None:
  """The newest complete step in `directory`, or None."""
  found = steps(directory)
  return Path(directory) / f"step_{found[-1]:08d}" if found else None


def save_step(
  directory: PathLike, step: int, state: Any, metadata: Mapping[str, Any] | None = None, *, keep: int = 2
) -> Path:
  """Saves one step of a run and removes all but the newest `keep`; a kill at any moment leaves a complete one.

  Args:
    directory: the run's folder.
    step: number of the step, ≥ 0, ascending within a run; an existing step is replaced.
    state: as for `save`.
    metadata: as for `save`.
    keep: steps to keep, the new one included, ≥ 1.

  Raises:
    ValueError: step or keep is out of range.
    OSError: it cannot be written; earlier steps are as they were.
  """
  if step < 0 or keep < 1:
    raise ValueError(f"Expected step={step} >= 0 and keep={keep} >= 1.")
  path = save(Path(directory) / f"step_{step:08d}", state, metadata, overwrite=True)
  for old in [number for number in steps(directory) if number != step][: -(keep - 1) or None]:
    files.remove(Path(directory) / f"step_{old:08d}")
  return path


class RunDirectory:
  """The steps of one run, which carry the run's identity, so that no run resumes from another's.

  Args:
    directory: the run's folder; made by the first `save`.
    identity: JSON values that a resumed run must share: configuration, data digest, key.
    keep: steps to keep, ≥ 1.
  """

  def __init__(self, directory: PathLike, identity: Mapping[str, Any], *, keep: int = 2) -> None:
    self.directory = Path(directory)
    self.identity: dict[str, Any] = json.loads(files.to_json(dict(identity), "identity"))
    self.keep = keep

  def save(self, step: int, state: Any, metadata: Mapping[str, Any] | None = None) -> Path:
    """As `save_step`."""
    whole = {"identity": self.identity, "metadata": dict(metadata or {})}
    return save_step(self.directory, step, state, whole, keep=self.keep)

  def latest(self, like: Any = None) -> tuple[Any, dict[str, Any]] | None:
    """(state, metadata) of the newest step that can be read, or None where there is no step.

    Raises:
      ValueError: the step is of another run (the first entry that differs is named) or does not match `like`.
      OSError: there are steps and none can be read.
    """
    broken: OSError | None = None
    for step in reversed(steps(self.directory)):
      try:
        state, whole = self._read(self.directory / f"step_{step:08d}", like)
      except OSError as error:
        warnings.warn(f"{error} Trying the step before.", stacklevel=2)
        broken = error
        continue
      return state, whole["metadata"]
    if broken is not None:
      raise OSError(f"{broken} No other step can be read: remove {self.directory} to start anew.")
    return None

  def _read(self, path: Path, like: Any) -> tuple[Any, dict[str, Any]]:
    stored = read_metadata(path).get("identity", {})
    for name in sorted(stored.keys() | self.identity.keys()):
      if stored.get(name) != self.identity.get(name):
        raise ValueError(
          f"{self.directory} holds another run: {name} is {stored.get(name)!r:.200} there and "
          f"{self.identity.get(name)!r:.200} here. Remove the folder, or choose another."
        )
    return restore(path, like)
