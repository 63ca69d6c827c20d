"""Tables and the plot of a comparison, from result dicts alone (`_results.load_results`)."""

from __future__ import annotations

import dataclasses
import math
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from experiments._names import display, rank
from experiments._results import mean_sd, write_text

DEFAULT_COLUMNS = (
  "utility.ndcg@20",
  "utility.recall@20",
  "completeness.auc",
  "completeness.auc_distance",
  "completeness.outside@50",
  "completeness.rank_shift",
  "completeness.spearman",
  "completeness.score_mae_sd",
  "efficiency.unlearn_seconds",
  "efficiency.retrain_ratio",
)
_LABELS = {
  "auc": "AUC",
  "ndcg@20_unwhitened": "NDCG@20 as published",
  "auc_distance": "|AUC − Retrain|",
  "rank_shift": "rank shift",
  "spearman": "Spearman",
  "score_mae": "|Δscore|",
  "score_mae_sd": "|Δscore| ÷ sd",
  "unlearn_seconds": "unlearn s",
  "fit_seconds": "fit s",
  "compile_seconds": "compile s",
  "retrain_ratio": "× faster",
  "peak_memory_mb": "peak MiB",
}

_LARGEST = ("efficiency.compile_seconds", "efficiency.peak_memory_mb")  # a mean says little: only one seed compiles


# Retrain's are to the Retrain of the seed before, the noise floor: the first seed has none.
_FLOORS = tuple(f"completeness.{name}" for name in ("spearman", "score_mae", "overlap@"))


@dataclasses.dataclass(frozen=True)
class Row:
  """One method on one model and dataset: for each metric ("utility.ndcg@20") the values of all its seeds."""

  method: str
  model: str
  dataset: str
  values: Mapping[str, list[float]]
  seeds: tuple[int, ...] = ()
  devices: tuple[Any, ...] = ()  # what each seed was measured on, None where a result does not say

  def mean_sd(self, metric: str) -> tuple[float, float]:
    """Mean and standard deviation over seeds; NaN for what is not known."""
    values = self.values.get(metric) or [math.nan]
    if self.method == "retrain" and metric.startswith(_FLOORS):
      values = [value for value in values if math.isfinite(value)] or [math.nan]
    return mean_sd(values)


def _numbers(value: Any) -> list[float]:
  if isinstance(value, Mapping):
    value = value.get("values") or [value.get("mean")]
  values = value if isinstance(value, list) else [value]
  if values == [None]:
    return []
  return [float(v) if isinstance(v, int | float) else math.nan for v in values]  # a seed without a number shows as –


def collect(results: Sequence[Mapping[str, Any]]) -> list[Row]:
  """A row for each (dataset, model, method); results that differ in their seeds are pooled.

  Datasets and models are in order of appearance, methods as in `_names`. Beside what was measured a row has
  - "completeness.auc_distance" = |AUC − Retrain's AUC|: seed by seed where the row "retrain" has the seed, else against
    the result's own "auc_retrain", else against Retrain's mean AUC on the same dataset and model; "retrain" has none;
  - "efficiency.retrain_ratio": Retrain's seconds by the method's, likewise seed by seed of the row "retrain", NaN where
    the two were measured on different devices or numbers of cores. Without such a row it is what a result says;
  - "efficiency.seconds": of the request, or of the fit where there was none.

  Raises:
    ValueError: two results for one row share a seed or differ in their data or settings; or a seed has two different
      data or forget sets.
  """
  groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
  for result in results:
    groups.setdefault((result["dataset"], result["model"], result["method"]), []).append(result)
  rows = []
  for (dataset, model, method), members in groups.items():
    seeds = [seed for member in members for seed in member["seeds"]]
    if len(set(seeds)) != len(seeds):
      raise ValueError(f"Two results of {method} on {model}, {dataset} share a seed, {sorted(seeds)}: pass one.")
    if (clash := conflict(members)) is not None:
      raise ValueError(
        f"Results of {method} on {model}, {dataset} are of different settings, {clash}: they cannot share a row."
      )
    if len({str(member.get("data_hash")) for member in members}) > 1:
      raise ValueError(f"Results of {method} on {model}, {dataset} differ in data_hash: they cannot share a row.")
    values: dict[str, list[float]] = {}
    for member in members:
      for part in ("utility", "completeness", "efficiency"):
        for name, value in member[part].items():
          values.setdefault(f"{part}.{name}", []).extend(_numbers(value))
    spent = values.get("efficiency.unlearn_seconds") or values.get("efficiency.fit_seconds")
    if spent:
      values["efficiency.seconds"] = spent
    devices = tuple(device for member in members for device in devices_of(member))
    rows.append(Row(method, model, dataset, values, tuple(seeds), devices))
  hashes: dict[tuple[Any, ...], Any] = {}
  for result in results:
    dataset, model = result["dataset"], result["model"]
    for name in ("data_hash", "forget_hash"):
      for seed in result["seeds"]:
        if hashes.setdefault((dataset, model, seed, name), result.get(name)) != result.get(name):
          raise ValueError(f"Results on {model}, {dataset}, seed {seed} differ in {name}: they cannot share a table.")
  places = list(dict.fromkeys((row.dataset, row.model) for row in rows))
  rows.sort(key=lambda row: (places.index((row.dataset, row.model)), rank(row.method)))
  retrained = {(row.dataset, row.model): row for row in rows if row.method == "retrain"}
  return [_with_ratio(_with_distance(row, rows), retrained.get((row.dataset, row.model))) for row in rows]


