"""LightUL: whiten the vectors of affected users and items with two small networks, after training; phantom users.

Three layers: `unlearn` (pure function), `lightul` (the `Unlearner`), `experiments/unlearn.py` (the script).
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxunlearn._validate import (
  check_choice,
  check_finite,
  check_fraction,
  check_integers,
  check_non_negative,
  check_positive,
  check_preset,
  check_tables,
)
from jaxunlearn.base import Embeddings, Model, Params, Scorer, Unlearner, UnlearnResult, inner_product_score
from jaxunlearn.data.interactions import Interactions, capacity_for
from jaxunlearn.epoch import copy_tree
from jaxunlearn.kmeans import kmeans, merge_small
from jaxunlearn.metrics.completeness import completeness_auc, completeness_probe, pair_scores
from jaxunlearn.models.frozen import vectors_model
from jaxunlearn.requests import Request, resolve, retained_of
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn import _whitening
from jaxunlearn.unlearn.retrain import ModelState, fit_model, model_scorer

OBJECTIVES = ("preserve", "paper", "released")
_PROBED = 4096  # retained pairs, evenly spaced, whose scores set the unit of a score
_FORGET_SHARE = 16  # requests of up to 1/16 of the pairs' capacity share one shape, so one compilation


@dataclasses.dataclass(frozen=True, kw_only=True)
class LightULConfig:
  """Hyper-parameters; `LightULConfig.preset(objective)` gives each objective's own."""

  objective: str = "preserve"  # "preserve" (ours), "paper" (as printed), "released" (as the authors' code)
  phantoms: bool = True  # the full method; False is LightUL-WM
  alpha: float = 0.5  # weight of the forgetting loss; paper: of L1 against (1 − alpha) L2; released: of its ℓ2, ≥ 0
  preserve: float = 2.0  # weight of the squared change of served scores ("preserve" only), ≥ 0
  num_preserve: int = 1024  # retained pairs, and as many random pairs, a step ("preserve" only), ≥ 1
  phantom_weight: float = 0.2  # λ, weight of the phantom loss, ≥ 0
  phantom_ratio: float = 0.4  # clusters per user row, in (0, 1]
  min_cluster_size: int = 2  # users a phantom stands for at least, ≥ 1; 1 lets a phantom be one person's pseudonym
  kmeans_iterations: int = 10  # Lloyd iterations, ≥ 1
  decay: float = 1e-5  # γ, weight of ‖Θ‖² (released: of its phantom rows), ≥ 0
  hidden: int = 64  # width of Ω's hidden layer, ≥ 1
  residual: bool = True  # Ω(x) = x + MLP(x) with the last layer zero at first, against a plain MLP
  agg: str = "dot"  # how a score enters the losses: "dot", or "sigmoid" of it
  reduction: str = "mean"  # of L1 ("paper" only): "mean", or "sum" as printed
  learning_rate: float = 2.5e-3  # Adam's, > 0
  batch_size: int = 512  # forgotten pairs a step, ≥ 1
  num_epochs: int = 60  # passes over the forgotten pairs, an upper bound with patience, ≥ 1
  patience: int = 0  # epochs without min_delta more probe AUC before stopping; the best are served; 0: all num_epochs
  min_delta: float = 0.01  # see patience, ≥ 0

  def __post_init__(self) -> None:
    check_integers(self)
    check_choice("objective", self.objective, OBJECTIVES)
    check_choice("agg", self.agg, ("dot", "sigmoid"))
    check_choice("reduction", self.reduction, ("mean", "sum"))
    check_fraction("phantom_ratio", self.phantom_ratio, closed=True)
    for name in (
      "num_preserve",
      "min_cluster_size",
      "kmeans_iterations",
      "hidden",
      "learning_rate",
      "batch_size",
      "num_epochs",
    ):
      check_positive(name, getattr(self, name))
    for name in ("alpha", "preserve", "phantom_weight", "decay", "patience", "min_delta"):
      check_non_negative(name, getattr(self, name))

  @classmethod
  def preset(cls, objective: str, model: str = "bprmf", **changes: Any) -> LightULConfig:
    """Each objective's own hyper-parameters; `changes` override them.

    "preserve": tuned on ml-1m, BPRMF, seed 0, and held fixed on everything else. "paper": the paper's values, a plain
    64→32→64 MLP, frozen base. "released": the code's defaults (α = 2, β = 4, sigmoid scores for MF), which its authors'
    scripts run with; the help text would have α = 3 for MF and 1 for LightGCN. Base not frozen, the score before Ω
    is the current one; over a graph, phantoms have no nodes here. The last two stop after 11 epochs without 0.01 more
    of a probe AUC and serve the last epoch that brought that, the code's rule; the code reads the completeness test
    pairs for it, we draw others. Their networks start as PyTorch's do.
    """
    check_choice("objective", objective, OBJECTIVES)
    check_preset(model, ("lightgcn",))
    published: dict[str, Any] = {
      "hidden": 32, "residual": False, "decay": 1e-4, "min_cluster_size": 1, "num_epochs": 200, "patience": 11,
      "phantom_weight": 2.0, "learning_rate": 5e-3,
    }  # fmt: skip
    if objective == "paper":
      changes = {**published, **changes}
    elif objective == "released":
      squash = "dot" if model == "lightgcn" else "sigmoid"
      changes = {**published, "alpha": 2.0, "phantom_weight": 4.0, "agg": squash, **changes}
    return cls(objective=objective, **changes)


