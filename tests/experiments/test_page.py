"""The page of a comparison: what it says, that it loads nothing, and that it works in a browser."""

import json
import math
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from experiments import _page, _page_table, _results
from tests.experiments import browser
from tests.experiments.page_parts import CURVES, HOSTILE, RESULTS, ROOT, Parsed, parsed, result


def test_the_page_is_whole_and_loads_nothing():
  page = parsed(curves=CURVES)
  assert page.texts.count("Toy") == 2  # title and heading
  assert page.all("meta", charset="utf-8") and page.all("meta", name="viewport")[0]["content"].startswith(
    "width=device"
  )
  policy = page.all("meta", http_equiv=None) or [a for a in page.all("meta") if "http-equiv" in a]
  assert policy[0]["content"].startswith("default-src 'none'")
  for name, attrs, _ in page.elements:
    assert not {"src", "srcset", "action", "poster", "data"} & attrs.keys(), (name, attrs)
    assert not [key for key in attrs if key.startswith("on")], (name, attrs)
    assert attrs.get("href", "#").startswith("#") or attrs["href"] == "data:,", attrs
  style = (ROOT / "experiments" / "page" / "style.css").read_text()
  assert "url(" not in style and "@import" not in style
  ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
  assert len(set(ids)) == len(ids)
  assert {attrs["href"][1:] for attrs in page.all("a")} <= set(ids)
  assert page.all("section", id="s1") and page.all("section", id="c1") and not page.all("section", id="c2")


def test_the_table_holds_every_result_with_its_sort_key():
  heads, *rows = parsed().cells()
  assert [text for _, text in heads] == [
    "method", "seeds", "NDCG@20", "Recall@20", "AUC", "|AUC − Retrain|", "seconds", "compile s", "runs",
  ]  # fmt: skip
  assert [row[0] for row in rows] == [(name, name) for name in ("Original", "Retrain", "IFRU", "LightUL")]
  table = {row[0][0]: dict(zip([text for _, text in heads], row, strict=True)) for row in rows}
  lightul = table["LightUL"]
  assert lightul["seeds"] == ("2", "2 (0–1)")
  assert lightul["NDCG@20"][1] == "0.3500 ± 0.0141" and float(lightul["NDCG@20"][0]) == pytest.approx(0.35)
  assert lightul["|AUC − Retrain|"][1] == "0.0150 ± 0.0212"  # 0.03 and 0.00, seed by seed
  assert float(table["Original"]["seconds"][0]) == 48.0
  assert table["Retrain"]["|AUC − Retrain|"] == ("", "–") and table["IFRU"]["seconds"] == ("", "–")
  assert table["IFRU"]["NDCG@20"][1] == "0.0500"  # of one seed no spread is known
  kinds = [attrs["data-kind"] for attrs in parsed().all("th", scope="col")]
  assert kinds == ["text"] + ["number"] * 8


def test_every_row_leads_to_what_made_it():
  page = parsed([*RESULTS, result("ifru", (0.06,), (0.7,), 1.0, seeds=[7], command="python again.py", date="2027")])
  runs = [attrs["id"] for attrs in page.all("li") if "id" in attrs]
  assert runs == [f"s1-run{k}" for k in range(1, 6)]
  text = "".join(page.texts)
  for said in ("python again.py", "--methods=original", "cpu × 1, Slow CPU, 2 CPU cores", "python 3.11, jax 0.10.2",
               "2026-11-20T10:00:00+00:00", "d" * 64, "f" * 64, "IFRU, seeds 1 (7)"):  # fmt: skip
    assert said in text, said
  rows = {row[0][0]: row[-1] for row in page.cells()[1:]}
  assert rows["IFRU"] == ("4", "4, 5") and rows["LightUL"] == ("1", "1")
  same = [result("retrain", (0.3,), seeds=[k], date=f"2026-0{k + 1}") for k in range(3)]
  (run,) = _page_table.runs_of(same)
  assert run.cells == {"retrain": [0, 1, 2]} and "2026-01 to 2026-03" in _page_table.runs_list([run], "s1")


