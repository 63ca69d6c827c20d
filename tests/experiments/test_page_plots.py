"""The plots of the page: where marks are, what they are called, and what is refused."""

import re

import numpy as np
import pytest

from experiments import _page_lines, _page_plots, _page_svg, _report
from tests.experiments.page_parts import CURVES, RESULTS, ROOT, Parsed, result


def figures(results, **options):
  rows = _report.collect(results)
  methods = {row.method: -1 if row.method == "retrain" else index for index, row in enumerate(rows)}
  return _page_plots.pareto(rows, methods, **options)


def circles(figure):
  return {attrs["class"]: [float(attrs[key]) for key in ("cx", "cy", "r")] for attrs in _marks(figure)}


def _marks(figure):
  page, found, group = Parsed(figure.svg), [], ""
  for name, attrs, _ in page.elements:
    group = attrs["class"] if name == "g" else group
    if name == "circle":
      found.append({**attrs, "class": group})
  return found


def test_the_plot_places_methods_by_distance_utility_and_cost():
  whole, near = figures(RESULTS)
  marks = circles(whole)
  original, retrain, ifru, lightul = marks["c0"], marks["ref"], marks["c2"], marks["c3"]
  assert retrain[0] < lightul[0] < original[0] < ifru[0]  # |AUC − Retrain's AUC|: 0, 0.015, 0.085, 0.22
  assert original[1] < retrain[1] < lightul[1] < ifru[1]  # NDCG@20, downwards on the screen
  assert (lightul[0] - retrain[0]) / (original[0] - retrain[0]) == pytest.approx(0.015 / 0.085, abs=0.01)
  assert (original[2] / retrain[2]) ** 2 == pytest.approx(48 / 12, rel=0.05)  # area is seconds
  assert circles(near).keys() == {"c0", "ref", "c3"} and "Near Retrain" in near.caption
  page = Parsed(whole.svg)
  for name in ("Original · 48.0 s", "Retrain · 12.0 s", "IFRU", "LightUL · 3.00 s"):
    assert name in page.texts and name in page.all("svg")[0]["aria-label"]
  assert "|AUC − Retrain's AUC|, less is better" in page.texts and "NDCG@20, more is better" in page.texts
  assert len(page.all("rect", class_="band")) == 2 and len(page.all("path", class_="reference")) == 1
  band = page.all("rect", class_="band")[0]
  assert float(band["y"]) + float(band["height"]) / 2 == pytest.approx(retrain[1], abs=0.2)
  of_auc = page.all("rect", class_="band")[1]  # from 0 to the sd of Retrain's AUC
  assert float(of_auc["x"]) == pytest.approx(retrain[0], abs=0.1)
  assert float(of_auc["width"]) == pytest.approx((original[0] - retrain[0]) * 0.02 / 2**0.5 / 0.085, abs=0.2)
  assert len(page.all("path", class_="error")) == 2 + 1 + 2  # Retrain's distance has no spread, IFRU has one seed
  ticks = [float(text) for text in _ticks(page)]
  assert ticks == [0.1, 0.2, 0.3, 0.4, 0.0, 0.1, 0.2]  # up, then across: none left of 0


def _ticks(page):
  return [page.texts[start] for name, attrs, start in page.elements if name == "text" and attrs.get("class") == "tick"]


def test_the_plot_without_a_completeness_set_and_of_one_seed():
  (figure,) = figures([result("retrain", (0.35,), None, 100.0), result("original", (0.36,), None, 1.0)])
  assert "seconds, log scale, less is better" in Parsed(figure.svg).texts
  marks = circles(figure)
  assert marks["c0"][0] < marks["ref"][0] and 'class="band"' not in figure.svg and "of one seed" in figure.caption
  missing = figures([*RESULTS[:3], result("ifru", (0.3,), None)])[0]
  assert "Not drawn, a value is missing: IFRU." in missing.caption and "IFRU" not in missing.svg
  assert figures(RESULTS[:1]) == [] and figures([]) == []
  assert figures([result("retrain", (None,)), result("ifru", (None,))]) == []


