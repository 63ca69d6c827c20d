"""The lab book's tables say what is kept: each number again, from the result that its row names."""

import json
import re
import statistics
from pathlib import Path

import pytest

from experiments import _readme, _results
from experiments._tables import CLOSE, TABLES
from jaxunlearn.recipes import recipe

TEXT = (Path(__file__).parents[2] / "BUILD_NOTES.md").read_text("utf-8")
FOLDERS = {
  "interactions": "influence/b554f0c3/ml-1m",
  "users": "influence/a7a95012/ml-1m",
  "items": "influence/047b6dee/ml-1m",
  "gowalla": "influence/ce1caaf5/gowalla",
  "yelp2018": "influence/a1b240ba/yelp2018",
  "table 3": "shards/2ffa2933/ml-1m-receraser",
  "core": "selections/023bdaa9/ml-100k/bprmf",
  "edge": "selections/edaa90b0/ml-100k/bprmf",
  "random": "selections/6282e989/ml-100k/bprmf",
}
METHODS = {
  "Original": "original",
  "Retrain": "retrain",
  "Fine-tune": "finetune",
  "Gradient ascent": "gradient-ascent",
  "IFRU": "ifru",
  "L2UnRank": "l2unrank",
  "rownewton": "rownewton",
  "LightUL-WM": "lightul-wm[preserve]",
  "LightUL": "lightul[preserve]",
  "SISA": "sisa",
  "SISA, whole users": "sisa[unit=user]",
  "RecEraser, users at random": "receraser-ubp[partition=random-users]",
  "LASER": "laser",
  "GraphEraser (BEKM)": "grapheraser",
  "RecEraser, InBP as printed": "receraser",
  "RecEraser, InBP as released": "receraser-released",
  "RecEraser, UBP, combined": "receraser-ubp",
}
PARTITIONS = {
  "BEKM": "grapheraser",
  "label propagation": "grapheraser[partition=blpa]",
  "users at random": "sisa[unit=user]",
  "label propagation, absent rows heard": "grapheraser[partition=blpa+aggregate.mask_absent=False]",
  "users at random, absent rows heard": (
    "receraser[partition=random-users+aggregate.kind=mean+aggregate.mask_absent=False]"
  ),
}
METRICS = {
  "AUC": "completeness.auc",
  "out of top 50": "completeness.outside@50",
  "rank shift": "completeness.rank_shift",
  "Spearman": "completeness.spearman",
  "Δscore ÷ sd": "completeness.score_mae_sd",
}
FIRST = (  # heads of the tables that are checked, and how many rows they have at least
  ("set | model | method | seeds | NDCG@20 | AUC", 80),
  ("model | method | seeds | Recall@10", 16),
)


def blocks(start):
  """Of each table whose head begins so its rows, {column: cell}, without what makes a cell bold."""
  for block in re.split(r"\n(?!\|)", TEXT.replace("**", "")):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.split("\n") if line[:1] == "|"]
    if lines and " | ".join(lines[0]).startswith(start):
      yield [dict(zip(lines[0], cells, strict=True)) for cells in lines[1:] if set("".join(cells)) - set("-: ")]


def tables(start):
  return [row for block in blocks(start) for row in block]


def kept(folder, *parts):
  return json.loads((_readme.KEPT.joinpath(FOLDERS[folder], *parts) / "result.json").read_text("utf-8"))


def close(text, value):
  """Whether a number that is written is this one, rounded."""
  digits = len(text.partition(".")[2])
  return abs(float(text.replace("−", "-")) - value) <= 0.51 * 10**-digits


def check(cell, result, metric, where):
  part, _, name = metric.partition(".")
  mean, _, sd = cell.partition(" ± ")
  found = result[part][name]
  assert close(mean, found["mean"]), (where, metric, cell, found)
  assert not sd or close(sd, found["sd"]), (where, metric, cell, found)


@pytest.mark.parametrize(("start", "least"), FIRST)
def test_every_number_of_the_tables_is_that_of_a_kept_result(start, least):
  rows = tables(start)
  assert len(rows) >= least
  for row in rows:
    result = kept(row.get("set", "table 3"), row["model"], METHODS[row["method"]])
    assert int(row["seeds"]) == len(result["seeds"]), row
    for column, cell in row.items():
      if cell == "–":
        continue
      metric = METRICS.get(column, f"utility.{column.lower()}" if "@" in column and "[" not in column else None)
      if metric:
        check(cell, result, metric, row)


