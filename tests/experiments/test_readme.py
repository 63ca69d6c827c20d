"""The README's table: made from the results that are kept, and not otherwise."""

import json
from pathlib import Path

import pytest

from experiments import _readme

README = Path(__file__).parents[2] / "README.md"


def rows(text):
  lines = text.split(_readme.FIRST)[1].split(_readme.LAST)[0].strip().splitlines()
  cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
  return cells[0], {row[0]: row[1:] for row in cells[2:]}


def test_the_readme_says_what_is_kept():
  text = README.read_text("utf-8")
  assert _readme.insert(text, _readme.table()) == text, "python -m experiments.report --readme=README.md"
  heads, body = rows(text)
  assert [head.split(": ")[-1] for head in heads[1:]] == ["NDCG@20", "AUC", "attack"] * 2
  # Two cells by hand, from the files.
  kept = _readme.KEPT / "influence" / "b554f0c3" / "ml-1m"
  ndcg, auc = (
    json.loads((kept / model / "ifru" / "result.json").read_text("utf-8"))[part][name]["values"]
    for model, part, name in (("bprmf", "utility", "ndcg@20"), ("lightgcn", "completeness", "auc"))
  )
  assert f"{sum(ndcg) / len(ndcg):.4f} ±" in body["IFRU"][0] and f"{sum(auc) / len(auc):.4f} ±" in body["IFRU"][4]
  audit = json.loads((_readme.KEPT / "audit-ml-1m-bprmf.json").read_text("utf-8"))["audit"]
  assert body["IFRU"][2] == f"{audit['ifru']['lira']['all']['auc']:.3f}"
  assert body["Retrain"][2] == f"**{audit['retrain']['lira']['all']['auc']:.3f}**"
  assert body["LightUL-WM"][2] == f"{audit['lightul-wm']['lira']['all']['auc']:.3f}" and body["LASER"][2] == "–"
  more = json.loads((_readme.KEPT / "audit-ml-1m-lightgcn-more.json").read_text("utf-8"))["audit"]
  assert body["LASER"][5] == f"**{more['laser']['lira']['all']['auc']:.3f}**"


def test_bold_is_what_lies_in_the_noise_of_retraining():
  _, body = rows(README.read_text("utf-8"))
  (want, spread), values = (map(float, body["Retrain"][1].split(" ± ")), body)
  for name, row in values.items():
    if name not in ("Original", "Retrain"):
      distance = abs(float(row[1].strip("*").split(" ± ")[0]) - want)
      width = 2.776 * spread * (1 / (2 if name.startswith(("SISA", "RecEraser", "LASER")) else 5) + 1 / 5) ** 0.5
      assert distance <= width + 1e-4 if row[1].startswith("**") else distance >= width - 1e-4, name


@pytest.mark.parametrize("text", ["nothing", _readme.FIRST, _readme.LAST, (_readme.FIRST + _readme.LAST) * 2])
def test_a_file_without_marks_is_refused(text):
  with pytest.raises(ValueError, match="one line"):
    _readme.insert(text, "| a |")


def test_what_lies_around_the_table_stays():
  text = f"above\n{_readme.FIRST}\nold | \\1\n{_readme.LAST}\nbelow"
  assert _readme.insert(text, r"| new \1 |") == f"above\n{_readme.FIRST}\n\n| new \\1 |\n\n{_readme.LAST}\nbelow"
