"""A table of a paper: its parts, the numbers that were printed, and ours beside them."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import _names, _report
from experiments._report import Row

_PRINTED = Path(__file__).parent / "printed.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """One command: `python -m experiments.SCRIPT` with these flags, `$D` the data folder, and `--out`."""

  flags: tuple[str, ...]
  seeds: int
  script: str = "compare"

  def command(self, data: str, out: Path, seeds: int | None = None) -> list[str]:
    """Its arguments after `python -m`, as a list."""
    given = [flag.replace("$D", data) for flag in self.flags]
    return [f"experiments.{self.script}", *given, f"--seeds={seeds or self.seeds}", f"--out={out}"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """A table of a paper.

  Attributes:
    title: with the paper it is from.
    metrics: columns, as in `_report`.
    parts: the commands that make it, by the name of their folder.
    kept: folders below experiments/results that its results are kept in.
    paper: whose numbers `printed.json` has; "" where none were printed.
    alias: {variant of ours: method whose printed numbers belong beside it}.
  """

  title: str
  metrics: tuple[str, ...]
  parts: Mapping[str, Part]
  kept: tuple[str, ...]
  paper: str = ""
  alias: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def printed(self, row: Row) -> Mapping[str, float]:
    """The paper's numbers of a row, by metric: those of the method, whatever objective or partition of ours it has.

    A variant in a hyper-parameter ("lightul[preserve+phantom_ratio=0.1]") has none unless `alias` names it: the paper's
    are of its defaults.
    """
    method, _, variant = self.alias.get(row.method, row.method).partition("[")
    method = {"receraser-ubp": "receraser", "receraser-released": "receraser"}.get(method, method)
    cells = _printed().get(self.paper, {}).get("cells", {})
    return {} if "=" in variant else cells.get(f"{row.dataset}/{row.model}/{method}", {})


@functools.cache
def _printed() -> Mapping[str, Any]:
  return json.loads(_PRINTED.read_text(encoding="utf-8"))


def verdict(row: Row, retrain: Row | None, metric: str) -> str:
  """Where a mean lies beside Retrain's: "inside" ± 2 of Retrain's standard deviations over seeds, "above", "below".

  "–" for Retrain itself and the original, and where Retrain has too few seeds to have a spread: the noise floor is the
  difference that another seed makes.
  """
  if retrain is None or row.method in ("original", "retrain"):
    return "–"
  value, (mean, sd) = row.mean_sd(metric)[0], retrain.mean_sd(metric)
  if not (math.isfinite(value) and math.isfinite(sd)):
    return "–"
  return "inside" if abs(value - mean) <= 2 * sd else "above" if value > mean else "below"


def lines(rows: Sequence[Row], table: Table) -> tuple[list[str], list[list[str]]]:
  """Headings and text cells: for each metric ours ± sd and the paper's, then verdicts on utility and AUC."""
  judged = [m for m in table.metrics if m in (table.metrics[0], "completeness.auc")]
  heads = ["dataset", "model", "method", "seeds"]
  printed = [table.printed(row) for row in rows]
  known = [any(metric in numbers for numbers in printed) for metric in table.metrics]
  for metric, beside in zip(table.metrics, known, strict=True):
    heads += [_report.label(metric), *(["paper"] if beside else [])]
  heads += [f"{_report.label(metric)} in Retrain's noise" for metric in judged]
  of_place = {(row.dataset, row.model): row for row in rows if row.method == "retrain"}
  body = []
  for row, numbers in zip(rows, printed, strict=True):
    cells = [row.dataset, row.model, _names.display(row.method), str(len(row.seeds))]
    for metric, beside in zip(table.metrics, known, strict=True):
      cells += [_report.cell_text(row, metric), *([_text(metric, numbers)] if beside else [])]
    body.append(cells + [verdict(row, of_place.get((row.dataset, row.model)), metric) for metric in judged])
  return heads, body


def _text(metric: str, numbers: Mapping[str, float]) -> str:
  if metric not in numbers:
    return "–"
  return f"{numbers[metric]:.0f}" if metric.endswith("seconds") else f"{numbers[metric]:.4f}"
