"""Plots of the page from results of audits, streams and leave-one-out."""

import numpy as np
import pytest

from experiments import _curves, _page_lines

FPR, TPR = [0.0, 0.0, 0.01, 0.2, 1.0], [0.0, 0.1, 0.3, 0.9, 1.0]
AUDIT = {
  "dataset": "toy", "model": "bprmf",
  "audit": {
    method: {attack: {"all": {"fpr_curve": FPR, "tpr_curve": TPR, "auc": auc}} for attack in ("threshold", "lira")}
    | {"trained": {"all": {"auc": auc}}}
    for method, auc in (("retrain", 0.5), ("original", 0.9))
  },
}  # fmt: skip
POINTS = [{"pairs": 10, "ndcg@20": 0.4, "auc": 0.5}, {"pairs": 20, "ndcg@20": 0.39, "auc": 0.6}]
STREAM = {
  "dataset": "toy", "model": "wmf", "retrain": POINTS[1:],
  "stream": {"rownewton": {"points": POINTS, "joint": POINTS[1]}}
}  # fmt: skip


def test_a_roc_curve_keeps_its_steps():
  x, y = _curves.thinned(FPR, TPR)
  assert x[0] == pytest.approx(0.01) and x[-1] == pytest.approx(1.0) and len(x) == len(y) <= 120
  for rate, value in zip(x, y, strict=True):
    wanted = max(t for f, t in zip(FPR, TPR, strict=True) if f <= rate * (1 + 1e-12))
    assert value == wanted
  assert y[0] == 0.3 and y == sorted(y)


def test_an_audit_has_a_plot_an_attack_and_a_line_a_method():
  plots = _curves.of_result(AUDIT)
  assert [plot["title"] for plot in plots] == ["toy, bprmf: score threshold", "toy, bprmf: likelihood ratio"]
  assert [line["name"] for line in plots[0]["series"]] == ["Original (0.900)", "Retrain (0.500)"]
  assert plots[0]["x_scale"] == plots[0]["y_scale"] == "log" and min(plots[0]["series"][0]["y"]) > 0
  assert _page_lines.check(plots)


def test_a_stream_has_retrain_and_one_request_of_all_beside_it():
  plots = _curves.of_result(STREAM)
  assert [line["name"] for line in plots[1]["series"]] == ["Retrain", "RowNewton (ours)", "RowNewton (ours), at once"]
  assert plots[1]["series"][1]["x"] == [10, 20] and plots[1]["series"][1]["y"] == [0.5, 0.6]
  assert plots[0]["series"][0]["y"] == [0.39] and np.all([line["x"][-1] == 20 for line in plots[0]["series"]])
  assert _page_lines.check(plots)


def test_a_stream_of_users_has_a_plot_of_those_who_remain():
  points = [{**point, "remaining_ndcg@20": 0.1} for point in POINTS]
  stream = {"rownewton": {"points": points, "joint": points[1]}}
  plots = _curves.of_result({**STREAM, "by": "user", "retrain": points[1:], "stream": stream})
  wanted = ["NDCG@20", "NDCG@20 of the users who remain", "AUC of the pairs forgotten so far"]
  assert [plot["y_label"] for plot in plots] == wanted
  assert plots[1]["series"][1]["y"] == [0.1, 0.1] and _page_lines.check(plots)


def test_leaving_out_has_a_scatter_a_method_with_the_line_of_equality():
  agreement = {"pearson": 0.9, "spearman": 0.8, "slope": 1.0, "predicted": [-1.0, -3.0, 0.5]}
  result = {"leave_one_out": {"ifru": agreement, "rownewton": agreement}, "true": [-2.0, -2.5, 1.0]}
  plots = _curves.of_result({**result, "data": {"name": "toy", "seed": 3}})
  assert [plot["title"].split(", pairs")[0] for plot in plots] == ["toy, seed 3: IFRU", "toy, seed 3: RowNewton (ours)"]
  line, points = plots[0]["series"]
  assert line["x"] == line["y"] == [-3.0, 1.0] and "0.900" in plots[0]["note"]
  assert (points["x"], points["y"], points["joined"]) == (agreement["predicted"], result["true"], False)
  drawing = _page_lines.draw(_page_lines.check(plots)[0]).svg
  # Two ends and three pairs; one line in the plot, and one in front of each of two names.
  assert drawing.count("<circle") == 5 and drawing.count('class="line"') == 3


def test_other_results_are_refused():
  with pytest.raises(ValueError, match="audit, stream, leave_one_out or calibrate"):
    _curves.of_result({"method": "ifru"})
