"""Forgets a part of a small synthetic dataset and compares three ways of doing so, in about a minute.

    python -m experiments.demo

Trains BPRMF, forgets 2 % of its pairs by training again (Retrain) and by LightUL without and with phantom users, and
measures what each of them then serves. The generator of the data is known, so the best possible ranking is too. Last,
a user is forgotten and recommendations are asked for by raw id. Writes table.md, plot.png, plot.svg and a result.json
for each method and seed below --out; results that are there already are shown again, with a note.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import _common, _flags, _report, _results
from experiments._cells import Cells
from jaxunlearn._validate import check_positive
from jaxunlearn.base import Embeddings, scorer_of
from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.data.synthetic import Synthetic, SyntheticConfig, generate
from jaxunlearn.models import BPRMFConfig, popularity
from jaxunlearn.recipes import recipe
from jaxunlearn.recommend import recommend
from jaxunlearn.requests import Request
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn.lightul import LightULConfig, lightul, vectors_scorer

FLAGS = flags.FLAGS
flags.DEFINE_integer("seeds", 3, "number of seeds, 0 … seeds − 1; data and forgotten pairs are the same for all")
flags.DEFINE_integer("epochs", 0, "epochs of training; 0: found on a validation part of train")
# √(1/6n), the standard error of an AUC near 0.5 of n against n pairs: 0.017 here at 1 %, 0.012 at 2 %.
flags.DEFINE_float("ratio", 0.02, "share of the train pairs to forget, drawn at random, in (0, 1)")
flags.DEFINE_string("out", "runs/demo", "folder for the table, the plot and every result.json")
flags.DEFINE_boolean("overwrite", False, "remove the results in --out first, and run everything anew")
flags.DEFINE_boolean("quiet", False, "no progress bar, no text: only files")
_synthetic = _flags.define("synthetic", SyntheticConfig())
_flags.define("train", TrainConfig())
_flags.define("bprmf", BPRMFConfig())
_common.define_lightul_flags()

METHODS = ("original", "retrain", "lightul-wm", "lightul")
COLUMNS = (
  "utility.ndcg@20",
  "utility.recall@20",
  "completeness.auc",
  "completeness.auc_distance",
  "efficiency.seconds",
  "efficiency.retrain_ratio",
  "efficiency.compile_seconds",
)


def main(argv: list[str]) -> None:
  """The whole job: data, training, three requests a seed, the table, recommendations."""
  del argv
  out = _results.prepare_out(FLAGS.out)
  check_positive("seeds", FLAGS.seeds)
  _common.use_compilation_cache()
  synthetic = generate(_synthetic())
  dataset = synthetic.dataset
  forget = _common.read_forget(None, dataset.train, by="interaction", ratio=FLAGS.ratio, selection="random", seed=0)
  measure = _common.Measure(dataset, forget)
  chosen = _common.override(recipe("bprmf"), "bprmf")
  if "checkpoint_every" not in _common.present("train"):  # a fit takes seconds here, less than its checkpoints would
    chosen = chosen._replace(train_config=dataclasses.replace(chosen.train_config, checkpoint_every=10_000))
  if not FLAGS.quiet:
    print(
      f"Data: synthetic, {dataset.num_users:,} users × {dataset.num_items:,} items, {len(dataset.train):,} train "
      f"pairs. To forget: {len(forget):,} of them, drawn at random."
    )
  cells = Cells(
    out / "bprmf", "bprmf", chosen, "tuned", dataset, forget, measure,
    epochs=FLAGS.epochs, lightul=_common.present("lightul"), overwrite=FLAGS.overwrite,
    progress=False if FLAGS.quiet else None,
  )  # fmt: skip
  if not FLAGS.quiet:
    print(f"Model: BPRMF, {cells.config.num_epochs} epochs. Seeds: {FLAGS.seeds}.")
  for seed in range(FLAGS.seeds):
    for method in METHODS:
      cells.run(method, seed)
  paths = [cells.path(method, seed) for seed in range(FLAGS.seeds) for method in METHODS]
  results = _results.load_results(paths)
  files = _report.write(results, out, COLUMNS, title="Synthetic data: utility against completeness")
  if FLAGS.quiet:
    return
  print()
  _report.show(results, COLUMNS)
  print(f"\n{_bounds(synthetic, measure)}\n\n{_how_to_read(results)}\n")
  print("\n".join(map(str, [*files, out / "bprmf" / "METHOD" / "seedN" / _results.FILE_NAME])))
  if cells.num_found:
    print(f"{cells.num_found} of {len(paths)} results were there already; --overwrite runs them anew.", file=sys.stderr)
  print(f"\n{_recommendations(cells, dataset, forget)}")


def _bounds(synthetic: Synthetic, measure: _common.Measure) -> str:
  """NDCG@20 of the truth behind the data and of popularity, through the ordinary metric."""
  user, item = synthetic.oracle_embeddings()
  best, _ = measure(vectors_scorer(Embeddings(jnp.asarray(user), jnp.asarray(item))))
  model, train = popularity(), synthetic.dataset.train
  params = model.init(jax.random.key(0), train.num_users, train.num_items)
  popular, _ = measure(scorer_of(model, params, model.context(train)))
  return (
    f"NDCG@20 of the oracle, which knows how the data were drawn: {best['ndcg@20']:.4f}; "
    f"of the most popular items: {popular['ndcg@20']:.4f}."
  )


def _how_to_read(results: Sequence[Mapping[str, Any]]) -> str:
  rows = {row.method: row for row in _report.collect(results)}
  target, _ = rows["retrain"].mean_sd("completeness.auc")
  return (
    "AUC: how often a kept pair scores above a forgotten one; 0.5 says that the model cannot tell them apart.\n"
    f"The target is Retrain's value, {target:.2f}, not 1: above it, the pairs stand out as ones that were removed.\n"
    "NDCG and Recall should stay at Retrain's. Seconds leave out compilation, which comes once; Original's are those\n"
    "of its fit. On so little data a fit is quick and there is little to save: experiments.compare makes the same\n"
    "table for a real dataset."
  )


def _recommendations(cells: Cells, dataset: Dataset, forget: Interactions) -> str:
  """Forgets the pairs, then one user wholly, and asks for a known, an unknown and the forgotten user by raw id."""
  method = lightul(cells.model, cells.config, LightULConfig.preset("preserve", cells.name, **cells.lightul))
  state, _ = method.unlearn(jax.random.key(0), cells.state(0), forget)
  ids = dataset.users.decode(np.flatnonzero(state.interactions.user_degrees())[:2]).tolist()
  known, gone = ids[0], ids[1]
  unknown = int(max(dataset.users.ids)) + 1
  request = Request(users=[gone], user_vocabulary=dataset.users, item_vocabulary=dataset.items)
  state, _ = method.unlearn(jax.random.key(1), state, request)
  found = recommend(
    method.scorer(state), [known, unknown, gone], 5, users=dataset.users, items=dataset.items, seen=state.interactions
  )
  lines = [f"Then user {gone} asks to be forgotten, and LightUL serves (raw ids of 5 items):"]
  for kind, user, row, is_popular in zip(
    ("known", "unknown", "forgotten"), (known, unknown, gone), found.item_ids, found.by_popularity, strict=True
  ):
    items = " ".join(f"{item:>4}" for item in row.tolist())
    lines.append(f"  user {user:>5} ({kind + ')':<10} {items}   {'the most popular' if is_popular else 'by taste'}")
  return "\n".join(lines)


if __name__ == "__main__":
  _flags.run(main)