def test_nothing_from_outside_is_markup(tmp_path):
  hostile = result(HOSTILE, (0.3, 0.4), (0.5, 0.5), dataset=HOSTILE, model=HOSTILE, command=HOSTILE, date=HOSTILE,
                   data_hash=HOSTILE, forget_hash=HOSTILE, device=HOSTILE, versions={HOSTILE: HOSTILE})  # fmt: skip
  hostile["completeness"][HOSTILE] = 0.25
  other = {**hostile, "method": "retrain"}
  curve = {key: HOSTILE for key in ("title", "x_label", "y_label", "note", "heading")}
  curve["series"] = [{"name": HOSTILE + str(k), "x": [HOSTILE, "b"], "y": [1, 2]} for k in range(2)]
  text = _page.page([hostile, other], title=HOSTILE, curves=[curve])
  page = Parsed(text)
  assert text.count("<script>") == text.count("</script>") == 1 and not page.all("img")
  assert page.cells()[2][0] == (HOSTILE, HOSTILE)
  assert not [attrs for _, attrs, _ in page.elements if "onerror" in attrs]
  odd = [result("retrain", (0.3,)), result("a\u0007b\ud800", (0.4,))]  # JSON can hold these
  assert Parsed(_page.write_page(odd, tmp_path / "odd.html", title="Odd").read_text(encoding="utf-8")).cells()


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_missing_numbers_are_dashes(missing):
  bare = {key: RESULTS[0][key] for key in ("method", "model", "dataset", "seeds")}
  bare |= {
    "utility": {"ndcg@20": missing},
    "completeness": {"auc": missing},
    "efficiency": {"unlearn_seconds": missing},
  }
  retrain = result("retrain", (0.3, missing), (0.5, missing), missing, data_hash=None, forget_hash=None)
  text = _page.page([bare, retrain], title="Toy")
  assert "nan" not in text.lower().replace("nan-", "") and "None" not in text and "Infinity" not in text
  heads, *rows = Parsed(text).cells()
  assert [cell for _, cell in rows[1]][2:-1] == ["–"] * (len(heads) - 3) and rows[1][2][0] == ""
  assert "<dt>device</dt><dd>–</dd>" in text and "<dt>forget hash</dt><dd>–</dd>" in text
  assert Parsed(_page.page([], title="Empty")).all("main")


def test_equal_results_give_equal_bytes(tmp_path):
  first = _page.write_page(RESULTS, tmp_path / "new" / "a.html", title="Toy", curves=CURVES)
  second = _page.write_page(json.loads(json.dumps(RESULTS)), tmp_path / "b.html", title="Toy", curves=CURVES)
  assert first == tmp_path / "new" / "a.html" and first.read_bytes() == second.read_bytes()
  assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.html", "b.html", "new"]


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
  path = _page.write_page(RESULTS, tmp_path / "a.html", title="Before")
  monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
  with pytest.raises(OSError, match="Cannot write the page .*a.html: No space left"):
    _page.write_page(RESULTS, path, title="After")
  assert "Before" in path.read_text() and [file.name for file in tmp_path.iterdir()] == ["a.html"]


def test_a_large_page_is_small():
  results = [
    result(method, np.linspace(0.3, 0.31, 5), np.linspace(0.5, 0.52, 5), 7.0, model=model, dataset=data)
    for data in ("ml-1m", "gowalla", "yelp2018")
    for model in ("bprmf", "lightgcn")
    for method in ("original", "retrain", "sisa", "grapheraser", "receraser", "laser", "ifru", "l2unrank", "lightul")
  ]
  x = np.linspace(0, 1, 20_001)
  roc = {"title": "ROC", "x_label": "FPR", "y_label": "TPR"}
  roc["series"] = [{"name": f"s{k}", "x": x, "y": x**p, "sd": 0 * x + 0.01} for k, p in enumerate((1, 0.5, 0.2))]
  assert len(_page.page(results, title="All", curves=[roc]).encode()) < 300_000