def test_selections_of_users():
  """NDCG@20, AUC, and the gap: the NDCG@20 of the most active users minus that of the others."""
  rows = tables("method | core | edge | random")
  assert len(rows) >= 8
  for row in rows:
    for selection in ("core", "edge", "random"):
      result = kept(selection, METHODS[row["method"]])
      active, others = (result["utility"][f"{part}_ndcg@20"]["values"] for part in ("active", "inactive"))
      gap = [a - b for a, b in zip(active, others, strict=True)]
      result["utility"]["gap"] = {"mean": statistics.mean(gap), "sd": statistics.stdev(gap)}
      metrics = ("utility.ndcg@20", "completeness.auc", "utility.gap")
      for cell, metric in zip(row[selection].split(" / "), metrics, strict=True):
        check(cell, result, metric, row)


def test_lightul_as_published():
  """Of each base what is served, and what its paper has: NDCG@20 before whitening, AUC after it."""
  digests = {"ml-1m": "b554f0c3", "gowalla": "ce1caaf5", "yelp2018": "a1b240ba"}
  printed = json.loads((_readme.KEPT.parent / "printed.json").read_text("utf-8"))["lightul"]["cells"]
  rows = tables("data | model | epochs | row")
  assert len(rows) == 6 * 5
  for row in rows:
    name, released, _ = row["row"].partition(", released")
    method = METHODS[name].partition("[")[0] + ("[released]" if released else "")
    path = _readme.KEPT / "as-published" / digests[row["data"]] / row["data"] / row["model"] / method
    result = json.loads((path / "result.json").read_text("utf-8"))
    assert int(row["seeds"]) == len(result["seeds"]), row
    assert row["epochs"] == str(result["config"]["train"]["num_epochs"]), row
    check(row["NDCG@20 as published"], result, f"utility.ndcg@20{'_unwhitened' if released else ''}", row)
    check(row["NDCG@20 served"], result, "utility.ndcg@20", row)
    check(row["AUC"], result, METRICS["AUC"], row)
    paper = printed[f"{row['data']}/{row['model']}/{method.partition('[')[0]}"]
    assert float(row["printed"]) == paper["utility.ndcg@20"] and float(row["printed AUC"]) == paper[METRICS["AUC"]]


def test_grapheraser_by_partition_and_l2():
  """Its rows of RecEraser's table 3: shards as tuned and as the code has them, beside the printed numbers."""
  printed = json.loads((_readme.KEPT.parent / "printed.json").read_text("utf-8"))["receraser"]["cells"]
  rows = tables("data | model | GraphEraser's partition")
  assert len(rows) == 18 + 16
  for row in rows:
    data, request = {"ml-1m": ("ml-1m-receraser", "2ffa2933"), "yelp2018": ("yelp2018", "c583a12b")}[row["data"]]
    method = PARTITIONS[row["GraphEraser's partition"]]
    paths = _readme.KEPT.glob(f"*/{request}/{data}/{row['model']}/{method.replace('[', '[[]')}/result.json")
    found = [json.loads(path.read_text("utf-8")) for path in paths]
    weight, _, (l2, _, epochs) = (part.partition(", ") for part in row["shards'"].rpartition("L2 "))
    wanted = {"l2": float(l2)} | ({"unobserved_weight": float(weight[0].removeprefix("c₀ "))} if weight[0] else {})
    num_epochs = int(epochs.removesuffix(" epochs") or recipe(row["model"], "shards").train_config.num_epochs)
    (result,) = [
      one for one in found
      if wanted.items() <= one["config"]["shard_model"].items()
      and one["config"]["shard_train"]["num_epochs"] == num_epochs
    ]  # fmt: skip
    assert int(row["seeds"]) == len(result["seeds"]), row
    for name in ("Recall@20", "NDCG@20"):
      check(row[name], result, f"utility.{name.lower()}", row)
      paper = printed[f"{data}/{row['model']}/grapheraser"][f"utility.{name.lower()}"]
      assert float(row[f"printed {name}"]) == paper, row


def test_partitions_by_aggregation():
  """RecEraser's figures 2 and 3: Recall@20 of every pair, and how many seeds the heading promises."""
  rows = tables("partition | largest / mean shard")
  assert len(rows) == 6
  for row in rows:
    for kind in ("mean", "static", "attention", "combined"):
      path = _readme.KEPT / "ablation" / "ml-1m-receraser" / "bprmf" / f"{row['partition']}-10-{kind}" / "result.json"
      assert (row[kind] == "–") == (not path.exists()), row
      if path.exists():
        result = json.loads(path.read_text("utf-8"))
        assert len(result["seeds"]) == 2
        check(row[kind], result, "utility.recall@20", row)