class ServedState(struct.PyTreeNode):
  """What LightUL leaves behind: the vectors that are served, and the retained pairs.

  The base parameters, Ω, the phantoms and the cluster of each user are dropped: they were trained on what is forgotten.

  Attributes:
    vectors: whitened vectors of affected rows, untouched vectors of all others.
    interactions: retained pairs.
    capacity: rows that the pairs were first padded to, so that the next request has the same shapes.
  """

  vectors: Embeddings
  interactions: Interactions
  capacity: int = struct.field(pytree_node=False)


def unlearn(
  key: jax.Array,
  model: Model,
  params: Params,
  interactions: Interactions,
  forget: Interactions,
  config: LightULConfig | None = None,
  *,
  capacity: int | None = None,
  diagnostics: bool = False,
) -> UnlearnResult:
  """Forgets pairs by whitening the vectors of their users and items.

  With e = encode(params) over the retained graph, s⁰ the old score and e' = e + Ω(e) on affected rows, e' = e
  elsewhere, the default objective minimises, over the forgotten pairs,

    α · mean softplus(s' − s⁰) + preserve · mean (s' − s)²  [+ λ L_PU] + γ ‖Θ‖²

  where the second mean is over retained and over random pairs, scores are in units of their standard deviation over
  retained pairs, and Ω works on vectors in units of their entries' root mean square: without phantoms scaling either
  table of the model changes nothing. L_PU scores phantoms of a fixed scale against the items' own vectors, so that it
  weighs more where these are larger: for vectors of an unusual scale use `phantoms=False`, which costs nothing. The
  paper's L2 instead pulls forgotten pairs to non-existing ones and nothing holds the retained ones, which destroys the
  ranking (both: BUILD_NOTES, "LightUL").

  Args:
    key: initialisation, negatives, clusters.
    model: bprmf, lightgcn, frozen, or any whose score is an inner product.
    params: its trained parameters.
    interactions: what it was trained on, the forgotten pairs included.
    forget: pairs of `interactions`.
    config: hyper-parameters.
    capacity: rows to pad the pairs to; None: the next power of two.
    diagnostics: add `info["unwhitened"]`, the vectors without Ω, for the as-published score. They are not forgotten!

  Returns:
    UnlearnResult: a `ServedState`, and info: seconds, epochs, probe_auc (one a measured epoch), affected users and
    items, clusters, and `alone_share`, the share of forgetting users who are alone in their cluster.

  Raises:
    ValueError: the score is no inner product; a vector or the result is not finite; a pair was not trained on, or none
      is left.

  Guarantee: approximate; no bound is known. Rows of users and items without a forgotten pair are returned bitwise
  unchanged (over the retained graph), but for "released", which trains the base. A user whose pairs are all forgotten
  keeps a whitened row; recommend() answers with popularity for them, counted over the retained pairs. The graph is
  repacked without the pairs. The vocabulary keeps the raw ids.

  References:
    LightUL: An Efficient Recommendation Unlearning Framework, VLDB workshops 2025. Deviations: facts in BUILD_NOTES.
  """
  config = config or LightULConfig()
  _check_scores(model)
  check_tables(params, interactions)
  check_finite("params", params)
  start = time.perf_counter()
  capacity = capacity_for(len(interactions)) if capacity is None else capacity
  retained = retained_of(interactions, forget)
  before_context = model.context(interactions)
  before = model.encode(params, before_context)
  if not len(forget):
    return UnlearnResult(ServedState(before, interactions, capacity), {"num_forgotten": 0, "seconds": 0.0})
  context = model.context(retained)
  base = before if context is None else model.encode(params, context)
  problem, clusters = _problem(key, before, base, interactions, retained, forget, config, capacity)
  released = config.objective == "released"
  if released:
    problem = problem.replace(params=params, context=context)
  static, weights = static_of(config, model if released else _VECTORS), weights_of(config)
  variables = _whitening.init_variables(jax.random.fold_in(key, 2), problem, static)
  variables, history, loss = _minimise(
    jax.random.fold_in(key, 3), variables, problem, weights, static, config, retained, forget
  )
  after, unwhitened = _whitening.served(variables, problem, static=static)
  check_finite("the whitened vectors", after)
  info: dict[str, Any] = {
    "num_forgotten": len(forget),
    "epochs": len(history) if config.patience else config.num_epochs,
    "loss": float(loss),
    "probe_auc": history,
    "affected_users": int(np.sum(np.asarray(problem.user_affected))),
    "affected_items": int(np.sum(np.asarray(problem.item_affected))),
    **clusters,
  }
  if diagnostics:
    info["unwhitened"] = unwhitened
  info["seconds"] = time.perf_counter() - start
  return UnlearnResult(ServedState(after, retained, capacity), info)


