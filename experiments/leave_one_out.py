"""Influence against leave-one-out retraining: by how much a pair's score falls, predicted and true, a point a pair.

    python -m experiments.leave_one_out --dataset=ml-100k --methods=rownewton,l2unrank,ifru --out=runs/leave-one-out

BPR-MF on a small part of a data set, trained to convergence by full-batch gradients of the expected objective
(all negatives, no draws), so that what leaving a pair out changes is not drowned by training's own noise. Retraining
starts from the trained parameters without that pair, or from the initial ones (--start=init). A method gets the
trained parameters and one request; its prediction is the forgotten pair's score after minus before.
"""

from __future__ import annotations

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import _common, _flags, _identity, _leave_one_out, _names, _report, _results
from experiments._methods import POST_HOC, settings, variant
from jaxunlearn._validate import check_choice, check_positive
from jaxunlearn.models import BPRMFConfig, bprmf
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn.retrain import ModelState

FLAGS = flags.FLAGS
_common.data_flags("ml-100k")
flags.DEFINE_list(
  "methods", ["rownewton", "l2unrank", "ifru", "finetune", "gradient-ascent"], f"of {', '.join(POST_HOC)}"
)
flags.DEFINE_integer("num_users", 60, "users, drawn from those with some of the items", lower_bound=2)
flags.DEFINE_integer("num_items", 120, "items, those with the most pairs", lower_bound=3)
flags.DEFINE_integer("num_pairs", 40, "pairs left out, one after another", lower_bound=2)
flags.DEFINE_integer("embedding_dim", 8, "length of a vector", lower_bound=1)
flags.DEFINE_float("l2", 5e-2, "weight of the L2 term", lower_bound=0.0)
flags.DEFINE_integer("steps", 3000, "full-batch steps of training", lower_bound=1)
flags.DEFINE_integer("retrain_steps", 1000, "full-batch steps of each retraining", lower_bound=1)
flags.DEFINE_enum("start", "trained", ["trained", "init"], "where retraining starts")
flags.DEFINE_integer("seed", 0, "of users, pairs and initialisation", lower_bound=0)
flags.DEFINE_string("out", "runs/leave-one-out", "folder for result.json and the plot")
flags.DEFINE_boolean("quiet", False, "no progress bar, no table")
for _name, (_, _config) in POST_HOC.items():
  _flags.define(_name, _config)


def main(argv: list[str]) -> None:
  """Trains, leaves out, predicts, writes, draws."""
  del argv
  out = _results.prepare_out(FLAGS.out)
  _identity.alone(out, "leave_one_out")
  _common.use_compilation_cache()
  for method in FLAGS.methods:
    check_choice("methods", variant(method)[0], tuple(POST_HOC))
  check_positive("steps", FLAGS.steps)
  rng = np.random.default_rng(FLAGS.seed)
  data = _leave_one_out.small_part(rng, _common.load_dataset().train, FLAGS.num_users, FLAGS.num_items)
  if FLAGS.num_pairs >= len(data):
    raise ValueError(f"Expected --num_pairs={FLAGS.num_pairs} below {len(data)}, the number of pairs there are.")
  key, l2 = jax.random.key(FLAGS.seed), jnp.float32(FLAGS.l2)
  model = bprmf(BPRMFConfig(embedding_dim=FLAGS.embedding_dim, l2=FLAGS.l2))
  train_config = TrainConfig()
  member = jnp.zeros((data.num_users, data.num_items)).at[data.user, data.item].set(1.0)
  start = model.init(key, data.num_users, data.num_items)
  params, gradient = _leave_one_out.descend(start, member, l2, steps=FLAGS.steps)
  left_out = rng.choice(len(data), FLAGS.num_pairs, replace=False)
  bar = functools.partial(tqdm, disable=FLAGS.quiet or not sys.stderr.isatty())
  true, slack = [], [float(gradient)]
  for index in bar(left_out, desc="retraining"):
    user, item = int(data.user[index]), int(data.item[index])
    first, steps = (params, FLAGS.retrain_steps) if FLAGS.start == "trained" else (start, FLAGS.steps)
    again, gradient = _leave_one_out.descend(first, member.at[user, item].set(0.0), l2, steps=steps)
    true.append(_leave_one_out.score(again, user, item) - _leave_one_out.score(params, user, item))
    slack.append(float(gradient))
  predicted: dict[str, list[float]] = {}
  for label in sorted(set(FLAGS.methods), key=_names.rank):
    method, _, own = variant(label)
    config = settings(method, "bprmf", train_config, {**_common.present(method), **own})["method"]
    unlearner = POST_HOC[method][0](model, train_config, config, progress=False)
    predicted[label] = []
    for index in bar(left_out, desc=_names.display(label)):
      user, item = int(data.user[index]), int(data.item[index])
      request = data.select(np.arange(len(data)) == index)
      new = unlearner.unlearn(jax.random.fold_in(key, index), ModelState(params, data), request).state.params
      predicted[label].append(_leave_one_out.score(new, user, item) - _leave_one_out.score(params, user, item))
  found = {method: _leave_one_out.agreement(changes, true) for method, changes in predicted.items()}
  result = {
    "schema": _results.SCHEMA,
    "leave_one_out": {m: {**found[m], "predicted": predicted[m]} for m in predicted},
    "true": true,
    "largest_gradient": max(slack),
    "pairs": [[int(data.user[i]), int(data.item[i])] for i in left_out],
    "data": {
      "name": FLAGS.dataset,
      "seed": FLAGS.seed,
      "users": data.num_users,
      "items": data.num_items,
      "pairs": len(data),
    },
    "data_hash": data.digest(),
    **_results.provenance(),
  }
  files = [_results.write_result(out, result), *_leave_one_out.draw(predicted, true, out / "plot")]
  if not FLAGS.quiet:
    body = [[_names.display(m), *(f"{found[m][n]:.3f}" for n in ("pearson", "spearman", "slope"))] for m in found]
    print(_report.text_table(["method", "Pearson", "Spearman", "slope"], body, box=False))
    print("\n".join(map(str, files)), file=sys.stderr)


if __name__ == "__main__":
  _flags.run(main, interrupted="Interrupted: nothing was written; run the command again.")
