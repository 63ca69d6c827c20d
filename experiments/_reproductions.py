"""The papers' tables: what is run for each of them, where its results are kept, and the numbers that were printed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments import _names, _report
from experiments._report import Row

Cell = tuple[str, str, str]  # dataset, model, method
_POST_HOC = "original,retrain,finetune,gradient-ascent,ifru,l2unrank,rownewton,lightul-wm,lightul"
_SPARSE = ("--epochs=60", "--train.num_negatives=4", "--train.batch_size=8192", "--train.learning_rate=4e-3")


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
    printed: the paper's numbers, one a metric (NaN where it has none), by (dataset, model, method).
  """

  title: str
  metrics: tuple[str, ...]
  parts: Mapping[str, Part]
  kept: tuple[str, ...]
  printed: Mapping[Cell, tuple[float, ...]] = dataclasses.field(default_factory=dict)


def _lightul(kind: str) -> dict[str, Part]:
  """LightUL's comparison on one kind of forget set: ml-1m, for pairs also gowalla and yelp2018."""
  parts = {
    f"ml-1m-{model}": Part(
      flags=(
        "--dataset=ml-1m",
        f"--models={model}",
        f"--epochs={epochs}",
        f"--methods={_POST_HOC}",
        f"--forget=$D/ml-1m/forget/{kind}_0.01.txt",
      ),
      seeds=seeds,
    )  # fmt: skip
    for model, epochs, seeds in (("bprmf", 120, 5), ("wmf", 70, 5), ("lightgcn", 150, 2))
  }
  parts["ml-1m-neumf"] = Part(
    flags=("--dataset=ml-1m", "--models=neumf", "--epochs=20",
           "--methods=original,retrain,finetune,gradient-ascent,ifru,l2unrank,rownewton",
           f"--forget=$D/ml-1m/forget/{kind}_0.01.txt"),
    seeds=2,
  )  # fmt: skip
  if kind == "intr":
    for dataset in ("gowalla", "yelp2018"):
      parts[f"{dataset}-bprmf"] = Part(
        flags=(f"--dataset={dataset}", "--models=bprmf", *_SPARSE, f"--methods={_POST_HOC}",
               f"--forget=$D/{dataset}/forget/intr_0.01.txt"),
        seeds=1,
      )  # fmt: skip
  return parts


def _receraser(model: str, epochs: int, seeds: int, *more: str) -> Part:
  methods = "original,retrain,sisa,grapheraser,receraser,receraser-released,receraser-ubp"
  return Part(
    flags=("--dataset=ml-1m-receraser", f"--models={model}", f"--epochs={epochs}", "--pairs=1", f"--methods={methods}",
           *more),
    seeds=seeds,
  )  # fmt: skip


# LightUL, 1 % of the interactions: NDCG@20, AUC.
_LIGHTUL_PRINTED: dict[Cell, tuple[float, ...]] = {
  (dataset, model, method): numbers
  for method, row in {
    "original": [(0.2260, 0.5045), (0.0814, 0.4941), (0.0277, 0.5088), (0.2855, 0.4898)],
    "retrain": [(0.2255, 0.6485), (0.0854, 0.7547), (0.0286, 0.7286), (0.2855, 0.6353)],
    "ifru": [(0.1870, 0.6367), (0.0561, 0.8788), (0.0219, 0.8274), (0.1801, 0.5231)],
    "lightul-wm": [(0.2196, 0.7891), (0.0814, 0.9283), (0.0278, 0.8331), (0.2822, 0.7892)],
    "lightul": [(0.2260, 0.6891), (0.0815, 0.9006), (0.0277, 0.8327), (0.2902, 0.6654)],
  }.items()
  for (dataset, model), numbers in zip(
    [("ml-1m", "bprmf"), ("gowalla", "bprmf"), ("yelp2018", "bprmf"), ("ml-1m", "lightgcn")], row, strict=True
  )
}
# RecEraser, table 3, ml-1m: Recall@20, NDCG@20.
_RECERASER_PRINTED: dict[Cell, tuple[float, ...]] = {
  ("ml-1m-receraser", model, method): numbers
  for model, row in {
    "bprmf": [(0.2389, 0.3368), (0.1737, 0.2679), (0.1906, 0.2827), (0.2254, 0.3186)],
    "wmf": [(0.2507, 0.3509), (0.1266, 0.1998), (0.1823, 0.2557), (0.2254, 0.3253)],
    "lightgcn": [(0.2428, 0.3447), (0.1743, 0.2686), (0.1914, 0.2791), (0.2266, 0.3229)],
  }.items()
  for method, numbers in zip(("retrain", "sisa", "grapheraser", "receraser"), row, strict=True)
}
_FORGOTTEN = ("utility.ndcg@20", "completeness.auc", "completeness.outside@50", "completeness.rank_shift")
TABLES: dict[str, Table] = {
  "receraser-3": Table(
    title="RecEraser, table 3: K = 10 shards after a request of one pair, ml-1m",
    metrics=("utility.recall@20", "utility.ndcg@20", "efficiency.unlearn_seconds"),
    parts={
      "bprmf": _receraser("bprmf", 90, 5),
      # Ten weights over Gram matrices of 640 columns: twenty epochs take longer than all else and move nothing.
      "wmf": _receraser("wmf", 130, 5, "--grapheraser.aggregate.train.num_epochs=2"),
      "lightgcn": _receraser("lightgcn", 60, 2),
    },
    kept=("shards",),
    printed=_RECERASER_PRINTED,
  ),
  "lightul-interactions": Table(
    title="LightUL: 1 % of the interactions forgotten",
    metrics=_FORGOTTEN, parts=_lightul("intr"), kept=("influence/b554f0c3", "influence/ce1caaf5", "influence/a1b240ba"),
    printed=_LIGHTUL_PRINTED,
  ),
  "lightul-users": Table(
    title="LightUL: 1 % of the users forgotten", metrics=_FORGOTTEN, parts=_lightul("user"),
    kept=("influence/a7a95012",),
  ),
  "lightul-items": Table(
    title="LightUL: 1 % of the items forgotten", metrics=_FORGOTTEN, parts=_lightul("item"),
    kept=("influence/047b6dee",),
  ),
  "synthetic": Table(
    title="No paper's: synthetic data, to see in a minute that all of this works", metrics=_FORGOTTEN[:2],
    parts={
      "bprmf": Part(flags=("--dataset=synthetic", "--methods=original,retrain,rownewton", "--epochs=3"), seeds=2),
    },
    kept=(),
  ),
}  # fmt: skip


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
  printed = [any(math.isfinite(n[k]) for n in table.printed.values() if k < len(n)) for k in range(len(table.metrics))]
  for metric, known in zip(table.metrics, printed, strict=True):
    heads += [_report.label(metric), *(["paper"] if known else [])]
  heads += [f"{_report.label(metric)} in Retrain's noise" for metric in judged]
  of_place = {(row.dataset, row.model): row for row in rows if row.method == "retrain"}
  body = []
  for row in rows:
    paper = table.printed.get((row.dataset, row.model, row.method), ())
    cells = [row.dataset, row.model, _names.display(row.method), str(len(row.seeds))]
    for k, (metric, known) in enumerate(zip(table.metrics, printed, strict=True)):
      number = paper[k] if k < len(paper) else math.nan
      cells += [_report.cell_text(row, metric), *([f"{number:.4f}" if math.isfinite(number) else "–"] if known else [])]
    body.append(cells + [verdict(row, of_place.get((row.dataset, row.model)), metric) for metric in judged])
  return heads, body