_VECTORS = vectors_model()


def static_of(config: LightULConfig, model: Model) -> _whitening.Static:
  """What a configuration compiles for; `model` is what "released" trains, `vectors_model()` elsewhere."""
  return _whitening.Static(
    objective=config.objective,
    phantoms=config.phantoms,
    squash=config.agg == "sigmoid",
    reduction=config.reduction,
    hidden=config.hidden,
    residual=config.residual,
    batch_size=config.batch_size,
    num_preserve=config.num_preserve,
    model=model,
  )


def weights_of(config: LightULConfig) -> _whitening.Weights:
  """The scalars of a configuration."""
  return _whitening.Weights(
    *(
      jnp.float32(x) for x in (config.alpha, config.phantom_weight, config.decay, config.preserve, config.learning_rate)
    )
  )


def forget_capacity_for(count: int, capacity: int) -> int:
  """Rows that `count` forgotten pairs are padded to, where all pairs have `capacity` of them."""
  return max(capacity_for(count), capacity // _FORGET_SHARE)


def _problem(
  key: jax.Array,
  before: Embeddings,
  base: Embeddings,
  interactions: Interactions,
  retained: Interactions,
  forget: Interactions,
  config: LightULConfig,
  capacity: int,
  forget_capacity: int | None = None,
) -> tuple[_whitening.Problem, dict[str, Any]]:
  """Everything that the losses read, at capacities that the next request shares; and what the clusters look like."""
  num_users, num_items = interactions.num_users, interactions.num_items
  if forget_capacity is None:
    forget_capacity = forget_capacity_for(len(forget), capacity)
  phantom_of, num_clusters, info = np.zeros(num_users, np.int32), 1, {}
  if config.phantoms and config.objective != "released":
    present = jnp.asarray(interactions.user_degrees() > 0)
    num_clusters = max(1, min(round(config.phantom_ratio * num_users), num_users))
    found = kmeans(
      jax.random.fold_in(key, 1),
      before.user,
      present,
      num_clusters=num_clusters,
      num_iterations=config.kmeans_iterations,
    )
    found = merge_small(before.user, present, found, config.min_cluster_size)
    phantom_of = np.asarray(found.assignment)
    size = np.bincount(phantom_of[np.asarray(present)], minlength=num_clusters)
    alone = float(np.mean(size[phantom_of[np.unique(forget.user)]] == 1))
    info = {"clusters": int(np.sum(size > 0)), "singleton_clusters": int(np.sum(size == 1)), "alone_share": alone}
    if alone > 0:
      warnings.warn(
        f"{alone:.0%} of the forgetting users are alone in their cluster: their phantom is a pseudonym. "
        "Raise min_cluster_size or lower phantom_ratio.",
        stacklevel=3,
      )
  moved = Interactions.from_pairs(phantom_of[forget.user], forget.item, num_users=num_clusters, num_items=num_items)
  one = jnp.ones(())
  units, score_unit = Embeddings(one, one), one
  if config.objective == "preserve":
    scores = pair_scores(vectors_scorer(base), retained.select(np.linspace(0, len(retained) - 1, _PROBED).astype(int)))
    units = Embeddings(*(jnp.maximum(jnp.sqrt(jnp.mean(jnp.square(table))), 1e-12) for table in base))
    score_unit = jnp.maximum(jnp.std(jnp.asarray(scores)), 1e-12)
  problem = _whitening.Problem(
    before=before,
    base=base,
    forget=forget.padded(forget_capacity),
    retained=retained.padded(capacity),
    known=interactions.padded(capacity),
    user_affected=jnp.asarray(forget.user_degrees() > 0),
    item_affected=jnp.asarray(forget.item_degrees() > 0),
    phantom_of=jnp.asarray(phantom_of),
    phantom_pairs=moved.padded(forget_capacity),
    units=units,
    score_unit=score_unit,
    params=None,
    context=None,
  )
  return problem, info


def _minimise(
  key: jax.Array,
  variables: dict[str, Any],
  problem: _whitening.Problem,
  weights: _whitening.Weights,
  static: _whitening.Static,
  config: LightULConfig,
  retained: Interactions,
  forget: Interactions,
) -> tuple[dict[str, Any], list[float], jax.Array]:
  """All epochs in one program; with patience, one program an epoch and a probe AUC between, and the best are kept."""
  carry = (copy_tree(variables), _whitening.init_moments(variables))

  def run(carry: Any, first: int, last: int) -> Any:
    return _whitening.run_epochs(key, carry, problem, weights, jnp.int32(first), jnp.int32(last), static=static)

  if not config.patience:
    carry, loss = run(carry, 0, config.num_epochs)
    return carry[0], [], loss
  # Drawn here, so not the pairs that completeness is measured on.
  probe = completeness_probe(np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist()), retained, forget)
  history: list[float] = []
  best, stale, kept = -np.inf, 0, variables
  loss = jnp.zeros(())
  for epoch in range(config.num_epochs):
    carry, loss = run(carry, epoch, epoch + 1)
    vectors, _ = _whitening.served(carry[0], problem, static=static)
    if not np.isfinite(float(loss)):
      raise ValueError(
        f"LightUL diverged: the loss is not finite at epoch {epoch + 1}; lower learning_rate={config.learning_rate}."
      )
    history.append(completeness_auc(vectors_scorer(vectors), probe))
    if history[-1] > best + config.min_delta:
      best, stale, kept = history[-1], 0, copy_tree(carry[0])  # the carry itself is donated to the next epoch
    else:
      stale += 1
    if stale >= config.patience:
      break
  return kept, history, loss


