"""Scenarios of ERASE: spam profiles that were injected, or a sensitive category; what do people still see of it?

    python -m experiments.scenarios --scenario=spam --dataset=ml-1m --model=bprmf --seeds=2 --out=runs/spam
    python -m experiments.scenarios --scenario=category --category=Horror --dataset=ml-100k --out=runs/horror

Cells as in `compare`, which this is but for its request and for exposure@k: the share of users (with spam: of all real
users; with a category: of those who asked) with one of the items in their top k. The target is Retrain's.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import _common, _flags, _names, _report, _results
from experiments._cells import Cells
from experiments._methods import METHODS
from jaxunlearn._validate import check_choice, check_positive
from jaxunlearn.base import Scorer
from jaxunlearn.data import datasets
from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.scenarios import Scenario, bandwagon, sensitive_category
from jaxunlearn.metrics.exposure import exposure
from jaxunlearn.models import CONFIGS
from jaxunlearn.recipes import recipe

FLAGS = flags.FLAGS
_common.data_flags("ml-100k")
flags.DEFINE_enum("scenario", "spam", ["spam", "category"], "what is asked to be forgotten")
flags.DEFINE_string("category", "", "genre of the items, a word of the column `class` of DATASET.item")
flags.DEFINE_float("share", 0.01, "fake users a real one (spam), or of the users of a category those who ask")
flags.DEFINE_enum("model", "bprmf", list(CONFIGS), "base model")
flags.DEFINE_list("methods", ["original", "retrain", "finetune", "gradient-ascent", "ifru", "l2unrank", "rownewton"],
                  f"of original, {', '.join(METHODS)}")  # fmt: skip
flags.DEFINE_integer("seeds", 2, "number of seeds: first_seed … first_seed + seeds − 1; the scenario is drawn once")
flags.DEFINE_integer("first_seed", 0, "the first of them; `summarise` pools what several folders have", lower_bound=0)
flags.DEFINE_integer("epochs", 0, "epochs of the model; 0: found on a validation part of train")
flags.DEFINE_string("out", "runs/scenarios", "folder for all cells, the table and the page")
flags.DEFINE_boolean("overwrite", False, "remove the cells in --out first, and run all of them anew")
flags.DEFINE_boolean("quiet", False, "no progress bar, no table")
_common.define_model_flags()

_COLUMNS = ("completeness.exposure@10", "completeness.exposure@20", "completeness.shown@20", *_report.DEFAULT_COLUMNS)


class Measure(_common.Measure):
  """Utility and completeness, and how many users are shown the scenario's items."""

  def __init__(self, scenario: Scenario) -> None:
    super().__init__(scenario.dataset, scenario.forget)
    self.scenario, self.retained = scenario, scenario.dataset.train.without(scenario.forget)

  def __call__(self, scorer: Scorer) -> tuple[dict[str, float], dict[str, float]]:
    """As for any request, with exposure@k and shown@k (items of the scenario a list)."""
    utility, completeness = super().__call__(scorer)
    for k in (10, 20):
      share, count = exposure(scorer, self.scenario.users, self.scenario.items, k, mask=self.retained)
      completeness |= {f"exposure@{k}": share, f"shown@{k}": count}
    return utility, completeness


def items_of_category(path: Path, category: str, dataset: Dataset) -> np.ndarray:
  """Positions of the items whose `class` in a RecBole `.item` file has that word.

  Raises:
    OSError: there is no such file.
    ValueError: it has no columns item_id and class, or no item of the category; the message names those there are.
  """
  with path.open(encoding="utf-8", newline="") as file:
    table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    names = {name.partition(":")[0]: name for name in table.fieldnames or ()}
    if not {"item_id", "class"} <= names.keys():
      raise ValueError(f"Expected columns item_id and class in {path}, got {', '.join(names) or 'none'}.")
    classes = {row[names["item_id"]]: set((row[names["class"]] or "").split()) for row in table}
  known = sorted(set().union(*classes.values()))
  if category not in known:
    raise ValueError(f"Expected --category of {', '.join(known)}, got {category!r}.")
  ids = dataset.items.decode(np.arange(dataset.num_items))
  return np.flatnonzero([category in classes.get(str(item), ()) for item in ids.tolist()])


def _scenario(dataset: Dataset) -> Scenario:
  rng = np.random.default_rng(0)
  if FLAGS.scenario == "spam":
    return bandwagon(rng, dataset, share=FLAGS.share)
  found = datasets.locate(FLAGS.dataset, FLAGS.data_dir)
  if found is None:
    raise ValueError(f"Expected a dataset with a file of genres beside it, got --dataset={FLAGS.dataset}.")
  folder = found if found.is_dir() else found.parent
  items = items_of_category(folder / f"{FLAGS.dataset}.item", FLAGS.category, dataset)
  return sensitive_category(rng, dataset, items, share=FLAGS.share)


def main(argv: list[str]) -> None:
  """All cells, then the table and the page."""
  del argv
  out = _results.prepare_out(FLAGS.out)
  _common.use_compilation_cache()
  check_positive("seeds", FLAGS.seeds)
  for value in FLAGS.methods:
    check_choice("methods", value, ("original", *METHODS))
  how = _common.override(recipe(FLAGS.model), FLAGS.model)
  scenario = _scenario(_common.load_dataset())
  if not FLAGS.quiet:
    print(
      f"{scenario.dataset!r}: {len(scenario.forget):,} pairs to forget, {len(scenario.items)} items", file=sys.stderr
    )
  cells = Cells(
    out / FLAGS.model, FLAGS.model, how, "tuned", scenario.dataset, scenario.forget, Measure(scenario),
    epochs=FLAGS.epochs, overwrite=FLAGS.overwrite, progress=False if FLAGS.quiet else None,
  )  # fmt: skip
  seeds = range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.seeds)
  planned = [(method, seed) for seed in seeds for method in sorted(set(FLAGS.methods), key=_names.rank)]
  for method, seed in tqdm(planned, desc="cells", disable=FLAGS.quiet or not sys.stderr.isatty()):
    cells.run(method, seed)
  results = _results.load_cells(out)
  files = _report.write(results, out, _COLUMNS, title=f"{scenario.dataset.name}: {FLAGS.scenario}")
  if not FLAGS.quiet:
    _report.show(results, _COLUMNS)
    print("\n".join(map(str, files)), file=sys.stderr)


if __name__ == "__main__":
  _flags.run(main)
