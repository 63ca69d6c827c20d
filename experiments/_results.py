"""One `result.json` a run: what was run, on what, and what came out. The schema is in `experiments/README.md`.

`prepare_out` before the work, `make_result` and `write_result` after it; tables and plots read `load_results`.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import platform
import resource
import shlex
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxunlearn

SCHEMA = 1
FILE_NAME = "result.json"
REQUIRED = ("method", "model", "dataset", "seeds", "utility", "completeness", "efficiency")

PathLike = str | os.PathLike[str]


def plain(value: Any) -> Any:
  """`value` with JSON types only: NaN and infinity become None, NumPy and JAX values plain, dataclasses dicts.

  Raises:
    TypeError: a value has no JSON form.
  """
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
  if isinstance(value, np.ndarray | np.generic | jax.Array):
    return plain(np.asarray(value).tolist())
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  if value is None or isinstance(value, bool | int | str):
    return value
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  if isinstance(value, tuple) and hasattr(value, "_asdict"):
    return plain(value._asdict())
  if isinstance(value, Mapping):
    return {str(key): plain(item) for key, item in value.items()}
  if isinstance(value, Iterable):
    return [plain(item) for item in value]
  raise TypeError(f"Expected a value with a JSON form, got {type(value).__name__}: {value!r:.80}.")


def ratio(a: float | None, b: float | None) -> float:
  """a / b, NaN where one is not known."""
  return a / b if a and b else math.nan


def prepare_out(out: PathLike) -> Path:
  """Makes the folder `out` and tries to write in it, before hours of work rely on it.

  Raises:
    OSError: it cannot be made or written; the message names it.
  """
  folder = Path(out)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    raise OSError(error.errno, f"Cannot write results to {folder}: {error.strerror}", str(folder)) from error
  return folder


def mean_sd(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
  """Mean and sample standard deviation (n − 1); the deviation of one value is NaN: nothing is known of the spread.

  Raises:
    ValueError: there is no value.
  """
  array = np.asarray(values, np.float64)
  if array.ndim != 1 or not array.size:
    raise ValueError(f"Expected a list of at least one number, got {values!r:.80}.")
  return float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else math.nan


def spread(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
  """A metric over seeds as it is stored: {"mean", "sd", "values"}."""
  mean, sd = mean_sd(values)
  return {"mean": mean, "sd": sd, "values": [float(value) for value in values]}


def over_seeds(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
  """{"ndcg@20": spread, …} from one {"ndcg@20": number, …} a seed.

  Raises:
    ValueError: there is no run, or two runs have different metrics.
  """
  if not runs or any(run.keys() != runs[0].keys() for run in runs):
    raise ValueError(f"Expected the same metrics of every seed, got {[sorted(run) for run in runs]}.")
  return {name: spread([run[name] for run in runs]) for name in runs[0]}


def peak_memory_mb() -> float:
  """Peak memory in MiB: of the first device where it counts (GPU, TPU), else of this process since it began."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if "peak_bytes_in_use" in stats:
    return float(stats["peak_bytes_in_use"]) / 2**20
  unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def versions() -> dict[str, str]:
  """Versions of Python and of the libraries that numbers depend on."""
  found = {"python": platform.python_version()}
  for name in ("jax", "jaxlib", "flax", "optax", "numpy", "scipy"):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = "not installed"
  return {**found, "jaxunlearn": jaxunlearn.__version__}  # the code that runs, which need not be what pip installed


def _cpu_model() -> str:
  try:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
  except OSError:
    lines = []
  names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
  return names[0] if names else platform.processor() or platform.machine()


def device() -> dict[str, Any]:
  """Platform, kind and count of the devices, CPU model and the cores this process may use."""
  first = jax.devices()[0]
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  return {
    "platform": first.platform,
    "kind": first.device_kind,
    "count": jax.device_count(),
    "cpu_model": _cpu_model(),
    "cores": cores,
  }