@pytest.mark.parametrize(
  ("flags", "name"),
  [
    ("--forget=/data/toy/forget/intr_0.01.txt --ratio=0.5", "intr_0.01 (eeeeeeee)"),
    ("--by=user --selection=core --ratio=0.05 --seeds=5", "by user selection core ratio 0.05 (eeeeeeee)"),
    ("--seeds=5", "e" * 12),
  ],
)
def test_a_forget_set_is_named_as_the_command_names_it(flags, name):
  command = f"python -m experiments.compare {flags}"
  other = [result("retrain", (0.2, 0.2), (0.6, 0.6), forget_hash="e" * 64, command=command)]
  assert [s.forget for s in _page.sections_of([*RESULTS, *other])] == ["f" * 12, name]


def test_trainings_of_two_lengths_are_two_sections():
  short, long = (
    [result(method, (0.2, 0.2), (0.6, 0.6), config={"recipe": "tuned", "train": {"num_epochs": epochs}})
     for method in ("retrain", "ifru")]
    for epochs in (16, 48)
  )  # fmt: skip
  assert [s.name for s in _page.sections_of(short + long)] == ["bprmf on toy, 16 epochs", "bprmf on toy, 48 epochs"]
  shards = [
    result("sisa", (0.1, 0.1), (0.5, 0.5), config={**long[0]["config"], "shard_train": {"num_epochs": epochs}})
    for epochs in (150, 50)
  ]
  whole, longer = _page.sections_of([*long, *shards])
  assert (whole.name, longer.name) == ("bprmf on toy", "bprmf on toy, 150 epochs a shard")
  assert longer.results == shards[:1] and whole.results == [*long, shards[1]]
  assert [s.name for s in _page.sections_of(long)] == ["bprmf on toy"]


def test_shards_trained_in_two_ways_are_two_sections():
  """The way that other methods share stays with them, in whatever order results come; the other is named."""

  def shards(method, l2, power=None):
    config = {
      "recipe": "tuned",
      "shard_train": {"num_epochs": 50, "user_weight_power": power},
      "shard_model": {"l2": l2},
    }
    return result(method, (0.1, 0.1), (0.5, 0.5), config=config)

  usual, other = [shards("sisa", 0.03), shards("grapheraser", 0.03)], [shards("grapheraser", 0.01, 1.0)]
  for results in (usual + other, other + usual):
    first, second = _page.sections_of(results)
    assert (first.name, sorted(r["method"] for r in first.results)) == ("bprmf on toy", ["grapheraser", "sisa"])
    assert second.name == "bprmf on toy, user_weight_power 1.0 in shards, l2 0.01 in shards" and second.results == other


def test_all_kept_results_make_one_page(tmp_path):
  """The README's command."""
  kept = _results.load_results(ROOT / "experiments" / "results")
  sections = _page.sections_of(kept)
  assert sum(len(section.results) for section in sections) == len(kept)
  names = [section.name for section in sections]
  assert len(set(names)) == len(names) and "bprmf on ml-1m-receraser, partitions and aggregations" in names
  page = _page.write_page(kept, tmp_path / "page.html", title="all").read_text("utf-8")
  assert "48 epochs" in page and "16 epochs" in page


def test_another_recipe_is_another_section():
  published = [result("retrain", (0.2, 0.2), (0.6, 0.6), config={"recipe": "lightul"})]
  tuned = [result("retrain", (0.3, 0.3), (0.5, 0.5), config={"recipe": "tuned"})]
  assert [s.name for s in _page.sections_of(tuned + published)] == ["bprmf on toy", "bprmf on toy, recipe lightul"]