def test_lightul_objectives():
  """Of each objective what is served, NDCG@20 and AUC, and NDCG@20 of the vectors before whitening."""
  rows = tables("objective | model | seeds")
  assert len(rows) >= 7
  for row in rows:
    folder = "influence" if row["objective"] == "preserve" else "objectives"
    unwhitened = row["unwhitened (WM, full)"].split(", ")
    for at, (column, method) in enumerate((("WM", "lightul-wm"), ("full", "lightul"))):
      path = _readme.KEPT / folder / "b554f0c3" / "ml-1m" / row["model"] / f"{method}[{row['objective']}]"
      result = json.loads((path / "result.json").read_text("utf-8"))
      assert int(row["seeds"].partition(" ")[0]) == len(result["seeds"]), row
      for cell, metric in zip(
        row[f"{column}: NDCG@20 / AUC"].split(" / "), ("utility.ndcg@20", METRICS["AUC"]), strict=True
      ):
        check(cell, result, metric, row)
      if folder == "objectives":
        check(unwhitened[at], result, "utility.ndcg@20_unwhitened", row)


def test_lightuls_ports():
  """LASER and RecEraser as LightUL's repository has them: ours, the printed numbers, the epochs of its logs."""
  rows = tables("data | model | port | clusters' epochs")
  assert len(rows) == 6 * 2
  printed = json.loads((_readme.KEPT.parent / "printed.json").read_text("utf-8"))["lightul"]["cells"]
  parts = TABLES["lightul-as-published"].parts
  for row in rows:
    method = row["port"].lower()
    (path,) = (_readme.KEPT / "as-published").glob(f"*/{row['data']}/{row['model']}/{method}-port/result.json")
    result, numbers = json.loads(path.read_text("utf-8")), printed[f"{row['data']}/{row['model']}/{method}"]
    epochs = row["clusters' epochs"].replace(" ", "")
    assert epochs == ",".join(map(str, result["config"]["group_epochs"])), row
    assert f"--group_epochs={epochs}" in parts[f"{row['data']}-{row['model']}-{method}"].flags, row
    for column, metric in (("NDCG@20", "utility.ndcg@20"), ("AUC", METRICS["AUC"])):
      check(row[column], result, metric, row)
      assert float(row[f"printed {column}"]) == numbers[metric], row


def test_ratios_and_hops():
  """Share out of the top 50, and NDCG@20."""
  rows = tables("model | forgotten | seeds")
  assert len(rows) == 3 * 4
  names = {"L2UnRank, hops 0": "l2unrank[hops=0]", "hops 1": "l2unrank[hops=1]", "hops 2": "l2unrank[hops=2]"}
  for row in rows:
    ratio = f"{float(row['forgotten'].split()[0]) / 100:g}"
    (folder,) = (_readme.KEPT / "l2unrank" / ratio).glob(f"*/ml-1m/{row['model']}")
    for column in ("Retrain", *names, "rownewton"):
      path = folder / names.get(column, column.lower()) / "result.json"
      result = json.loads(path.read_text("utf-8"))
      assert int(row["seeds"]) == len(result["seeds"]), (row, column)
      for cell, metric in zip(row[column].split(" / "), (METRICS["out of top 50"], "utility.ndcg@20"), strict=True):
        check(cell, result, metric, row)


def test_base_models():
  rows = tables("`ml-1m` | seeds | Original NDCG@20")
  assert len(rows) == 4
  for row in rows:
    for method in ("Original", "Retrain"):
      result = kept("interactions", row["`ml-1m`"], METHODS[method])
      assert int(row["seeds"]) == len(result["seeds"])
      for column, metric in (
        ("NDCG@20", "utility.ndcg@20"),
        ("Recall@20", "utility.recall@20"),
        ("AUC", METRICS["AUC"]),
      ):
        check(row[f"{method} {column}"], result, metric, row)


def test_lightgcns_own_data():
  """After how many epochs, of what step and batch; beside the published numbers."""
  printed = json.loads((_readme.KEPT.parent / "printed.json").read_text("utf-8"))["lightgcn"]["cells"]
  found = {}
  for table in ("originals", "originals-long"):
    for result in _results.load_results([_readme.KEPT / folder for folder in TABLES[table].kept]):
      found[result["dataset"], str(result["config"]["train"]["num_epochs"])] = result
  rows = tables("data | epochs | batch | step")
  assert {(row["data"], row["epochs"]) for row in rows} == found.keys()
  for row in rows:
    result, paper = found[row["data"], row["epochs"]], printed[f"{row['data']}/lightgcn/original"]
    train = result["config"]["train"]
    assert (int(row["batch"].replace(",", "")), float(row["step"])) == (train["batch_size"], train["learning_rate"])
    assert int(row["seeds"]) == len(result["seeds"])
    for column in ("Recall@20", "NDCG@20"):
      check(row[column], result, f"utility.{column.lower()}", row)
      assert close(row[f"published {column}"], paper[f"utility.{column.lower()}"])