def command_line() -> str:
  """The command that started this process, to copy and run again."""
  main = sys.modules["__main__"]
  spec = getattr(main, "__spec__", None)
  name = spec.name.removesuffix(".__main__") if spec is not None else ""
  start = ["python", "-m", name] if name else ["python", sys.argv[0]]
  return shlex.join(start + sys.argv[1:])


def provenance() -> dict[str, Any]:
  """What every kind of result says of its making: versions, device, date (UTC), command."""
  return {
    "versions": versions(),
    "device": device(),
    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "command": command_line(),
  }


def make_result(
  *,
  method: str,
  model: str,
  dataset: str,
  seeds: Sequence[int],
  config: Any,
  data_hash: str,
  forget_hash: str,
  utility: Mapping[str, Any],
  completeness: Mapping[str, Any],
  efficiency: Mapping[str, Any],
  info: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """A result in JSON types, with versions, device, date (UTC) and command filled in.

  Args:
    method: name of the unlearner, as in tables: "retrain", "lightul", "original" for the model before the request.
    model: name of the base model.
    dataset: name of the dataset, the split included.
    seeds: the seeds that the values are over, in the order of every "values" list.
    config: dataclass or dict, or a dict of them.
    data_hash: `Interactions.digest()` of train.
    forget_hash: the same of the forget set.
    utility: {"ndcg@20": number or `spread(…)`, …}; `over_seeds` makes it.
    completeness: {"auc": …, "auc_retrain": …, …}, likewise.
    efficiency: {"fit_seconds": …, "unlearn_seconds": …, "compile_seconds": …, "retrain_ratio": …, "peak_memory_mb": …}.
    info: diagnostics; no table is made from them.
  """
  return plain(
    {
      "schema": SCHEMA,
      "method": method,
      "model": model,
      "dataset": dataset,
      "seeds": list(seeds),
      "config": config,
      "data_hash": data_hash,
      "forget_hash": forget_hash,
      "utility": utility,
      "completeness": completeness,
      "efficiency": efficiency,
      "info": info or {},
      **provenance(),
    }
  )


def write_result(out: PathLike, result: Mapping[str, Any]) -> Path:
  """Writes `out/result.json`, whole or not at all, and returns its path; strict JSON (no NaN).

  Raises:
    OSError: it cannot be written; the message names the folder.
  """
  text = json.dumps(plain(result), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
  return write_text(prepare_out(out) / FILE_NAME, text)


def write_text(path: Path, text: str) -> Path:
  """Writes a file, whole or not at all, and returns its path.

  Raises:
    OSError: it cannot be written; the message names the folder.
  """
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
  except OSError as error:
    raise OSError(error.errno, f"Cannot write results to {path.parent}: {error.strerror}", str(path.parent)) from error
  finally:
    temporary.unlink(missing_ok=True)
  return path


def _refuse(constant: str) -> None:
  raise ValueError(f"{constant} is not JSON")


def load_results(paths: PathLike | Iterable[PathLike]) -> list[dict[str, Any]]:
  """Results from files, and from every `result.json` at or below folders, in the order of their paths.

  Raises:
    OSError: a path does not exist or holds no result.
    ValueError: a file is not a result; the message names it and what is missing.
  """
  given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
  files: list[Path] = []
  for path in map(Path, given):
    found = sorted(path.rglob(FILE_NAME)) if path.is_dir() else [path] if path.exists() else []
    if not found:
      raise FileNotFoundError(f"No {FILE_NAME} at {path}.")
    files += [file for file in found if file not in files]
  results = []
  for file in files:
    try:
      result = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse)
    except ValueError as error:
      raise ValueError(f"{file} is not a result: {error}.") from error
    missing = [name for name in REQUIRED if not isinstance(result, dict) or name not in result]
    if missing:
      raise ValueError(f"{file} is not a result: {', '.join(missing)} missing.")
    results.append(result)
  return results


def load_cells(out: Path) -> list[dict[str, Any]]:
  """The results of a comparison's cells, out/MODEL/METHOD/seedN, and not of other runs that lie in the same folder."""
  return load_results(sorted(out.glob(f"*/*/seed*/{FILE_NAME}")))