def test_a_dataset_has_its_links_together_and_comparisons_with_retrain_come_first():
  few = [result(method, (0.3,), (0.5,), dataset="few & small") for method in ("original", "retrain")]
  ablation = [result("ubp-10-mean", (0.2,), dataset="many", config={"partition": "ubp"})]
  alone = [result("original", (0.2,), dataset="many", model="wmf")]
  published = [result("retrain", (0.2,), (0.6,), dataset="many", config={"recipe": "lightul"})]
  tuned = [result(method, (0.3,), dataset="many", model="lightgcn") for method in ("retrain", "ifru")]
  page = _page.page([*few, *ablation, *alone, *published, *tuned], title="All", curves=CURVES)
  names = ["lightgcn", "bprmf, recipe lightul", "wmf", "bprmf, partitions and aggregations"]
  heads = [name.replace(",", " on many,", 1) if "," in name else f"{name} on many" for name in names]
  assert re.findall("<h2 id=.*?>(.*?)</h2>", page) == [*heads, "bprmf on few &amp; small", "Ablations"]
  links = re.search("<nav.*?</nav>", page)[0]
  assert re.findall("<(?:p|a href=.*?)>(.*?)</", links) == [
    "many", *names, "few &amp; small", "bprmf", "Curves", "Ablations",
  ]  # fmt: skip
  assert "<p>" not in re.search("<nav.*?</nav>", _page.page(tuned, title="One"))[0]


def test_forget_sets_that_differ_get_sections():
  other = [result(method, (0.2, 0.2), (0.6, 0.6), forget_hash="e" * 64) for method in ("original", "retrain")]
  sections = _page.sections_of([*RESULTS, *other])
  assert [s.name for s in sections] == [
    "bprmf on toy, forget set ffffffffffff",
    "bprmf on toy, forget set eeeeeeeeeeee",
  ]
  assert [len(s.results) for s in sections] == [4, 2]
  parsed([*RESULTS, *other])
  by_seed = [result("retrain", (0.2,), seeds=[k], forget_hash=str(k)) for k in range(3)]  # one set a seed: one row
  assert len(_page.sections_of(by_seed)) == 1
  fitted = result("original", (0.3,), forget_hash="")
  joined = [*RESULTS[:2], fitted]
  assert len(_page.sections_of(joined)) == 1 and len(parsed(joined).cells()) == 4
  assert [s.forget for s in _page.sections_of([*RESULTS, fitted])] == ["f" * 12, "none"]  # Original twice
  with pytest.raises(ValueError, match="share a seed"):
    parsed([*RESULTS, RESULTS[0]])