def vectors_scorer(vectors: Embeddings) -> Scorer:
  """Serves two tables by inner product."""
  return Scorer(params=None, vectors=vectors, score=inner_product_score, inner_product=True)


def _check_scores(model: Model) -> None:
  if not model.inner_product:
    raise ValueError(
      f"LightUL is defined for scores that are inner products; {model.name}'s is not. Use retrain instead."
    )


def lightul(
  model: Model,
  train_config: TrainConfig | None = None,
  config: LightULConfig | None = None,
  *,
  progress: bool | None = None,
) -> Unlearner:
  """LightUL as an `Unlearner`; guarantee and costs as in `unlearn`.

  A later request starts from the served vectors of the one before (`ServedState`), since the base parameters are
  gone; for LightGCN the graph edit of later requests then no longer acts on the vectors, only whitening does.

  Args:
    model: bprmf, lightgcn, frozen.
    train_config: for `fit`; may be None when nothing is to be trained.
    config: LightUL's.
    progress: as for `train.fit`.

  Raises:
    ValueError: the score is no inner product; of a request: the state is not one of a single model.
  """
  config = config or LightULConfig()
  _check_scores(model)

  def fit_fn(key: jax.Array, interactions: Interactions) -> ModelState:
    return fit_model(key, model, interactions, train_config or TrainConfig(), progress=progress)

  def unlearn_fn(key: jax.Array, state: ModelState | ServedState, request: Request | Interactions) -> UnlearnResult:
    if not isinstance(state, ModelState | ServedState):
      raise ValueError(f"Expected a ModelState or a ServedState, got {type(state).__name__}: another method's.")
    forget = resolve(request, state.interactions)
    if not len(forget):
      return UnlearnResult(state, {"num_forgotten": 0, "seconds": 0.0})
    if isinstance(state, ServedState):
      params = {"user": state.vectors.user, "item": state.vectors.item}
      return unlearn(key, _VECTORS, params, state.interactions, forget, config, capacity=state.capacity)
    return unlearn(key, model, state.params, state.interactions, forget, config)

  def scorer(state: ModelState | ServedState) -> Scorer:
    return vectors_scorer(state.vectors) if isinstance(state, ServedState) else model_scorer(model, state)

  return Unlearner(fit_fn, unlearn_fn, scorer, "approximate", "lightul" if config.phantoms else "lightul-wm")
