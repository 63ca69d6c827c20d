"""Tables and the plot, from result dicts alone."""

import io
import math
import sys
import warnings

import pytest

from experiments import _names, _report


def result(method, auc, ndcg, seeds=(0, 1), **changes):
  base = {
    "method": method, "model": "bprmf", "dataset": "toy", "seeds": list(seeds), "data_hash": "d", "forget_hash": "f",
    "utility": {"ndcg@20": {"mean": 0, "sd": 0, "values": list(ndcg)}},
    "completeness": {"auc": {"values": list(auc)}},
    "efficiency": {"unlearn_seconds": 1.25, "retrain_ratio": None},
  }  # fmt: skip
  return {**base, **changes}


RESULTS = [
  result("retrain", (0.58, 0.60), (0.35, 0.35)),
  result("lightul", (0.50, 0.62), (0.30, 0.34)),
  result("original", (0.5,), (0.352,), seeds=(0,)),
]


def test_collect_and_distance():
  rows = {row.method: row for row in _report.collect(RESULTS)}
  assert rows["lightul"].mean_sd("utility.ndcg@20") == pytest.approx((0.32, 0.04 / math.sqrt(2)))
  assert rows["lightul"].values["completeness.auc_distance"] == pytest.approx([0.08, 0.02])
  assert "completeness.auc_distance" not in rows["retrain"].values
  paired = result(
    "x", (0.5, 0.6), (0.1, 0.1), completeness={"auc": {"values": [0.5, 0.6]}, "auc_retrain": {"values": [0.6, 0.6]}}
  )
  assert _report.collect([paired])[0].values["completeness.auc_distance"] == pytest.approx([0.1, 0.0])
  assert _report.retrain_auc(_report.collect([paired]), "toy", "bprmf") == pytest.approx(0.6)


def test_single_seed_files_are_pooled():
  rows = _report.collect([result("a", (0.5,), (0.1,), seeds=(0,)), result("a", (0.7,), (0.3,), seeds=(1,))])
  assert len(rows) == 1 and rows[0].values["completeness.auc"] == [0.5, 0.7]
  with pytest.raises(ValueError, match="share a seed"):
    _report.collect([result("a", (0.5,), (0.1,), seeds=(0,)), result("a", (0.7,), (0.3,), seeds=(0,))])


def test_runs_of_other_settings_are_not_pooled():
  def trained(seed, epochs, **more):
    config = {"recipe": "tuned", "train": {"num_epochs": epochs, "checkpoint_every": seed}}
    return result("original", (0.5,), (0.1,), seeds=(seed,), config=config, **more)

  with pytest.raises(ValueError, match="different settings, train.num_epochs 40 and 2: they cannot share a row"):
    _report.collect([trained(0, 40), trained(1, 2)])
  found = [trained(seed, epochs, info={"selection": [1]}) for seed, epochs in ((0, 40), (1, 35))]
  assert _report.collect(found)[0].seeds == (0, 1)  # lengths that `fit` found
  assert _report.collect([trained(0, 40), result("original", (0.5,), (0.1,), seeds=(1,))])[0].seeds == (0, 1)


def test_different_forget_sets_do_not_share_a_table():
  with pytest.raises(ValueError, match="seed 0 differ in forget_hash"):
    _report.collect([result("a", (0.5,), (0.1,)), result("b", (0.5,), (0.1,), forget_hash="g")])


def test_a_seed_without_a_number_is_not_hidden():
  heads, body = _report.cells(_report.collect([result("a", (0.5, None), (0.1, 0.2))]))
  assert "AUC" in heads and body[0][heads.index("AUC")] == "–"


def test_the_noise_floor_is_known_though_the_first_seed_has_no_seed_before_it():
  made = result("retrain", (0.3,) * 3, (0.5,) * 3)
  made["completeness"]["spearman"] = {"mean": 0.955, "sd": 0.007, "values": [None, 0.95, 0.96]}
  (row,) = _report.collect([made])
  assert row.mean_sd("completeness.spearman") == (pytest.approx(0.955), pytest.approx(0.00707, abs=1e-5))
  (other,) = _report.collect([{**made, "method": "ifru"}])
  assert math.isnan(other.mean_sd("completeness.spearman")[0])  # there it hides that a number is missing