def test_the_script(tmp_path):
  for index, one in enumerate(RESULTS):
    folder = tmp_path / "runs" / str(index)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(one))
  (tmp_path / "curves.json").write_text(json.dumps(CURVES[1:]))
  (tmp_path / "wrong.json").write_text('{"title": "no list"}')

  def call(*words):
    command = [sys.executable, "-m", "experiments.report", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

  out, folder = tmp_path / "site" / "page.html", str(tmp_path / "runs")
  done = call(f"--out={out}", "--title=My runs", f"--curves={tmp_path / 'curves.json'}", folder)
  assert (done.returncode, done.stdout, done.stderr) == (0, f"{out}\n", "")
  expected = _page.page([RESULTS[index] for index in range(4)], title="My runs", curves=CURVES[1:])
  assert out.read_text(encoding="utf-8") == expected
  done = call(folder, f"--out={out}", f"--curves={tmp_path / 'wrong.json'}")
  assert (done.returncode, done.stdout) == (1, "") and done.stderr.count("\n") == 1
  assert "wrong.json holds no curves: expected a list" in done.stderr
  assert out.read_text(encoding="utf-8") == expected


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_order_of_rows_in_node():
  script = (ROOT / "experiments" / "page" / "script.js").read_text()
  stubs = "const document = {querySelectorAll: () => [], getElementById: () => null}, location = {hash: ''};"
  stubs += "const window = {addEventListener: () => 0};"
  ask = """
  const sorted = (keys, kind, down) => keys.slice().sort((a, b) => compareKeys(a, b, kind, down));
  console.log(JSON.stringify([
    sorted(["10", "", "9.5", "-1e-3", "2e2"], "number", false),
    sorted(["10", "", "9.5", "-1e-3", "2e2"], "number", true),
    sorted(["m10", "", "m9", "B", "a"], "text", false), sorted(["m10", "", "m9", "B", "a"], "text", true)]));
  """
  body = script.replace('"use strict";', '"use strict";' + stubs, 1)
  done = subprocess.run(["node", "-e", body + ask], capture_output=True, text=True, timeout=60)
  assert done.stderr == ""
  assert json.loads(done.stdout) == [
    ["-1e-3", "9.5", "10", "2e2", ""], ["2e2", "10", "9.5", "-1e-3", ""],
    ["a", "B", "m9", "m10", ""], ["m10", "m9", "B", "a", ""],
  ]  # fmt: skip


@pytest.mark.skipif(browser.find() is None, reason="no Chromium: apt-get install chromium-headless-shell")
def test_in_a_browser(tmp_path):
  long = result("a-method-with-a-name-that-never-ends" * 3, (0.3, 0.31), (0.5, 0.6), 3.0, command="python " + "x" * 900)
  path = _page.write_page([*RESULTS, long], tmp_path / "page.html", title="Toy", curves=CURVES)
  column = "[...document.querySelectorAll('table')[0].tBodies[0].rows].map(row => row.cells[{}].textContent)"
  click = "document.querySelectorAll('thead button')[{}].click()"
  sort = "document.querySelectorAll('thead th')[{}].getAttribute('aria-sort')"
  with browser.Browser(browser.find(), tmp_path / "profile") as page:
    for width, dark in ((360, True), (1280, False)):
      page.size(width, dark=dark, mobile=width < 500)
      page.open(path)
      assert page.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
      page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
      assert page.evaluate("document.documentElement.scrollWidth") == width
      sizes = page.evaluate("[...document.querySelectorAll('svg')].map(e => [e.clientWidth, e.clientHeight])")
      assert len(sizes) == 6 and all(250 < w <= min(width, 512) and h > 100 for w, h in sizes)
      shade = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
      assert shade == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")
      fill = "getComputedStyle(document.querySelector('circle.mark')).fill"
      assert re.fullmatch(r"rgb\(\d+, \d+, \d+\)", page.evaluate(fill)) and page.evaluate(fill) != "rgb(0, 0, 0)"
      scrolled = "(box => box.scrollWidth > box.clientWidth)(document.querySelector('.scroll'))"
      assert page.evaluate(scrolled) or width > 500  # the table moves in its own box, not the page
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = false })")
    page.evaluate("document.querySelectorAll('td a')[0].click()")
    assert page.evaluate("new Promise(done => setTimeout(() => done(document.querySelector('details').open), 200))")
    page.evaluate("document.querySelector('details').open = false")
    page.evaluate("history.replaceState(null, '', '#s1-run2')")  # moves nowhere: a browser that opens nothing itself
    opened = "document.querySelector('details').open"
    assert page.evaluate(f"[{opened}, reveal(), {opened}]") == [False, None, True]
    first = page.evaluate(column.format(0))
    page.evaluate(click.format(6))  # seconds
    seconds = page.evaluate(column.format(6))
    assert [s.split()[0] for s in seconds] == ["3.00", "3.00", "12.00", "48.00", "–"] and page.evaluate(
      sort.format(6)
    ) == "ascending"
    page.evaluate(click.format(6))
    assert [s.split()[0] for s in page.evaluate(column.format(6))] == ["48.00", "12.00", "3.00", "3.00", "–"]
    assert page.evaluate(sort.format(6)) == "descending"
    page.evaluate(click.format(0))
    assert page.evaluate(column.format(0)) == sorted(first, key=str.lower)
    assert page.evaluate(sort.format(6)) is None
    page.evaluate(click.format(0))
    page.evaluate(click.format(0))
    assert page.evaluate(column.format(0)) == first and page.evaluate(sort.format(0)) is None
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    page.open(path)
    page.call("Emulation.setScriptExecutionDisabled", value=False)
    assert page.evaluate("document.querySelectorAll('thead button').length") == 0
    assert page.evaluate(column.format(0)) == first
    assert page.errors() == []
    assert set(page.requests()) <= {path.resolve().as_uri(), "data:,"}