def test_names_in_the_plot_do_not_cover_each_other():
  rng = np.random.default_rng(0)
  results = [result("retrain", (0.35, 0.36), (0.58, 0.6), 50.0)]
  for index in range(17):
    spot = 0.35 + rng.normal(0, 0.002, 2), 0.59 + rng.normal(0, 0.003, 2)
    results.append(result(f"method-{index}[variant]", *spot, float(rng.uniform(0.1, 90))))
  (figure,) = figures(results)
  page = Parsed(figure.svg)
  boxes = []
  for name, attrs, start in page.elements:
    if name == "text" and attrs.get("class") == "label":
      width = _page_plots.text_width(page.texts[start])
      left = float(attrs["x"]) - (width if attrs["text-anchor"] == "end" else 0)
      boxes.append((left, float(attrs["y"]) - 11, left + width, float(attrs["y"]) + 2))
  assert len(boxes) == 18
  assert all(0 <= box[0] and box[2] <= _page_plots.WIDTH for box in boxes)
  for index, box in enumerate(boxes):
    assert not any(_overlap(box, other) for other in boxes[:index])


def _overlap(a, b):
  return min(a[2], b[2]) - max(a[0], b[0]) > 0.2 and min(a[3], b[3]) - max(a[1], b[1]) > 0.2


def test_values_by_method():
  rows = _report.collect(RESULTS)
  colours = {row.method: index for index, row in enumerate(rows)}
  auc = _page_plots.by_method(rows, "completeness.auc", "AUC", "", colours)
  page = Parsed(auc.svg)
  assert {"Original · 0.5050", "Retrain · 0.5900", "IFRU · 0.8000", "LightUL · 0.5750"} <= set(page.texts)
  assert len(page.all("rect", class_="band")) == 1
  seconds = Parsed(_page_plots.by_method(rows, "efficiency.seconds", "seconds", "", colours).svg)
  widths = [float(attrs["width"]) for attrs in seconds.all("rect", class_="bar")]
  assert widths[0] / widths[1] == pytest.approx(4, rel=0.01) and len(widths) == 3  # from 0: lengths are seconds
  wide = _report.collect([*RESULTS[:2], result("original", (0.3,), None, 9000.0)])
  far = Parsed(_page_plots.by_method(wide, "efficiency.seconds", "seconds", "", colours).svg)
  assert "seconds, log scale" in far.texts and not far.all("rect", class_="bar")
  assert _page_plots.by_method(rows[:1], "completeness.auc", "AUC", "", colours) is None


def test_curves_show_every_series():
  shards, partitions = (_page_lines.draw(curve) for curve in _page_lines.check(CURVES))
  page = Parsed(shards.svg)
  assert {"RecEraser", "SISA", "5", "10", "20", "40", "K, log scale", "Recall@20"} <= set(page.texts)
  lines = [attrs["d"] for attrs in page.all("path", class_="line")]
  assert len(lines) == 3  # a gap makes two pieces
  x = [float(point.split()[0]) for point in re.findall(r"[ML]([\d. ]+)", lines[2])]
  assert np.allclose(np.diff(x), (x[-1] - x[0]) / 3, atol=0.2)  # 5, 10, 20, 40 are equally far on a log scale
  assert len(page.all("path", class_="error")) == 2
  assert "Without a value to draw: Nothing." in shards.caption
  page = Parsed(partitions.svg)
  assert {"Random", "InBP", "a", "b"} <= set(page.texts) and not page.all("path", class_="line")
  assert len(page.all("circle")) == 4 and partitions.caption == "Said < below."


def test_curves_that_end_in_one_point_are_named_where_they_are_apart():
  x = np.linspace(0, 1, 500)
  series = [{"name": f"power {p}", "x": x, "y": x**p, "sd": 0.02 + 0 * x} for p in (1, 0.5, 0.2, 0.05)]
  (curve,) = _page_lines.check([{"title": "ROC", "x_label": "FPR", "y_label": "TPR", "series": series}])
  page = Parsed(_page_lines.draw(curve).svg)
  assert len(page.all("path", class_="spread")) == 4
  labels = [attrs for attrs in page.all("text") if attrs.get("class") == "label"]
  assert len(labels) == 4 and max(float(attrs["x"]) for attrs in labels) < 330
  heights = sorted(float(attrs["y"]) for attrs in labels)
  assert len(labels) == len({(attrs["x"], attrs["y"]) for attrs in labels}) and heights[0] < heights[-1]
  nothing = {"title": "None", "x_label": "", "y_label": "", "series": []}
  assert "<svg" in _page_lines.draw(_page_lines.check([nothing])[0]).svg