def test_tables():
  heads, body = _report.cells(_report.collect(RESULTS))
  assert heads == ["method", "NDCG@20", "AUC", "|AUC − Retrain|", "unlearn s", "seeds"]
  assert [row[0] for row in body] == ["Original", "Retrain", "LightUL"]
  assert body[1] == ["Retrain", "0.3500 ± 0.0000", "0.5900 ± 0.0141", "–", "1.25", "2"]
  assert body[0][1] == "0.3520"
  for box in (True, False):
    lines = _report.text_table(heads, body, box=box).splitlines()
    assert len(lines) == (7 if box else 4)
    assert not box or len({len(line) for line in lines}) == 1
  markdown = _report.markdown_table(heads, body).splitlines()
  assert markdown[0].count("\\|") == 2 and markdown[1].startswith("| --- | ---: |")
  assert len({line.replace("\\|", "").count("|") for line in markdown}) == 1


def test_models_and_datasets_get_a_column_where_they_differ():
  heads, body = _report.cells(_report.collect([*RESULTS, result("retrain", (0.6, 0.6), (0.1, 0.1), model="wmf")]))
  assert heads[:2] == ["model", "method"] and body[-1][0] == "wmf"


def test_the_order_and_the_names_of_methods():
  given = ["mine", "lightul[paper]", "lightul[preserve]", "retrain", "lightul-wm[paper]", "original"]
  given += ["ifru[x=2]", "ifru", "lightul[preserve+phantom_ratio=0.1+alpha=1.0]"]
  _, body = _report.cells(_report.collect([result(method, (0.5, 0.5), (0.1, 0.1)) for method in given]))
  assert [row[0] for row in body] == [
    "Original",
    "Retrain",
    "IFRU",
    "IFRU [x=2]",
    "LightUL-WM [paper]",
    "LightUL",
    "LightUL [paper]",
    "LightUL [phantom_ratio=0.1, alpha=1.0]",
    "mine",
  ]
  variants = ["l2unrank[hops=10]", "l2unrank[hops=2+step=0.5]", "l2unrank", "l2unrank[hops=2]"]
  assert sorted(variants, key=_names.rank) == [variants[k] for k in (2, 3, 1, 0)]


def test_distances_are_paired_by_seed():
  pooled = [
    result("retrain", (0.6,), (0.1,), seeds=(1,)),
    result("x", (0.5, 0.7), (0.1, 0.1)),
    result("retrain", (0.5,), (0.1,), seeds=(0,)),
  ]
  rows = {row.method: row for row in _report.collect(pooled)}
  assert rows["x"].values["completeness.auc_distance"] == pytest.approx([0.0, 0.1])


def test_the_retrain_of_the_row_comes_before_what_a_result_says_of_it():
  """A pooled seed may lack "auc_retrain", or have been measured beside another Retrain than the one in the table."""
  one = result("x", (0.5, 0.7), (0.1, 0.1))
  one["completeness"]["auc_retrain"] = {"values": [0.65, None]}
  rows = {row.method: row for row in _report.collect([one, result("retrain", (0.6, 0.5), (0.1, 0.1))])}
  assert rows["x"].values["completeness.auc_distance"] == pytest.approx([0.1, 0.2])
  (alone,) = _report.collect([one])
  assert alone.values["completeness.auc_distance"] == pytest.approx([0.15, 0.05])  # one number is the mean of all


