"""LightUL's minimisation along a shard axis: the jitted core behind `sharded_lightul`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.base import Embeddings
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.metrics.completeness import completeness_auc, completeness_probe
from jaxunlearn.models.frozen import vectors_model
from jaxunlearn.unlearn import _whitening
from jaxunlearn.unlearn.lightul import LightULConfig, static_of, vectors_scorer, weights_of

_VECTORS = vectors_model()


def rows_of(vectors: Embeddings, shard: int) -> Embeddings:
  """The vectors of one shard out of stacked ones."""
  return Embeddings(vectors.user[shard], vectors.item[shard])


def stack(trees: Sequence[Any]) -> Any:
  """Trees of one structure as one, along a new leading axis."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@functools.partial(jax.jit, static_argnames=("static",))
def _start(keys: jax.Array, problems: _whitening.Problem, *, static: _whitening.Static) -> tuple[Any, Any]:
  """Networks, phantoms and Adam's state of every shard, along a leading axis."""
  variables = jax.vmap(lambda key, problem: _whitening.init_variables(key, problem, static))(keys, problems)
  return variables, jax.vmap(_whitening.init_moments)(variables)


@functools.partial(jax.jit, static_argnames=("static", "way"), donate_argnames=("carry",))
def _run(
  keys: jax.Array,
  carry: tuple[Any, Any],
  problems: _whitening.Problem,
  weights: _whitening.Weights,
  first: jax.Array,
  last: jax.Array,
  *,
  static: _whitening.Static,
  way: str,
) -> tuple[tuple[Any, Any], jax.Array]:
  """`run_epochs` of every shard: from `first` (scalar) to the shard's own `last` (int32 [K]); losses float [K]."""

  def one(args: Any) -> Any:
    key, carry, problem, last = args
    return _whitening.run_epochs(key, carry, problem, weights, first, last, static=static)

  args = (keys, carry, problems, last)
  return jax.lax.map(one, args) if way == "map" else jax.vmap(one)(args)


@functools.partial(jax.jit, static_argnames=("static",))
@jax.default_matmul_precision("highest")
def _served(
  variables: Any, problems: _whitening.Problem, old: Embeddings, active: jax.Array, *, static: _whitening.Static
) -> Embeddings:
  """Whitened vectors of the shards in `active` (bool [K]), `old` ones of the others."""
  new, _ = jax.vmap(lambda v, p: _whitening.served(v, p, static=static))(variables, problems)
  return jax.tree.map(lambda a, b: jnp.where(active[:, None, None], a, b), new, old)


def blank(like: _whitening.Problem) -> _whitening.Problem:
  """A problem of the same shapes without a pair: no step is taken in it."""
  one = jnp.ones(())
  return jax.tree.map(jnp.zeros_like, like).replace(units=Embeddings(one, one), score_unit=one)


@jax.jit
def _pick(which: jax.Array, new: Embeddings, other: Embeddings) -> Embeddings:
  """The vectors of `new` for the shards of `which` (bool [K]), of `other` for the rest."""
  return jax.tree.map(lambda a, b: jnp.where(which[:, None, None], a, b), new, other)


def minimise(
  keys: jax.Array,
  problems: _whitening.Problem,
  old: Embeddings,
  kept: Sequence[Interactions],
  lost: Sequence[Interactions],
  whitened: list[int],
  config: LightULConfig,
  way: str,
) -> tuple[Embeddings, dict[str, Any]]:
  """All epochs in one program; with patience, one program an epoch, which shards leave as their own probe says,
  each with the vectors of its best.

  Args:
    keys: K, of the whole request in each shard.
    problems: of all shards, stacked; `blank` ones for shards that are not whitened.
    old: what the other shards serve, stacked.
    kept: retained pairs of each shard.
    lost: forgotten pairs of each shard.
    whitened: numbers of the shards with forgotten and with retained pairs.
    config: LightUL's.
    way: "vmap" or "map".

  Returns:
    Served vectors, stacked; and details, a value a whitened shard.

  Raises:
    ValueError: a loss is not finite.
  """
  static, weights = static_of(config, _VECTORS), weights_of(config)
  start_keys, run_keys = (jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, stream) for stream in (2, 3))
  carry = _start(start_keys, problems, static=static)
  num_shards = len(kept)
  mine = np.isin(np.arange(num_shards), whitened)
  active, epochs, loss = mine.copy(), np.zeros(num_shards, int), np.zeros(num_shards, np.float32)
  history: list[list[float]] = [[] for _ in range(num_shards)]

  def run(carry: Any, first: int, count: int) -> Any:
    last = jnp.asarray(np.where(active, first + count, first), jnp.int32)
    return _run(run_keys, carry, problems, weights, jnp.int32(first), last, static=static, way=way)

  if not config.patience:
    carry, found = run(carry, 0, config.num_epochs)
    loss, epochs = np.asarray(found), np.where(mine, config.num_epochs, 0)
    after = _served(carry[0], problems, old, jnp.asarray(mine), static=static)
  else:
    after = old
    # Seeded like lightul's, so not the pairs that completeness is measured on.
    seeds = np.asarray(jax.random.key_data(run_keys)).tolist()
    probes = {s: completeness_probe(np.random.default_rng(seeds[s]), kept[s], lost[s]) for s in whitened}
    best, stale = np.full(num_shards, -np.inf), np.zeros(num_shards, int)
    for epoch in range(config.num_epochs):
      carry, found = run(carry, epoch, 1)
      loss, epochs = np.where(active, np.asarray(found), loss), epochs + active
      vectors = _served(carry[0], problems, old, jnp.asarray(mine), static=static)
      better = np.zeros(num_shards, bool)
      for s in np.flatnonzero(active).tolist():
        if not np.isfinite(loss[s]):
          raise ValueError(
            f"LightUL diverged: the loss of shard {s} is not finite at epoch {epoch + 1}; "
            f"lower learning_rate={config.learning_rate}."
          )
        value = completeness_auc(vectors_scorer(rows_of(vectors, s)), probes[s])
        history[s].append(value)
        better[s] = value > best[s] + config.min_delta
        best[s], stale[s] = (value, 0) if better[s] else (best[s], stale[s] + 1)
      after = _pick(jnp.asarray(better), vectors, after)
      active &= stale < config.patience
      if not active.any():
        break
  info = {
    "loss": loss[whitened].tolist(),
    "epochs": epochs[whitened].tolist(),
    "probe_auc": [history[s] for s in whitened],
    "affected_users": [int(np.unique(lost[s].user).size) for s in whitened],
    "affected_items": [int(np.unique(lost[s].item).size) for s in whitened],
  }
  return after, info