ALL_ROWS = "scope=all+" + CLOSE
AUDITS = (  # the tables in their order: files, and the variants that their rows name
  (("audit-ml-100k-bprmf", "audit-exact-ml-100k-bprmf", "audit-ml-100k-bprmf-more"), {}),
  (
    ("audit-ml-1m-bprmf",),
    {f"{name} rounds, all rows": f"num_rounds={n}+{ALL_ROWS}" for name, n in (("two", 2), ("three", 3), ("four", 4))},
  ),
  (
    ("audit-ml-1m-lightgcn", "audit-ml-1m-lightgcn-more"),
    {
      "two rounds": "num_rounds=2",
      "four rounds, all rows": "num_rounds=4+scope=all",
      "six rounds, all rows": "num_rounds=6+scope=all",
      "ten rounds, all rows, eight draws": f"num_rounds=10+{ALL_ROWS}",
      "twelve": f"num_rounds=12+{ALL_ROWS}",
      "fourteen": f"num_rounds=14+{ALL_ROWS}",
      "eighteen": f"num_rounds=18+{ALL_ROWS}",
    },
  ),
)
AGAIN = {  # a column that is of other files
  "seed 1: likelihood ratio": ("audit-ml-100k-bprmf-seed1", "audit-ml-100k-bprmf-seed1-more"),
}
ATTACKS = {
  "score threshold": ("threshold", "all"),
  "trained attack": ("trained", "all"),
  "likelihood ratio": ("lira", "all"),
  "of the most memorised quarter": ("lira", "memorised"),
}


def of_files(names, part):
  """What audits have of each method; the first file that has it counts."""
  found = {}
  for name in reversed(names):
    found |= json.loads((_readme.KEPT / f"{name}.json").read_text("utf-8"))[part]
  return found


def check_attack(cell, found, where):
  """Of "0.569", "0.569 [0.551, 0.587]" and, before and after a request, "0.569 → 0.495"; "found" is by name."""
  for text, name in zip(cell.split(" → "), ("[before]", "") if "→" in cell else ("",), strict=True):
    numbers = [float(number) for number in re.findall(r"\d\.\d+", text)]
    one = found(name)
    for number, value in zip(numbers, (one["auc"], *one["auc_interval"]), strict=False):
      assert close(f"{number:.3f}", value), (where, cell, one["auc"], one["auc_interval"])


def test_lightul_at_other_weights():
  audit, calibrated = (
    json.loads((_readme.KEPT / f"{name}.json").read_text("utf-8"))
    for name in ("audit-ml-1m-bprmf-lightul-weights", "calibration-ml-1m-bprmf-lightul")
  )
  rows = tables("LightUL-WM, `preserve` | NDCG@20")
  assert len(rows) == 6
  for row in rows:
    weight = row["LightUL-WM, `preserve`"]
    method = "lightul-wm" if weight.endswith("(default)") else f"lightul-wm[preserve={float(weight)}]"
    assert close(row["NDCG@20"], audit["utility"][method]["ndcg@20"]), row
    found = audit["audit"][method]["lira"]
    check_attack(row["likelihood ratio"], lambda when: found["all"], row)  # noqa: B023
    check_attack(row["of the most memorised quarter"], lambda when: found["memorised"], row)  # noqa: B023
    check_attack(row["of the least typical quarter"], lambda when: found["atypical"], row)  # noqa: B023
    if row["AUC against held-out pairs"] != "–":
      assert close(row["AUC against held-out pairs"], calibrated["calibration"][method]["mean"]), row


def test_attacks():
  made = list(blocks("method | NDCG@20 | score threshold"))
  assert len(made) == len(AUDITS)
  seen = 0
  for rows, (files, variants) in zip(made, AUDITS, strict=True):
    audit, utility = (of_files(files, part) for part in ("audit", "utility"))
    for row in rows:
      name = row["method"].partition(" (")[0]
      method = f"rownewton[{variants[name]}]" if name in variants else METHODS.get(name, "receraser-ubp")
      method = method.partition("[preserve]")[0]
      if row["NDCG@20"] == "–":
        continue
      assert close(row["NDCG@20"], utility[method]["ndcg@20"]), row
      assert close(row["TPR at 1 %"], audit[method]["lira"]["all"]["tpr"]["0.01"]), row
      for column, (attack, selection) in ATTACKS.items():
        check_attack(row[column], lambda when: audit[method + when][attack][selection], row)  # noqa: B023
        seen += 1
      for column in set(AGAIN) & set(row):
        again = of_files(AGAIN[column], "audit")
        check_attack(row[column], lambda when: again[method + when]["lira"]["all"], row)  # noqa: B023
        seen += 1
  assert seen >= 4 * 25 + 20
