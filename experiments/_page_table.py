"""The table of a section and, below it, the runs its numbers come from, as HTML text."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments._names import display
from experiments._report import Row, cell_text, label, shown_value

MISSING = "–"
_UTILITY = tuple(f"utility.{name}@{k}" for name in ("ndcg", "recall") for k in (10, 20, 50))
_AUC = ("completeness.auc", "completeness.auc_distance")
_COST = ("efficiency.seconds", "efficiency.compile_seconds", "efficiency.retrain_ratio")
_HELP = {
  "completeness.auc_distance": "Distance to the AUC of Retrain, seed by seed",
  "completeness.outside@20": "Share of the forgotten items out of their users' top 20; the target is Retrain's",
  "completeness.outside@50": "Share of the forgotten items out of their users' top 50; the target is Retrain's",
  "completeness.rank_shift": "Mean places that forgotten items went down; the target is Retrain's",
  "completeness.spearman": "To Retrain, mean over users; of Retrain itself to another seed: the noise floor",
  "completeness.score_mae": "Mean difference of scores to Retrain; of Retrain itself to another seed",
  "completeness.score_mae_sd": "The same in standard deviations of the scores",
  "completeness.overlap@20": "Of top-20 lists with Retrain's; of Retrain itself with another seed's",
  "completeness.overlap@50": "Of top-50 lists with Retrain's; of Retrain itself with another seed's",
  "efficiency.seconds": "Seconds of the request without compilation; of Original, of its fit",
  "efficiency.compile_seconds": "Compilation; the largest over seeds, for only the first seed compiles",
  "efficiency.retrain_ratio": "Seconds of Retrain by those of this method",
}


def escape(value: Any) -> str:
  """Text for HTML; – for None, NaN and nothing."""
  if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
    return MISSING
  return html.escape(str(value))


def columns_of(rows: Sequence[Row]) -> list[str]:
  """The columns that have a value: utility, AUC, whatever other completeness there is, cost."""
  known = {name for row in rows for name, values in row.values.items() if any(map(math.isfinite, values))}
  others = sorted(
    name for name in known if name.startswith("completeness.") and name not in (*_AUC, "completeness.auc_retrain")
  )
  return [name for name in (*_UTILITY, *_AUC, *others, *_COST) if name in known]


def seeds_text(seeds: Sequence[int]) -> str:
  """The number of seeds, and which they are: "5 (0–4)"."""
  ordered = sorted(seeds)
  if not ordered:
    return MISSING
  spans: list[list[int]] = []
  for seed in ordered:
    if spans and seed == spans[-1][1] + 1:
      spans[-1][1] = seed
    else:
      spans.append([seed, seed])
  return f"{len(ordered)} ({', '.join(str(a) if a == b else f'{a}–{b}' for a, b in spans)})"


@dataclasses.dataclass
class Run:
  """Results that one command made on one machine."""

  command: str
  device: str
  versions: str
  data_hash: str
  forget_hash: str
  dates: list[str] = dataclasses.field(default_factory=list)
  cells: dict[str, list[int]] = dataclasses.field(default_factory=dict)  # method: seeds


def _device_text(device: Any) -> str:
  if not isinstance(device, Mapping):
    return str(device or "")
  kind, count, cores = device.get("kind"), device.get("count"), device.get("cores")
  first = str(device.get("platform") or "") + (f" ({kind})" if kind and kind != device.get("platform") else "")
  parts = [first + (f" × {count}" if count is not None else ""), str(device.get("cpu_model") or "")]
  parts.append(f"{cores} CPU core{'' if cores == 1 else 's'}" if cores is not None else "")
  return ", ".join(part for part in parts if part)


def _versions_text(versions: Any) -> str:
  if not isinstance(versions, Mapping):
    return str(versions or "")
  return ", ".join(f"{name} {version}" for name, version in versions.items())


def runs_of(results: Sequence[Mapping[str, Any]]) -> list[Run]:
  """Results gathered by command, device, versions, data and forget set, in order of appearance."""
  runs: dict[tuple[str, ...], Run] = {}
  for result in results:
    key = (
      str(result.get("command") or ""),
      _device_text(result.get("device")),
      _versions_text(result.get("versions")),
      str(result.get("data_hash") or ""),
      str(result.get("forget_hash") or ""),
    )
    run = runs.setdefault(key, Run(*key))
    if result.get("date"):
      run.dates.append(str(result["date"]))
    run.cells.setdefault(str(result["method"]), []).extend(result["seeds"])
  return list(runs.values())


def table(rows: Sequence[Row], runs: Sequence[Run], anchor: str, name: str) -> str:
  """The table; each cell carries what it sorts by in `data-key`, columns say in `data-kind` what that is."""
  columns = columns_of(rows)
  heads = [_head("method", "text"), _head("seeds", "number")]
  heads += [_head(label(column), "number", _HELP.get(column)) for column in columns]
  heads.append(_head("runs", "number", "Commands and versions, below the table"))
  body = []
  for row in rows:
    cells = [f'<th scope="row" data-key="{html.escape(display(row.method))}">{escape(display(row.method))}</th>']
    cells.append(f'<td data-key="{len(row.seeds)}">{escape(seeds_text(row.seeds))}</td>')
    cells += [_cell(row, column) for column in columns]
    of_row = [index for index, run in enumerate(runs, 1) if row.method in run.cells]
    links = ", ".join(f'<a href="#{anchor}-run{index}">{index}</a>' for index in of_row) or MISSING
    cells.append(f'<td data-key="{of_row[0] if of_row else ""}">{links}</td>')
    body.append(f"<tr>{''.join(cells)}</tr>")
  caption = f'<caption>{escape(name)}: mean <span class="sd">± sd</span> over seeds</caption>'
  inner = f"{caption}<thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(body)}</tbody>"
  region = f'class="scroll" role="region" aria-label="Table: {html.escape(name)}" tabindex="0"'
  return f'<div {region}><table class="sortable">{inner}</table></div>'


def _head(name: str, kind: str, title: str | None = None) -> str:
  hint = f' title="{html.escape(title)}"' if title else ""
  return f'<th scope="col" data-kind="{kind}"{hint}>{escape(name)}</th>'


def _cell(row: Row, column: str) -> str:
  value, _ = shown_value(row, column)
  if not math.isfinite(value):
    return f'<td data-key="">{MISSING}</td>'
  mean, _, sd = cell_text(row, column).partition(" ± ")
  spread = f' <span class="sd">± {escape(sd)}</span>' if sd else ""
  return f'<td data-key="{value!r}">{escape(mean)}{spread}</td>'


def _dates(run: Run) -> str:
  first, last = (min(run.dates), max(run.dates)) if run.dates else ("", "")
  return first if first == last else f"{first} to {last}"


def runs_list(runs: Sequence[Run], anchor: str) -> str:
  """What each run was: command, cells, device, versions, dates, hashes; folded, a link to a run opens it."""
  items = []
  for index, run in enumerate(runs, 1):
    made = "; ".join(f"{display(method)}, seeds {seeds_text(seeds)}" for method, seeds in run.cells.items())
    fields = (
      ("cells", made),
      ("device", run.device),
      ("versions", run.versions),
      ("date", _dates(run)),
      ("data hash", run.data_hash),
      ("forget hash", run.forget_hash),
    )
    listed = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in fields)
    items.append(f'<li id="{anchor}-run{index}"><pre><code>{escape(run.command)}</code></pre><dl>{listed}</dl></li>')
  count = f"{len(runs)} run{'' if len(runs) == 1 else 's'}"
  summary = f"How to make these numbers again: {count}, with command, device, versions, date and hashes"
  return f'<details class="runs"><summary>{summary}</summary><ol>{"".join(items)}</ol></details>'
