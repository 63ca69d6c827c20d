"""A table of a paper: its parts, the numbers that were printed, and ours beside them."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import special

from experiments import _names, _report
from experiments._report import Row

_OF_THE_PAPER = {f"receraser-{way}": "receraser" for way in ("ubp", "released", "port")} | {"laser-port": "laser"}
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
    method = _OF_THE_PAPER.get(method, method)
    cells = _printed().get(self.paper, {}).get("cells", {})
    return {} if "=" in variant else cells.get(f"{row.dataset}/{row.model}/{method}", {})


@functools.cache
def _printed() -> Mapping[str, Any]:
  return json.loads(_PRINTED.read_text(encoding="utf-8"))


def floor(retrain: Row, metric: str, num_seeds: int) -> tuple[float, float]:
  """Retrain's noise floor for a mean over `num_seeds`: its mean, and how far chance takes another Retrain's mean.

  t(0.975, m − 1) · sd · √(1/num_seeds + 1/m) of m seeds of Retrain: in 95 of 100 cases a mean over that many more seeds
  of Retrain itself is nearer. NaN for one seed. Of few seeds it is wide, as it has to be: twice the sd would shut out
  three such means in ten where both have two seeds.
  """
  values = [value for value in retrain.values.get(metric, []) if math.isfinite(value)]
  mean, sd = retrain.mean_sd(metric)
  if len(values) < 2 or not num_seeds:
    return mean, math.nan
  return mean, float(special.stdtrit(len(values) - 1, 0.975)) * sd * math.sqrt(1 / num_seeds + 1 / len(values))


def verdict(row: Row, retrain: Row | None, metric: str) -> str:
  """Where a mean lies beside Retrain's: "inside" its noise floor, "above" or "below" it.

  "–" for Retrain itself and the original, for one seed of Retrain, and for a mean within the floor of two: two seeds
  can show that a method is far from Retrain, not that it is near.
  """
  if retrain is None or row.method in ("original", "retrain"):
    return "–"
  value, num_seeds = row.mean_sd(metric)[0], len(row.values.get(metric, []))
  mean, width = floor(retrain, metric, num_seeds)
  if not (math.isfinite(value) and math.isfinite(width)):
    return "–"
  if abs(value - mean) <= width:
    return "inside" if len(retrain.values[metric]) > 2 else "–"
  return "above" if value > mean else "below"


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
