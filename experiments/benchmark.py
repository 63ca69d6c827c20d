"""Times ours against other libraries, and shards against the whole, side by side in one run, on the CPU.

    python -m experiments.benchmark --dataset=gowalla --out=runs/benchmark

Rows: `lightgcn`, a training step against PyTorch; `bpr`, an epoch of BPR-MF against implicit; `ranking`, the best 50
items of all users against implicit; `shards`, an epoch of each of ten submodels against one of the whole model, BPR-MF
and LightGCN. Each has a ratio of seconds to reach, ours by the other's. The sides run in turns; seconds and ratios are
medians over --repeats rounds, after one that is not counted. Writes out/result.json. A row whose library is not
installed is left out.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags

from experiments import _bench, _bench_rows, _common, _flags, _report, _results
from jaxunlearn._validate import check_choice, check_positive
from jaxunlearn.data.dataset import Dataset

FLAGS = flags.FLAGS
ROWS = ("lightgcn", "bpr", "ranking", "shards")
_common.data_flags("gowalla")
flags.DEFINE_list("rows", list(ROWS), f"which to measure, of {', '.join(ROWS)}")
flags.DEFINE_integer("repeats", 3, "rounds that are timed, ≥ 1", lower_bound=1)
flags.DEFINE_string("out", "runs/benchmark", "folder of result.json")
flags.DEFINE_boolean("quiet", False, "no table")


def measure(dataset: Dataset, names: Sequence[str], repeats: int) -> tuple[list[_bench.Row], dict[str, str]]:
  """The rows of the given parts, and for each part that was left out the reason.

  Raises:
    ValueError: a part is unknown, or two sides do not compute the same.
  """
  check_positive("repeats", repeats)
  for name in names:
    check_choice("rows", name, ROWS)
  rows: list[_bench.Row] = []
  skipped: dict[str, str] = {}
  for name in names:
    try:
      if name == "lightgcn":
        rows += _bench_rows.lightgcn_rows(dataset.train, repeats)
      elif name == "bpr":
        rows += _bench_rows.bpr_rows(dataset.train, repeats)
      elif name == "shards":
        rows += _bench_rows.shard_rows(dataset.train, repeats)
      else:
        rows += _bench_rows.ranking_rows(dataset.train, dataset.test, repeats)
    except _bench.MissingLibrary as error:
      skipped[name] = str(error)
      print(f"Row {name} is left out: {error}.", file=sys.stderr)
  return rows, skipped


def versions() -> dict[str, str]:
  """Those of every result, and of the libraries compared with."""
  found = _results.versions()
  for name in ("torch", "implicit"):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = "not installed"
  return found


def make_result(
  dataset: Dataset, rows: Sequence[_bench.Row], skipped: dict[str, str], repeats: int, load: Sequence[float]
) -> dict[str, Any]:
  """What is written: the rows, and what they were measured on; `load` is the machine's at the start."""
  return {
    "schema": _results.SCHEMA,
    "benchmark": [row._asdict() for row in rows],
    "skipped": skipped,
    "dataset": dataset.name,
    "data_hash": dataset.train.digest(),
    "repeats": repeats,
    "load": {"start": load[0], "end": _load()[0]},  # above 0 at the start: others were computing too
    **_results.provenance(),
    "versions": versions(),
  }


def _load() -> tuple[float, ...]:
  return os.getloadavg() if hasattr(os, "getloadavg") else (float("nan"),)


def table(rows: Sequence[_bench.Row]) -> str:
  """One line a comparison; the headline of each is marked with a star."""
  heads = ["work", "ours", "other", "ours s", "other s", "ratio", "reach", "reached"]
  body = []
  for row in rows:
    numbers = [f"{row.ours_seconds:.3f}", f"{row.other_seconds:.3f}", f"{row.ratio:.3f}", f"{row.target:.3f}"]
    name = f"{row.ours} *" if row.headline else row.ours
    body.append([row.work, name, row.other, *numbers, "yes" if row.reached else "no"])
  return _report.text_table(heads, body, box=False)


def main(argv: list[str]) -> None:
  """Measures, writes, prints."""
  del argv
  out = _results.prepare_out(FLAGS.out)
  jax.config.update("jax_platforms", "cpu")  # the others run there
  load = _load()
  dataset = _common.load_dataset()
  rows, skipped = measure(dataset, FLAGS.rows, FLAGS.repeats)
  path = _results.write_result(out, make_result(dataset, rows, skipped, FLAGS.repeats, load))
  if not FLAGS.quiet:
    if rows:
      print(table(rows))
    print(path, file=sys.stderr)


if __name__ == "__main__":
  _flags.run(main, interrupted="Interrupted: nothing was written; run the command again.")
