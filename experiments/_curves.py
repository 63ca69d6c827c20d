"""Plots of the page from what `audit`, `stream`, `leave_one_out` and `calibrate` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import _names

_POINTS = 120  # of a ROC curve: the page stays small, and no eye tells more apart
_LOWEST = 1e-3  # false positive rate at which a logarithmic axis starts


def of_result(result: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The plots of one result of `audit`, `stream`, `leave_one_out` or `calibrate`.

  Raises:
    ValueError: it is of no such kind.
  """
  if "audit" in result:
    return of_audit(result)
  if "stream" in result:
    return of_stream(result)
  if "leave_one_out" in result:
    return of_leave_one_out(result)
  if "calibration" in result:
    return of_calibration(result)
  raise ValueError("expected a list of plots, or a result of audit, stream, leave_one_out or calibrate")


def thinned(fpr: Sequence[float], tpr: Sequence[float]) -> tuple[list[float], list[float]]:
  """A ROC curve at up to 120 false positive rates, evenly spaced in the logarithm, from 0.001 or one false alarm."""
  x, y = np.asarray(fpr, np.float64), np.asarray(tpr, np.float64)
  lowest = max(_LOWEST, float(x[x > 0].min(initial=1.0)))
  at = np.geomspace(lowest, 1.0, _POINTS)
  # A step function: at a rate in between, the last threshold that keeps it.
  place = np.searchsorted(x, at, side="right") - 1
  return at.tolist(), y[place].tolist()


def of_audit(result: Mapping[str, Any]) -> list[dict[str, Any]]:
  """A ROC plot an attack, both axes logarithmic: what matters of an attack is at few false alarms."""
  where = f"{result['dataset']}, {result['model']}"
  titles = {"threshold": "score threshold", "trained": "trained attack", "lira": "likelihood ratio"}
  found = []
  for attack, title in titles.items():
    series = []
    for method in sorted(result["audit"], key=_names.rank):
      curve = result["audit"][method][attack]["all"]
      if "fpr_curve" in curve:
        x, y = thinned(curve["fpr_curve"], curve["tpr_curve"])
        name = f"{_names.display(method)} ({curve['auc']:.3f})"
        series.append({"name": name, "x": x, "y": [max(value, _LOWEST / 2) for value in y]})
    if series:
      found.append({
        "title": f"{where}: {title}", "heading": "Membership attacks", "series": series,
        "x_label": "false positive rate", "y_label": "true positive rate", "x_scale": "log", "y_scale": "log",
        "note": "AUC in brackets; exact retraining lies on the diagonal.",
      })  # fmt: skip
  return found


def of_stream(result: Mapping[str, Any]) -> list[dict[str, Any]]:
  """NDCG@20 and AUC of the pairs so far by the number of pairs forgotten, Retrain and one request of all beside.

  Where requests are users, also NDCG@20 of those who remain.
  """
  metrics = [("ndcg@20", "NDCG@20"), ("auc", "AUC of the pairs forgotten so far")]
  if result.get("by") == "user":
    metrics.insert(1, ("remaining_ndcg@20", "NDCG@20 of the users who remain"))
  found = []
  for metric, label in metrics:
    lines = {"Retrain": result["retrain"]}
    for method in sorted(result["stream"], key=_names.rank):
      lines[_names.display(method)] = result["stream"][method]["points"]
      lines[f"{_names.display(method)}, at once"] = [result["stream"][method]["joint"]]
    series = [
      {"name": name, "x": [point["pairs"] for point in points], "y": [point[metric] for point in points]}
      for name, points in lines.items()
      if points
    ]
    found.append({
      "title": f"{result['dataset']}, {result['model']}: {label} along a stream of requests", "series": series,
      "heading": "Streams", "x_label": "pairs forgotten", "y_label": label,
    })  # fmt: skip
  return found


def of_leave_one_out(result: Mapping[str, Any]) -> list[dict[str, Any]]:
  """A scatter plot a method: the true change of each left-out pair's score by the predicted one."""
  data, true = result["data"], result["true"]
  found = []
  for method in sorted(result["leave_one_out"], key=_names.rank):
    agreement = result["leave_one_out"][method]
    ends = [min(*true, *agreement["predicted"]), max(*true, *agreement["predicted"])]
    found.append({
      "title": f"{data['name']}, seed {data['seed']}: {_names.display(method)}, pairs left out one at a time",
      "heading": "Leave-one-out retraining",
      "x_label": "predicted change of the pair's score", "y_label": "by retraining without it",
      "series": [
        {"name": "equal", "x": ends, "y": ends},
        {"name": "pairs", "x": agreement["predicted"], "y": true, "joined": False},
      ],
      "note": f"Pearson's correlation {agreement['pearson']:.3f}, Spearman's {agreement['spearman']:.3f}.",
    })  # fmt: skip
  return found


def of_calibration(result: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Mean AUC against held-out pairs of each method's settings, in the order in which they were tried."""
  methods: dict[str, list[tuple[str, float]]] = {}
  for label, one in result["calibration"].items():
    method, _, setting = label.partition("[")
    if method != "retrain":
      methods.setdefault(method, []).append((setting.rstrip("]") or "default", one["mean"]))
  last = max(map(len, methods.values()))
  lines = {"before": float(np.mean(result["before"])), "exact": 0.5}
  if "retrain" in result["calibration"]:
    lines["Retrain"] = result["calibration"]["retrain"]["mean"]
  series = [
    {"name": _names.display(method), "x": list(range(1, len(tried) + 1)), "y": [value for _, value in tried]}
    for method, tried in methods.items()
  ]
  series += [{"name": name, "x": [1, max(2, last)], "y": [value, value]} for name, value in lines.items()]
  said = ". ".join(f"{_names.display(m)}: {_settings([name for name, _ in tried])}" for m, tried in methods.items())
  epochs, trials = result["config"]["train"]["num_epochs"], len(result["before"])
  where = f"{result['dataset']}, {result['model']}, {epochs} epochs"
  if len(methods) == 1:
    where += f", {_names.display(next(iter(methods)))}"
  return [{
    "title": f"{where}: forgotten against held-out pairs, {trials} trials",
    "heading": "Calibration without a retrained model", "series": series,
    "x_label": "setting, in the order below", "y_label": "AUC",
    "note": f"Nearest to 0.5: {_names.display(result['best'])}. Standard error {result['standard_error']:.4f}. {said}.",
  }]  # fmt: skip


def _settings(names: Sequence[str]) -> str:
  """The settings of a method, each with what it does not share with the one before: "a=1, b=2; a=2; a=2, b=3"."""
  said, before = [], ""
  for name in names:
    first, _, rest = name.partition("+")
    said.append((first if rest == before else name).replace("+", ", "))
    before = rest
  return "; ".join(said)