def conflict(results: Sequence[Mapping[str, Any]]) -> str | None:
  """The first setting that two of the results have differently, as "train.num_epochs 40 and 2"; None: they agree.

  A setting that one does not say is not compared, nor lengths of training that were found on a validation part: those
  of `fit` are found seed by seed.
  """
  first: dict[str, Any] = {}
  for result in results:
    for name, value in _settings(result.get("config") or {}):
      found = name == "train.num_epochs" and (result.get("info") or {}).get("selection")
      if name == "train.checkpoint_every" or found:
        continue
      if first.setdefault(name, value) != value:
        return f"{name} {first[name]} and {value}"
  return None


def _settings(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  """("train.num_epochs", 40), …: the leaves that are not None."""
  for name, value in config.items():
    if isinstance(value, Mapping):
      yield from _settings(value, f"{prefix}{name}.")
    elif value is not None:
      yield f"{prefix}{name}", value


def devices_of(result: Mapping[str, Any]) -> list[Any]:
  """What each seed was measured on: its device, "devices" of pooled seeds that differ."""
  return list(result.get("devices") or [result.get("device")] * len(result["seeds"]))


def retrain_auc(rows: Sequence[Row], dataset: str, model: str) -> float | None:
  """Retrain's mean AUC there: its own row's, else the mean of the others' "auc_retrain"; None if unknown."""
  here = [row for row in rows if (row.dataset, row.model) == (dataset, model)]
  own = [v for row in here if row.method == "retrain" for v in row.values.get("completeness.auc", [])]
  named = [v for row in here for v in row.values.get("completeness.auc_retrain", []) if math.isfinite(v)]
  return mean_sd(own or named)[0] if own or named else None


def _of_seeds(row: Row | None, metric: str) -> dict[int, float]:
  """{seed: finite value}; nothing where the values are not one a seed."""
  values = [] if row is None else row.values.get(metric, [])
  if row is None or len(values) != len(row.seeds):
    return {}
  return {seed: value for seed, value in zip(row.seeds, values, strict=True) if math.isfinite(value)}


def _with_distance(row: Row, rows: Sequence[Row]) -> Row:
  auc = row.values.get("completeness.auc", [])
  mean = retrain_auc(rows, row.dataset, row.model)
  if not auc or mean is None or row.method == "retrain" or "completeness.auc_distance" in row.values:
    return row
  place = (row.dataset, row.model, "retrain")
  retrained = next((other for other in rows if (other.dataset, other.model, other.method) == place), None)
  of_seed = _of_seeds(row, "completeness.auc_retrain") | _of_seeds(retrained, "completeness.auc")
  seeds: Sequence[int | None] = row.seeds if len(row.seeds) == len(auc) else [None] * len(auc)
  known = all(seed in of_seed for seed in seeds)  # not one seed against Retrain's and the next against the mean
  against = [of_seed[seed] if known and seed is not None else mean for seed in seeds]
  distance = [abs(a - b) for a, b in zip(auc, against, strict=True)]
  return dataclasses.replace(row, values={**row.values, "completeness.auc_distance": distance})


def _with_ratio(row: Row, retrain: Row | None) -> Row:
  """× faster than the Retrain beside it: what a result says of itself was against a Retrain that may be another one."""
  spent, trained = (_of_seeds(one, "efficiency.unlearn_seconds") for one in (row, retrain))
  if retrain is None or row is retrain or not (spent and trained):
    return row
  on, beside = dict(zip(row.seeds, row.devices, strict=True)), dict(zip(retrain.seeds, retrain.devices, strict=True))
  ratio = [
    trained[seed] / spent[seed] if seed in spent and seed in trained and on[seed] == beside[seed] else math.nan
    for seed in row.seeds
  ]
  return dataclasses.replace(row, values={**row.values, "efficiency.retrain_ratio": ratio})


def label(metric: str) -> str:
  """Column heading of a metric: "utility.ndcg@20" is "NDCG@20"."""
  name = metric.partition(".")[2] or metric
  if name in _LABELS:
    return _LABELS[name]
  if "@" in name:
    return name.upper() if name.startswith(("ndcg", "hr")) else name.capitalize()
  return name.replace("_", " ")


def shown_value(row: Row, metric: str) -> tuple[float, float]:
  """What a table shows: mean and standard deviation over seeds, of compile seconds and peak memory the largest, NaN."""
  mean, sd = row.mean_sd(metric)
  return (max(row.values[metric]), math.nan) if metric in _LARGEST and math.isfinite(mean) else (mean, sd)


def cell_text(row: Row, metric: str) -> str:
  """The same as text: "0.3671 ± 0.0007"; – for what is not known."""
  mean, sd = shown_value(row, metric)
  if not math.isfinite(mean):
    return "–"
  digits = (
    4 if metric.startswith(("utility", "completeness")) else 1 if abs(mean) >= 100 else 2 if abs(mean) >= 1 else 3
  )
  return f"{mean:.{digits}f}" + (f" ± {sd:.{digits}f}" if math.isfinite(sd) else "")


def cells(rows: Sequence[Row], columns: Sequence[str] = DEFAULT_COLUMNS) -> tuple[list[str], list[list[str]]]:
  """Headings and text cells: mean ± standard deviation over seeds, of compile seconds and peak memory the largest.

  Dataset and model are columns only where they differ; columns without a value are left out.
  """
  shown = [column for column in columns if any(row.values.get(column) for row in rows)]
  fields = [name for name in ("dataset", "model") if len({getattr(row, name) for row in rows}) > 1]
  heads = [*fields, "method", *map(label, shown), "seeds"]
  body = []
  for row in rows:
    count = max((len(row.values.get(column, [])) for column in shown), default=0)
    named = [*(getattr(row, name) for name in fields), display(row.method)]
    body.append([*named, *(cell_text(row, column) for column in shown), str(count)])
  return heads, body


def _width(text: str) -> int:
  return sum((2 if unicodedata.east_asian_width(c) in "WF" else 1) for c in text if not unicodedata.combining(c))


def _is_text(column: Sequence[str]) -> bool:
  return not any(cell[:1].isdigit() or cell[:1] == "-" for cell in column)


def text_table(heads: Sequence[str], body: Sequence[Sequence[str]], *, box: bool = True) -> str:
  """Aligned columns, numbers to the right; with a box, or plain with two spaces between columns."""
  columns = list(zip(*body, strict=True)) if body else [()] * len(heads)
  widths = [max(map(_width, (head, *column))) for head, column in zip(heads, columns, strict=True)]

  def line(cells: Sequence[str], separator: str) -> str:
    padded = []
    for cell, width, column in zip(cells, widths, columns, strict=True):
      space = " " * (width - _width(cell))
      padded.append(cell + space if _is_text(column) else space + cell)
    return separator.join(padded)

  if not box:
    return "\n".join(line(cells, "  ").rstrip() for cells in (heads, *body))
  rules = ["─" * (width + 2) for width in widths]
  lines = [f"┌{'┬'.join(rules)}┐", f"│ {line(heads, ' │ ')} │", f"├{'┼'.join(rules)}┤"]
  lines += [f"│ {line(cells, ' │ ')} │" for cells in body]
  return "\n".join([*lines, f"└{'┴'.join(rules)}┘"])


def markdown_table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
  """The same as a Markdown table."""
  columns = list(zip(*body, strict=True)) if body else [()] * len(heads)
  rules = ["---" if _is_text(column) else "---:" for column in columns]
  escaped = [[cell.replace("|", "\\|") for cell in cells] for cells in (heads, *body)]
  return "\n".join("| " + " | ".join(cells) + " |" for cells in (escaped[0], rules, *escaped[1:]))


def show(
  results: Sequence[Mapping[str, Any]], columns: Sequence[str] = DEFAULT_COLUMNS, *, stream: TextIO | None = None
) -> None:
  """Prints the table: in a box on a terminal that can draw it, plain elsewhere."""
  stream = stream or sys.stdout
  heads, body = cells(collect(results), columns)
  can_draw = stream.isatty() and "utf" in (getattr(stream, "encoding", None) or "").lower()
  text = text_table(heads, body, box=can_draw)
  encoding = getattr(stream, "encoding", None) or "utf-8"
  print(text.encode(encoding, "replace").decode(encoding), file=stream)


def write(
  results: Sequence[Mapping[str, Any]], out: Path, columns: Sequence[str] = DEFAULT_COLUMNS, *, title: str = ""
) -> list[Path]:
  """Writes `out`/table.md, index.html and, where matplotlib is installed, plot.png and plot.svg; returns the paths."""
  from experiments import _page

  path = write_text(out / "table.md", markdown_table(*cells(collect(results), columns)) + "\n")
  page = _page.write_page(results, out / "index.html", title=title or "Comparison")
  return [path, page, *plot(results, out / "plot", title=title)]


def plot(
  results: Sequence[Mapping[str, Any]], path: str | Path, *, utility: str = "utility.ndcg@20", title: str = ""
) -> list[Path]:
  """Utility against completeness AUC, a point a method with error bars (one standard deviation), Retrain's AUC marked.

  Args:
    results: as for `collect`; one panel for each (dataset, model).
    path: file name without ending; `.png` and `.svg` are written.
    utility: the metric on the y axis.
    title: above the panels.

  Returns:
    The files written; none, after a line on standard error, where matplotlib is not installed.
  """
  try:
    import matplotlib  # noqa: F401
  except ImportError:
    print("No plot: matplotlib is not installed; pip install 'jaxunlearn[plots]' adds it.", file=sys.stderr)
    return []
  from experiments import _plot

  return _plot.draw(collect(results), Path(path), utility, title)
