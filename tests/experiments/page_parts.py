"""Results, curves and a parser for the tests of the page."""

import html.parser
import math
from pathlib import Path

from experiments import _page

ROOT = Path(__file__).parents[2]
VOID = {"meta", "link", "br", "hr", "img", "input"}
HOSTILE = """</script><img src=x onerror=alert(1)>"'&"""


def result(method, ndcg, auc=None, seconds=2.0, seeds=None, **changes):
  """A result with a list of values a metric; `seconds` and `auc` may be None."""
  seeds = list(range(len(ndcg))) if seeds is None else seeds
  base = {
    "method": method, "model": "bprmf", "dataset": "toy", "seeds": seeds, "data_hash": "d" * 64,
    "forget_hash": "f" * 64,
    "utility": {"ndcg@20": {"values": list(ndcg)}, "recall@20": {"values": [v and v / 2 for v in ndcg]}},
    "completeness": {} if auc is None else {"auc": {"values": list(auc)}},
    "efficiency": {"fit_seconds" if method == "original" else "unlearn_seconds": seconds, "compile_seconds": 1.5},
    "versions": {"python": "3.11", "jax": "0.10.2"}, "date": "2026-11-20T10:00:00+00:00",
    "device": {"platform": "cpu", "kind": "cpu", "count": 1, "cpu_model": "Slow CPU", "cores": 2},
    "command": f"python -m experiments.compare --methods={method}",
  }  # fmt: skip
  return {**base, **changes}


RESULTS = [
  result("lightul[preserve]", (0.34, 0.36), (0.55, 0.60), 3.0),
  result("retrain", (0.35, 0.37), (0.58, 0.60), 12.0),
  result("original", (0.36, 0.38), (0.50, 0.51), 48.0),
  result("ifru", (0.05,), (0.80,), None),
]
CURVES = [
  {
    "title": "Shards", "x_label": "K", "y_label": "Recall@20", "x_scale": "log", "heading": "Ablations",
    "series": [
      {"name": "RecEraser", "x": [5, 10, 20, 40], "y": [0.4, 0.3, None, 0.2], "sd": [0.01, None, 0.01, 0.02]},
      {"name": "SISA", "x": [5, 10, 20, 40], "y": [0.3, 0.2, 0.1, 0.05]},
      {"name": "Nothing", "x": [5], "y": [math.nan]},
    ],
  },
  {
    "title": "Partitions", "x_label": "partition", "y_label": "Recall@20", "heading": "Ablations",
    "note": "Said < below.",
    "series": [{"name": n, "x": ["Random", "InBP"], "y": [0.2, 0.3 + k / 9]} for k, n in enumerate("ab")],
  },
]  # fmt: skip


class Parsed(html.parser.HTMLParser):
  """Elements with their attributes and text; unbalanced tags fail."""

  def __init__(self, text):
    super().__init__()
    self.open, self.elements, self.texts = [], [], []
    self.feed(text)
    self.close()
    assert not self.open, f"never closed: {self.open}"

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs), len(self.texts)))
    assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.elements.append((tag, dict(attrs), len(self.texts)))

  def handle_endtag(self, tag):
    assert self.open and self.open[-1] == tag, f"</{tag}> in {self.open}"
    self.open.pop()

  def handle_data(self, data):
    self.texts.append(data)

  def all(self, tag, **attributes):
    """Attributes of the elements with this name and these attributes."""
    wanted = {key.strip("_"): value for key, value in attributes.items()}
    return [attrs for name, attrs, _ in self.elements if name == tag and wanted.items() <= attrs.items()]

  def cells(self):
    """Rows of the first table: (sort key, text) a cell."""
    rows, table = [], False
    for index, (name, attrs, start) in enumerate(self.elements):
      if name == "table":
        if table:
          break
        table = True
      if name == "tr" and table:
        rows.append([])
      if name in ("td", "th") and table:
        after = (
          element for element in self.elements[index + 1 :] if element[0] in ("td", "th", "tr", "tbody", "details")
        )
        rows[-1].append((attrs.get("data-key"), "".join(self.texts[start : next(after)[2]])))
    return rows


def parsed(results=RESULTS, **options):
  return Parsed(_page.page(results, title=options.pop("title", "Toy"), **options))