@pytest.mark.parametrize(
  "change, words",
  [
    ({"series": None}, "series of curves[0] ('Shards') to be a list"),
    ({"series": [{"name": "a", "x": [1]}]}, "name, x and y"),
    ({"series": [{"name": "a", "x": [1], "y": [1, 2]}]}, "lists of one length in series 'a'"),
    ({"series": [{"name": "a", "x": [1], "y": ["2"]}]}, "numbers or null in series 'a'"),
    ({"series": [{"name": "a", "x": [1, "b"], "y": [1, 2]}]}, "numbers only or texts only"),
    ({"series": [{"name": "a", "x": [1], "y": [1], "joined": "no"}]}, "joined of series 'a'"),
    ({"y_scale": "cubic"}, "y_scale of curves[0] ('Shards') to be linear or log, got 'cubic'"),
    ({"x_lable": "K"}, "Unknown in curves[0] ('Shards'): x_lable"),
  ],
)
def test_wrong_curves_are_refused(change, words):
  with pytest.raises(ValueError, match=re.escape(words)):
    _page_lines.check([{**CURVES[0], **change}])
  with pytest.raises(ValueError, match="title, x_label, y_label, series"):
    _page_lines.check([{"title": "a"}])


def test_the_colours_can_be_told_apart():
  style = (ROOT / "experiments" / "page" / "style.css").read_text()
  linear = np.vectorize(lambda v: v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4)

  def rgb(code):
    return linear(np.array([int(code[at : at + 2], 16) / 255 for at in (1, 3, 5)]))

  to_cone = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]])
  to_lab = np.array([[0.2105, 0.7936, -0.0041], [1.978, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]])
  seen = {  # Machado, Oliveira and Fernandes 2009, severity 1
    "all": np.eye(3),
    "protan": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "deutan": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
  }
  schemes = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
  assert len(schemes) == 2
  for scheme in schemes:
    colours = dict(re.findall(r"--(\w+): (#\w{6});", scheme))
    luminance = {name: rgb(code) @ (0.2126, 0.7152, 0.0722) + 0.05 for name, code in colours.items()}
    for name in ("ink", "muted", "link", *(f"s{k}" for k in range(_page_plots.NUM_COLOURS))):
      contrast = max(luminance[name] / luminance["back"], luminance["back"] / luminance[name])
      assert contrast >= (3 if name[0] == "s" else 4.5), (name, contrast)
    for eyes, matrix in seen.items():
      lab = [
        to_lab @ np.cbrt(to_cone @ np.clip(matrix @ rgb(colours[f"s{k}"]), 0, 1))
        for k in range(_page_plots.NUM_COLOURS)
      ]
      nearest = min(np.linalg.norm(a - b) for index, a in enumerate(lab) for b in lab[:index])
      assert nearest > 0.12, (eyes, nearest)


@pytest.mark.parametrize(
  "low, high", [(0.0, 1.0), (0.36412, 0.36871), (-3.0, 7e6), (1e-9, 3e-9), (2.0, 2.0), (0.0, 3e8)]
)
def test_linear_ticks_are_round_and_inside(low, high):
  made = _page_svg.axis([low, high, float("nan")], 10, 300)
  ticks = made.ticks()
  values = [value for value, _ in ticks]
  assert 3 <= len(ticks) <= 9 and made.low <= min(values) and max(values) <= made.high
  assert len({name for _, name in ticks}) == len(ticks)
  for value, name in ticks:
    assert float(name.replace(",", "")) == pytest.approx(value, rel=1e-3, abs=1e-12)
  assert np.allclose(np.diff(values), values[1] - values[0])
  assert 10 <= made.at(low) <= made.at(high) <= 300


@pytest.mark.parametrize(
  "values, names",
  [
    ((1, 1000), ["1", "10", "100", "1,000"]),
    ((5, 40), ["5", "10", "20"]),
    ((0.001, 1), ["0.001", "0.01", "0.1", "1"]),
    ((3, 4), ["3.0", "3.5", "4.0"]),
    ((1e-12, 1e12), ["10⁻¹²", "10⁻⁸", "0.0001", "1", "10,000", "10⁸", "10¹²"]),
  ],
)
def test_log_ticks(values, names):
  made = _page_svg.axis([*values, 0.0, -1.0], 10, 300, log=True, margin=0.02)
  assert [name for _, name in made.ticks()] == names
  middle = (values[0] * values[1]) ** 0.5
  assert made.at(middle) == pytest.approx(155)


def test_names_beside_lines_are_apart_in_order_and_near():
  wanted = [50.0, 52.0, 51.0, 90.0]
  found = _page_svg.spread(wanted, 14, 40, 120)
  assert found == [50.0, 78.0, 64.0, 92.0]
  low = _page_svg.spread([119.0, 120.0], 14, 40, 120)
  assert low == [106.0, 120.0] and _page_svg.spread([], 14, 0, 1) == []
  assert _page_svg.spread([5.0] * 5, 14, 0, 8) == [0.0, 2.0, 4.0, 6.0, 8.0]  # no room: less than asked for
