"""Requests one after another: utility and completeness along a stream, against Retrain, and against one request of all.

    python -m experiments.stream --dataset=ml-1m --model=bprmf --methods=rownewton --requests=100 --pairs=10 \\
        --out=runs/stream
    python -m experiments.stream --dataset=ml-100k --by=user --requests=50 --every=5 --out=runs/stream-user

Each request forgets pairs that are still there; its state is what the next one gets. --by=user is ERASE's sequential
scenario: a request is one user with all of their pairs. Retrain trains anew at --references evenly spaced places, with
the same key and epochs; there RelEff@20 is the ratio of NDCG@20 to Retrain's, of all users and of those who are not yet
forgotten. Programs compiled during a request are counted: after the first there should be none, but for requests that
need more room than all before them.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import jax
from absl import flags

from experiments import _common, _flags, _identity, _names, _report, _results, _stream
from experiments._methods import POST_HOC, settings
from jaxunlearn._validate import check_choice
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.models import CONFIGS
from jaxunlearn.recipes import recipe
from jaxunlearn.unlearn.retrain import ModelState, model_scorer

FLAGS = flags.FLAGS
_common.data_flags("ml-1m")
flags.DEFINE_enum("model", "bprmf", list(CONFIGS), "base model")
flags.DEFINE_list("methods", ["rownewton", "l2unrank"], f"of {', '.join(POST_HOC)}")
flags.DEFINE_integer("requests", 100, "requests, one after another", lower_bound=1)
flags.DEFINE_enum("by", "interaction", ["interaction", "user"], "a request: --pairs random pairs, or a random user's")
flags.DEFINE_integer("pairs", 10, "random pairs of each, with --by=interaction", lower_bound=1)
flags.DEFINE_integer("every", 10, "requests between two measurements", lower_bound=1)
flags.DEFINE_integer("references", 4, "places at which Retrain trains anew, the last of them at the end", lower_bound=0)
flags.DEFINE_integer("epochs", 0, "epochs of the base model; 0: the recipe's bound")
flags.DEFINE_integer("seed", 0, "of the fit and of the requests", lower_bound=0)
flags.DEFINE_string("out", "runs/stream", "folder for result.json, the plot and checkpoints of the trainings")
flags.DEFINE_boolean("quiet", False, "no progress bar, no table")
_common.define_model_flags()
for _name, (_, _config) in POST_HOC.items():
  _flags.define(_name, _config)


def _requests(data: Interactions) -> list[Interactions]:
  """What the flags ask for.

  Raises:
    ValueError: --pairs with --by=user, or more than there is.
  """
  if FLAGS.by == "interaction":
    return _stream.draw_requests(data, FLAGS.requests, FLAGS.pairs, FLAGS.seed)
  if FLAGS["pairs"].present:
    raise ValueError(f"Expected no --pairs with --by=user, where a request is all of a user's, got {FLAGS.pairs}.")
  return _stream.draw_users(data, FLAGS.requests, FLAGS.seed)


def main(argv: list[str]) -> None:
  """Trains, streams, retrains, writes, draws."""
  del argv
  out = _results.prepare_out(FLAGS.out)
  _identity.alone(out, "stream")
  _common.use_compilation_cache()
  for method in FLAGS.methods:
    check_choice("methods", method, tuple(POST_HOC))
  how = _common.override(recipe(FLAGS.model), FLAGS.model)
  model, config = how.model(FLAGS.model), how.train_config
  if FLAGS.epochs:
    config = dataclasses.replace(config, num_epochs=FLAGS.epochs)
  dataset = _common.load_dataset()
  requests = _requests(dataset.train)
  along = _stream.Along(dataset, _stream.so_far(requests))
  key, hide = jax.random.key(FLAGS.seed), FLAGS.quiet or not sys.stderr.isatty()
  progress = False if FLAGS.quiet else None

  def train(data: Interactions, name: str) -> ModelState:
    fitted = _common.timed_fit(key, model, data, config, folder=out / "fits" / name, progress=progress)
    return ModelState(fitted.value.params, data)

  state = train(dataset.train, "original")
  places = _stream.reference_places(len(requests), FLAGS.references)
  measured = {*range(FLAGS.every, len(requests), FLAGS.every), *places, len(requests)}
  streams: dict[str, Any] = {}
  methods: dict[str, Any] = {}
  for method in sorted(set(FLAGS.methods), key=_names.rank):
    chosen = settings(method, FLAGS.model, config, _common.present(method))["method"]
    methods[method] = {"method": chosen}
    unlearner = POST_HOC[method][0](model, config, chosen, progress=False)
    streams[method] = _stream.run_stream(unlearner, key, state, requests, along, measured, progress=not hide)
  before = along(model_scorer(model, state), len(requests))
  references = []
  for place in places:
    gone = along.forgotten[place - 1]
    # Named by what is gone, so that another stream in the same folder trains its own.
    retrained = train(dataset.train.without(gone), f"retrain-{gone.digest()[:8]}")
    references.append(along(model_scorer(model, retrained), place))
  for found in streams.values():
    found["points"] = _stream.against(found["points"], references)
    (found["joint"],) = _stream.against([found["joint"]], references)
  (before,) = _stream.against([before], references)
  result = {
    "schema": _results.SCHEMA,
    "stream": streams,
    "retrain": references,
    "original": before,
    "by": FLAGS.by,
    "sizes": [len(request) for request in requests],
    "model": FLAGS.model,
    "dataset": dataset.name,
    "data_hash": dataset.train.digest(),
    "forget_hash": along.forgotten[-1].digest(),
    "config": {"model": how.model_config, "train": config, "seed": FLAGS.seed},
    "methods": methods,
    **_results.provenance(),
  }
  files = [_results.write_result(out, result), *_stream.draw(streams, references, out / "plot")]
  if not FLAGS.quiet:
    print(_report.text_table(*_stream.table(streams, references, before), box=False))
    print("\n".join(map(str, files)), file=sys.stderr)


if __name__ == "__main__":
  _stream.count_compilations()
  _flags.run(main, interrupted="Interrupted: trainings resume; run the command again.")
