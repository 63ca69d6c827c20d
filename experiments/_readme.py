"""The README's table of results, made from what is kept in experiments/results and from nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import _names, _report, _reproductions, _results
from experiments._tables import CLOSE

KEPT = Path(__file__).parent / "results"
FIRST, LAST = "<!-- results: made by experiments.report --readme -->", "<!-- end of results -->"

_FORGET = "b554f0c3"  # LightUL's 1 % of the interactions of ml-1m
_ROUNDS = {  # what `calibrate` finds
  "bprmf": f"rownewton[num_rounds=4+scope=all+{CLOSE}]",
  "lightgcn": f"rownewton[num_rounds=14+scope=all+{CLOSE}]",
}
_MODELS = {"bprmf": "BPRMF", "lightgcn": "LightGCN"}
_COLUMNS = {"utility.ndcg@20": "NDCG@20", "completeness.auc": "AUC"}


def table(kept: Path = KEPT) -> str:
  """A Markdown table: 1 % of the interactions of ml-1m forgotten, a row a method.

  In bold what lies in the noise floor of Retrain (`_reproductions.verdict`), for the attack within its interval of 0.5.

  Args:
    kept: a folder as experiments/results.

  Raises:
    OSError: a result that the table is made of is not there.
  """
  heads = ["what is served"]
  body: dict[str, list[str]] = {}
  for model, shown in _MODELS.items():
    folders = [
      kept / "influence" / _FORGET / "ml-1m" / model,
      kept / "rounds" / _FORGET / "ml-1m" / model / _ROUNDS[model],
    ]
    rows = {row.method: row for row in _report.collect(_results.load_results(folders))}
    audit = _audit(kept, model)
    heads += [*(f"{shown}: {name}" for name in _COLUMNS.values()), "attack"]
    for method in sorted(rows, key=_names.rank):
      name = _display(method)
      cells = [_metric(rows[method], rows["retrain"], metric) for metric in _COLUMNS]
      body.setdefault(name, [name]).extend([*cells, _attack(audit.get(method.replace("[preserve]", "")))])
  return _report.markdown_table(heads, list(body.values()))


def _audit(kept: Path, model: str) -> dict[str, Any]:
  """The attacks on a base model, and those of the file of later methods that were asked the same question."""
  paths = [kept / f"audit-ml-1m-{model}.json", *kept.glob(f"audit-ml-1m-{model}-more.json")]
  return {name: value for path in paths for name, value in json.loads(path.read_text("utf-8"))["audit"].items()}


def insert(text: str, made: str) -> str:
  """The README with the table between its two marks.

  Raises:
    ValueError: the marks are not there.
  """
  if text.count(FIRST) != 1 or text.count(LAST) != 1:
    raise ValueError(f"Expected a file with one line {FIRST!r} and one {LAST!r}.")
  return re.sub(
    f"{re.escape(FIRST)}.*{re.escape(LAST)}", lambda _: f"{FIRST}\n\n{made}\n\n{LAST}", text, flags=re.DOTALL
  )


def _display(method: str) -> str:
  return f"{_names.NAMES['rownewton']}, rounds over all rows" if method in _ROUNDS.values() else _names.display(method)


def _metric(row: _report.Row, retrain: _report.Row, metric: str) -> str:
  text = _report.cell_text(row, metric)
  return f"**{text}**" if _reproductions.verdict(row, retrain, metric) == "inside" else text


def _attack(found: Mapping[str, Any] | None) -> str:
  if found is None:
    return "–"
  result = found["lira"]["all"]
  low, high = result["auc_interval"]
  text = f"{result['auc']:.3f}"
  return f"**{text}**" if low <= 0.5 <= high else text