def test_times_faster_is_of_the_retrain_in_the_table_on_the_same_device():
  slow, fast = {"kind": "cpu", "cores": 1}, {"kind": "cpu", "cores": 2}

  def timed(method, seconds, **changes):
    efficiency = {"unlearn_seconds": {"values": seconds}, "retrain_ratio": {"values": [9.0] * len(seconds)}}
    return result(method, (0.5, 0.5), (0.1, 0.1), efficiency=efficiency, **changes)

  retrain = timed("retrain", [20.0, 40.0], device=fast)
  results = [retrain, timed("a", [2.0, 5.0], device=fast), timed("b", [2.0, 5.0], devices=[fast, slow], device=fast)]
  rows = {row.method: row.values["efficiency.retrain_ratio"] for row in _report.collect(results)}
  assert rows["a"] == pytest.approx([10.0, 8.0])
  assert rows["b"] == pytest.approx([10.0, math.nan], nan_ok=True)
  assert _report.collect(results[1:2])[0].values["efficiency.retrain_ratio"] == [9.0, 9.0]  # as far as is known
  with pytest.raises(ValueError, match="differ in data_hash"):
    _report.collect([result("a", (0.5,), (0.1,), (0,)), result("a", (0.5,), (0.1,), (1,), data_hash="other")])


def test_seconds_and_compilation():
  fit = {"fit_seconds": 3.0, "compile_seconds": 1.0}
  several = {"fit_seconds": 3.0, "unlearn_seconds": {"values": [2.0, 4.0]}, "compile_seconds": {"values": [9.0, 0.0]}}
  columns = ("efficiency.seconds", "efficiency.compile_seconds")
  rows = [
    result("original", (0.5, 0.5), (0.1, 0.1), efficiency=fit),
    result("x", (0.5, 0.5), (0.1, 0.1), efficiency=several),
  ]
  heads, body = _report.cells(_report.collect(rows), columns)
  assert heads == ["method", "seconds", "compile s", "seeds"]
  assert [row[1:3] for row in body] == [["3.00", "1.00"], ["3.00 ± 1.41", "9.00"]]


def test_write(tmp_path):
  pytest.importorskip("matplotlib")
  files = _report.write(RESULTS, tmp_path, title="Toy")
  assert [file.name for file in files] == ["table.md", "index.html", "plot.png", "plot.svg"]
  assert sorted(file.name for file in tmp_path.iterdir()) == ["index.html", "plot.png", "plot.svg", "table.md"]
  assert "<h1>Toy</h1>" in files[1].read_text(encoding="utf-8")
  assert files[0].read_text().splitlines()[2].startswith("| Original |")


def test_show_is_plain_when_not_a_terminal():
  stream = io.StringIO()
  _report.show(RESULTS, stream=stream)
  assert "LightUL" in stream.getvalue() and "│" not in stream.getvalue()
  stream = type("Terminal", (io.StringIO,), {"encoding": "utf-8", "isatty": lambda self: True})()
  _report.show(RESULTS, stream=stream)
  assert "│" in stream.getvalue()


def test_empty_table():
  heads, body = _report.cells([])
  assert _report.text_table(heads, body) and _report.markdown_table(heads, body)


def test_plot(tmp_path):
  pytest.importorskip("matplotlib")
  files = _report.plot(
    [*RESULTS, result("wm", (0.6,), (0.1,), model="wmf", seeds=(0,))], tmp_path / "new" / "v1.2", title="Toy"
  )
  assert [file.name for file in files] == ["v1.2.png", "v1.2.svg"]
  assert files[0].read_bytes().startswith(b"\x89PNG") and files[0].stat().st_size > 10_000
  assert "</svg>" in files[1].read_text()


def test_plot_of_many_methods_with_long_names(tmp_path):
  plot = pytest.importorskip("experiments._plot")
  fields = "num_rounds=3+scope=all+num_negatives=8+row_negatives=100000+pool=64+item_draws="
  methods = ["retrain", "ifru", "sisa", *(f"rownewton[{fields}{draws}]" for draws in range(9))]
  names = plot.short_names(methods)
  assert list(names) == methods and names["ifru"] == "IFRU"
  assert len(set(names.values())) == 12 and max(map(len, names.values())) <= 30
  made = [result(method, (0.5 + place / 99, 0.5), (0.3, 0.31)) for place, method in enumerate(methods)]
  with warnings.catch_warnings():
    warnings.simplefilter("error")  # as matplotlib's, that the axes have no room left
    assert len(_report.plot(made, tmp_path / "plot")) == 2


def test_no_matplotlib(tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  assert _report.plot(RESULTS, tmp_path / "plot") == []
  assert "jaxunlearn[plots]" in capsys.readouterr().err
  assert list(tmp_path.iterdir()) == []
