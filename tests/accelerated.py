"""What methods and metrics do on an accelerator, without one: `python -m tests.accelerated NPZ [NAME …]`.

Where the package looks at the platform it is told "gpu", so that the branches for accelerators run, on the CPU; every
program that is called is lowered for a GPU and a TPU, too. NPZ gets what is served and measured. Prints a JSON object:
number of programs, which could not be lowered and why, the kernels that are not XLA's own, and the programs with a
matrix product whose operands an accelerator may round (TF32, bfloat16).
"""

import functools
import json
import re
import sys

import jax
import numpy as np

PLATFORMS = ("cuda", "tpu")
_jit = jax.jit
programs = set()
failures = {}
kernels = set()
rounded = set()


class Lowered:
  """A jitted function that is lowered for each of `PLATFORMS` before its first call with such arguments."""

  def __init__(self, fun, **options):
    functools.update_wrapper(self, fun)
    self._jitted = _jit(fun, **options)
    self._name = f"{fun.__module__}.{getattr(fun, '__qualname__', type(fun).__name__)}"

  def __call__(self, *args, **kwargs):
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, kwargs))):
      shapes = jax.tree.map(lambda x: f"{x.dtype}{x.shape}" if hasattr(x, "dtype") else repr(x), (args, kwargs))
      if (self, str(shapes)) not in programs:
        programs.add((self, str(shapes)))
        self._lower(*args, **kwargs)
    return self._jitted(*args, **kwargs)

  def __getattr__(self, name):
    return getattr(self._jitted, name)

  def _lower(self, *args, **kwargs):
    for platform in PLATFORMS:
      try:
        text = self._jitted.trace(*args, **kwargs).lower(lowering_platforms=(platform,)).as_text()
      except Exception as error:  # whatever it is, the test shows it
        failures[f"{self._name} for {platform}"] = f"{type(error).__name__}: {error}"
      else:
        kernels.update(re.findall(r"custom_call @(\w+)", text))
        # One that contracts nothing is a product of elements, which XLA makes of it before any rounding.
        products = re.findall(r"dot_general .*contracting_dims = \[\d.*", text)
        rounded.update(self._name for product in products if "precision = [HIGHEST, HIGHEST]" not in product)


def as_if_accelerated():
  """From here on, in this process; to be called before the package is imported."""
  jax.jit = lambda fun=None, **options: (
    functools.partial(Lowered, **options) if fun is None else Lowered(fun, **options)
  )
  jax.default_backend = lambda: "gpu"
  jax.lax.platform_dependent = lambda *args, default, **branches: default(*args)


def of_methods(names):
  """What is served before and after a request of one user, by name in `ROWS`."""
  from jaxunlearn import Request
  from tests.conformance.test_unlearners import KEY, ROWS
  from tests.small import random_pairs

  found = {}
  for name in names or ROWS:
    state = ROWS[name].fit(KEY, random_pairs())
    for when in ("before", "after"):
      vectors = ROWS[name].scorer(state).vectors
      found |= {f"{name} {when}, {side}": np.asarray(rows) for side, rows in vectors._asdict().items()}
      if when == "before":
        state, _ = ROWS[name].unlearn(KEY, state, Request(users=[3]))
  return found


def of_metrics():
  """Metrics of given vectors, where a list is sorted out of so many items that a CPU does it in blocks."""
  from jaxunlearn import base, frozen, metrics
  from tests.small import random_pairs

  data, rng = random_pairs(num_items=2000), np.random.default_rng(0)
  half = np.arange(len(data)) % 2 == 0
  train, test = data.select(half), data.select(~half)
  models = [frozen(rng.normal(size=(data.num_users, 4)), rng.normal(size=(data.num_items, 4))) for _ in range(2)]
  one, other = (base.scorer_of(model, model.init(None, data.num_users, data.num_items), None) for model in models)
  found = {
    "top items": metrics.top_k_items(one, np.arange(data.num_users), 5, mask=train),
    "ranking": list(metrics.evaluate(one, test, mask=train, ks=(5,)).values.values()),
    "overlap": metrics.overlap_at_k(one, other, 5, mask=train),
    "Spearman": metrics.user_spearman(one, other)[0],
    "AUC": metrics.completeness_auc(one, metrics.completeness_probe(rng, train, test)),
    "ranks": metrics.forgotten_ranks(one, test, mask=train),
    "places": metrics.rank_shift(one, other, test, mask=train).shifts,
    "standardised": metrics.standardised_scores(one, test),
  }
  return {name: np.asarray(value) for name, value in found.items()}


def of_graph():
  """Some rows of a propagation, one of them twice, and their gradient: so few that a CPU makes products of its own."""
  from jaxunlearn import graph
  from tests.small import random_pairs

  data, rng = random_pairs(), np.random.default_rng(0)
  nodes = rng.normal(size=(data.num_users + data.num_items, 4)).astype(np.float32)
  rows, built = np.array([3, 50, 3, 7], np.int32), graph.build_graph(data)

  @jax.jit
  def forth_and_back(built, nodes, rows):
    (first, mean), back = jax.vjp(lambda nodes: graph.propagate_rows(built, nodes, rows, 2), nodes)
    return {"layer 0": first, "propagated": mean, "gradient": back((mean, first))[0]}

  return forth_and_back(built, nodes, rows)


def main(path, names):
  """Runs, writes and prints."""
  as_if_accelerated()
  np.savez(path, **of_methods(names), **of_graph(), **of_metrics())
  report = {"programs": len(programs), "failures": failures, "kernels": sorted(kernels), "rounded": sorted(rounded)}
  print(json.dumps(report))


if __name__ == "__main__":
  main(sys.argv[1], sys.argv[2:])
