"""IFRU: one influence-function step on the rows near the forgotten pairs, with spillover through the graph.

Three layers: `unlearn` (pure function), `ifru` (the `Unlearner`), `experiments/unlearn.py` (the script).
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import linalg
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
from jaxunlearn.base import Model, Params, Unlearner, UnlearnResult
from jaxunlearn.data.interactions import Interactions, capacity_for
from jaxunlearn.requests import retained_of
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn import _curvature, _influence, _pair_curvature
from jaxunlearn.unlearn._importance import pruned_scope
from jaxunlearn.unlearn.retrain import ModelState, post_hoc

_RAISE = 4.0  # factor on damping after negative curvature
_SMALLEST_DAMPING = 1e-6  # where raising starts from 0
_SMALL_SHARE = 16  # scopes of up to 1/16 of the rows share one shape, so one compilation; larger ones another
_CHUNK = 2048  # examples at once; their rows stay in the cache, which on a CPU is worth a factor of two


@dataclasses.dataclass(frozen=True, kw_only=True)
class IFRUConfig:
  """Hyper-parameters; `IFRUConfig.preset(model name)` gives the released scope of each kind of model."""

  hops: int = 0  # steps from the forgotten pairs that the scope reaches, ≥ 0
  keep_fraction: float = 1.0  # share of the reached rows, the most important, that may move, in [0, 1]
  force_endpoints: bool = True  # the users and items of the forgotten pairs move whatever their importance
  spillover: str = "all"  # retained pairs whose change through the graph counts: "all", or "degree_ratio"
  degree_ratio: float = 0.01  # … only pairs at a node that lost a larger share of its pairs, in [0, 1]
  hessian: str = "retained"  # pairs under the Hessian: "retained" (Newton's), or "full" (the released code's)
  solver: str = "cg"  # "cg" (Hessian), "ggn_cg" (Gauss-Newton), "adam" (the released iteration)
  damping: float = 1e-2  # L2 added an example, for the solve alone, in the unit of the model's own l2, ≥ 0; not "adam"
  max_damping_raises: int = 6  # times that damping is raised at least fourfold after negative curvature, ≥ 0
  max_iterations: int = 100  # of conjugate gradient, ≥ 1
  # ‖residual‖ / ‖gradient‖ at which conjugate gradient stops, > 0; on ml-1m the step is then 6 % from the exact one
  # and forgets as much, while one step of an expansion misses a multiple of that
  tolerance: float = 0.1
  adam_step: float = 0.045  # first step of every entry; the released learning rate 2e4 / 445,561 pairs of ml-1m, > 0
  adam_iterations: int = 2  # the code stops early instead; choose it, as damping, on validation utility, ≥ 1
  # negatives drawn a pair, once a request, ≥ 1; WMF has none, NeuMF's have to be as many as training's, whose loss
  # weighs a positive against so many
  num_negatives: int = 1
  user_weight_power: float = 0.5  # as `TrainConfig.user_weight_power` of the model's training, ≥ 0; WMF has none
  avoid_positives: bool = True  # as `TrainConfig.avoid_positives`

  def __post_init__(self) -> None:
    check_integers(self)
    check_choice("spillover", self.spillover, ("all", "degree_ratio"))
    check_choice("hessian", self.hessian, ("retained", "full"))
    check_choice("solver", self.solver, _curvature.SOLVERS)
    check_fraction("keep_fraction", self.keep_fraction, closed=True)
    check_fraction("degree_ratio", self.degree_ratio, closed=True)
    for name in ("max_iterations", "tolerance", "adam_step", "adam_iterations", "num_negatives"):
      check_positive(name, getattr(self, name))
    for name in ("hops", "damping", "max_damping_raises", "user_weight_power"):
      check_non_negative(name, getattr(self, name))

  @classmethod
  def preset(cls, model: str, **changes: Any) -> IFRUConfig:
    """The released code's scope for a model name (LightGCN: one hop, the top 60 %), and a damping for its tuned recipe.

    The dampings are the smallest of 1e-3 · 4ᵏ and 1e-2 · 4ᵏ at which ml-1m's 1 % request met no negative curvature; no
    metric was looked at. Another recipe may need another, and gets it by `max_damping_raises`.
    """
    found: dict[str, dict[str, Any]] = {
      "bprmf": {"damping": 4e-2},
      "lightgcn": {"hops": 1, "keep_fraction": 0.6, "damping": 4e-3},
    }
    check_preset(model, found)
    return cls(**{**found.get(model, {}), **changes})


def unlearn(
  key: jax.Array,
  model: Model,
  params: Params,
  interactions: Interactions,
  forget: Interactions,
  config: IFRUConfig | None = None,
) -> UnlearnResult:
  """Forgets pairs by one damped Newton step towards the minimiser of the loss without them.

  With w the weight that training gives an example, ℓ the model's own loss with its L2 share, A and A_r the graphs of
  all and of the retained pairs, and S the scoped rows,

    g = Σ_forgotten w ∇ℓ(θ; A)  +  Σ_retained w [∇ℓ(θ; A) − ∇ℓ(θ; A_r)]
    θ_S  ←  θ_S + (H_SS + damping · D)⁻¹ g_S,      H = Σ_retained w ∇²ℓ(θ; A_r)

  The sign is plus: the loss of what is forgotten rises. Sums on both sides stand for the paper's 1/n. D holds for each
  row the weight of the examples that it takes part in: damping is L2 per example, and a row is damped in proportion to
  its data. The negatives are drawn once and shared by g and H. If θ is stationary, g is minus the gradient of the
  retained objective, so this is Newton's step on it; what training left of the gradient is not added, which would be
  continued training. Training here weighs an example (degree of its user)^−½ (`TrainConfig.user_weight_power`): θ is
  stationary for *that* sum, so the step needs the same weights. They are kept as they were before the request.

  Args:
    key: of the negatives.
    model: bprmf, lightgcn, neumf or wmf. WMF is solved in its closed form, all unobserved entries included.
    params: its trained parameters.
    interactions: what it was trained on, the forgotten pairs included.
    forget: pairs of `interactions`.
    config: hyper-parameters; the model's preset when None.

  Returns:
    UnlearnResult: a `ModelState` (LightGCN is to be served with the graph of its pairs, as `model_scorer` does), and
    info: code and message of the solver, iterations, residual_norm, curvature, the damping that was used and how often
    it was raised, users and items touched, rows_zeroed, direct_norm, spillover_norm, step_norm, seconds.

  Raises:
    ValueError: the model has no such loss; a parameter, a product or the result is not finite; the curvature is still
      negative after `max_damping_raises`; a pair was not trained on, or none is left.
  Warns:
    UserWarning: conjugate gradient hit its iteration limit. The step is the last iterate, a descent step all the same.

  Guarantee: approximate; an influence function is the first term of an expansion, and forgets a fraction of what
  retraining does. Rows outside the scope, and NeuMF's tower, are returned bitwise unchanged. A row that no retained
  example is left of (a user whose pairs are all forgotten) is set to zero, the minimiser for any L2 however small.

  Cost: without a graph, examples that touch a scoped row, four to six evaluations of their loss an iteration; with one,
  all examples and two propagations. On a CPU, BPR's sums over a graph or for a scope of more than a sixteenth of the
  rows run over all examples as sparse products, in less than half of the time. Memory: a few copies of the scoped rows
  (with a graph, or as sparse products: of the tables), and a few numbers an example.

  Deviations: the released code takes H over all pairs (`hessian="full"`), which under-shoots: a user who forgets half
  of their pairs is held by the curvature of all of them. Its solver is Adam with early stopping and no damping. Its
  LightGCN Hessian ignores the propagation; ours does not. It serves LightGCN with the full graph.

  References:
    Zhang et al., Recommendation Unlearning via Influence Function, ACM TORS 2024, and its code, baiyimeng/IFRU.
  """
  config = config or IFRUConfig.preset(model.name)
  if model.name not in _influence.KINDS:
    raise ValueError(
      f"Expected one of the models {', '.join(_influence.KINDS)}, got {model.name!r}; use retrain instead."
    )
  check_tables(params, interactions)
  check_finite("params", params)
  start = time.perf_counter()
  retained = retained_of(interactions, forget)
  if not len(forget):
    return UnlearnResult(ModelState(params, interactions), {"num_forgotten": 0, "seconds": 0.0})
  problem, static, info = _problem(key, model, params, interactions, retained, forget, config)
  direct, spillover = _influence.forgotten_gradient(problem, static=static)
  check_finite("the gradient of the forgotten pairs", (direct, spillover))
  result, gone, report = _solve(problem, direct + spillover, config, static)
  left = np.concatenate([retained.user_degrees(), retained.item_degrees(), [0]])[np.asarray(problem.scope)]
  gone &= left == 0  # examples of a user with every item weigh nothing; its row is not of a user who left
  new = _moved(params, problem, result.x, gone)
  check_finite("the unlearned parameters", new)
  info |= report | {
    "num_forgotten": len(forget),
    "rows_zeroed": int(jnp.sum(gone)),
    "direct_norm": float(linalg.norm(direct)),
    "spillover_norm": float(linalg.norm(spillover)),
    "step_norm": float(linalg.norm(result.x)),
  }
  info["seconds"] = time.perf_counter() - start
  return UnlearnResult(ModelState(new, retained), info)


def _problem(
  key: jax.Array,
  model: Model,
  params: Params,
  interactions: Interactions,
  retained: Interactions,
  forget: Interactions,
  config: IFRUConfig,
) -> tuple[_influence.Problem, _influence.Static, dict[str, Any]]:
  """The request as arrays of shapes that the next one shares."""
  near = pruned_scope(
    interactions, forget, hops=config.hops, keep_fraction=config.keep_fraction, force_endpoints=config.force_endpoints
  )
  rows = np.flatnonzero(np.concatenate([near.user, near.item])).astype(np.int32)
  num_nodes, capacity = interactions.num_users + interactions.num_items, capacity_for(len(interactions))
  size = capacity_for(num_nodes)
  small = max(capacity_for(1), size // _SMALL_SHARE)
  size = small if rows.size <= small else size
  scope = np.full(size, num_nodes, np.int32)
  scope[: rows.size] = rows
  slot = np.full(num_nodes, size, np.int32)
  slot[rows] = np.arange(rows.size)
  pointwise = model.batches == "users"  # WMF: no negatives, and user batches do not read the weights
  forgotten = np.zeros(capacity, bool)
  forgotten[: len(interactions)] = forget.contains(interactions)
  real = np.arange(capacity) < len(interactions)
  before = model.context(interactions)
  after = before if before is None else model.context(retained)
  full = config.hessian == "full"
  examples = _influence.draw_examples(
    jax.random.fold_in(key, 0),
    interactions.padded(capacity),
    jnp.float32(0.0 if pointwise else config.user_weight_power),
    num_negatives=0 if pointwise else config.num_negatives,
    avoid_positives=config.avoid_positives,
  )
  layout = None
  if _influence.written_out(model) and (before is not None or size > small):
    layout = _pair_curvature.lay_out(
      np.asarray(examples.user),
      np.asarray(examples.positive),
      np.asarray(examples.negative),
      count=len(interactions),
      num_users=interactions.num_users,
      num_nodes=num_nodes,
    )
  problem = _influence.Problem(
    nodes=jnp.concatenate([params["user"], params["item"]]),
    rest={name: leaf for name, leaf in params.items() if name not in ("user", "item")},
    scope=jnp.asarray(scope),
    slot=jnp.asarray(slot),
    examples=examples,
    forgotten=jnp.asarray(forgotten),
    spilled=jnp.asarray(_spilled(interactions, forget, capacity, config) & real & ~forgotten),
    curved=jnp.asarray(real if full else real & ~forgotten),
    graph_before=before,
    graph_after=after,
    graph_curved=before if full else after,
    layout=layout,
    num_users=interactions.num_users,
  )
  static = _influence.Static(model=model, chunk=min(_CHUNK, capacity), solver=config.solver)
  return problem, static, {"users_touched": int(near.user.sum()), "items_touched": int(near.item.sum())}


def _spilled(interactions: Interactions, forget: Interactions, capacity: int, config: IFRUConfig) -> np.ndarray:
  """bool [capacity]: pairs at a node whose degree the request changes enough; every pair for "all"."""
  if config.spillover == "all":
    return np.ones(capacity, bool)
  lost = [
    gone / np.maximum(had, 1) > config.degree_ratio
    for gone, had in (
      (forget.user_degrees(), interactions.user_degrees()),
      (forget.item_degrees(), interactions.item_degrees()),
    )
  ]
  spilled = np.zeros(capacity, bool)
  spilled[: len(interactions)] = lost[0][interactions.user] | lost[1][interactions.item]
  return spilled


def _solve(
  problem: _influence.Problem, gradient: jax.Array, config: IFRUConfig, static: _influence.Static
) -> tuple[linalg.CGResult, jax.Array, dict[str, Any]]:
  """Solves, with more damping as long as negative curvature is met; what happened goes into the report."""
  adam = config.solver == "adam"
  limit = config.adam_iterations if adam else config.max_iterations
  damping, raises = (0.0 if adam else config.damping), 0
  while True:
    result, gone = _curvature.solve(
      problem,
      gradient,
      jnp.float32(damping),
      jnp.int32(limit),
      jnp.float32(config.tolerance),
      jnp.float32(config.adam_step),
      static=static,
    )
    code, curvature = int(result.code), float(result.curvature)
    if code != linalg.NEGATIVE_CURVATURE or raises >= config.max_damping_raises:
      break
    # The curvature that was met is of H + damping · D; twice what it lacks, at least.
    damping = max(_RAISE * damping, 2.0 * (damping - curvature), _SMALLEST_DAMPING)
    raises += 1
  text = linalg.check_result(result, f"IFRU ({config.solver}, damping={damping:.3g} after {raises} raises)")
  if text is not None and not adam:
    warnings.warn(text, stacklevel=4)
  report = {
    "code": code,
    "message": linalg.MESSAGES[code],
    "iterations": int(result.iterations),
    "residual_norm": float(result.residual_norm),
    "curvature": curvature,
    "damping": damping,
    "damping_raises": raises,
  }
  return result, gone, report


def _moved(params: Params, problem: _influence.Problem, step: jax.Array, gone: jax.Array) -> Params:
  """The parameters with the scoped rows replaced; no other row is computed with."""
  rows = problem.nodes.at[problem.scope].get(mode="fill", fill_value=0)
  nodes = problem.nodes.at[problem.scope].set(jnp.where(gone[:, None], 0.0, rows + step), mode="drop")
  return {**params, "user": nodes[: problem.num_users], "item": nodes[problem.num_users :]}


def ifru(
  model: Model,
  train_config: TrainConfig | None = None,
  config: IFRUConfig | None = None,
  *,
  progress: bool | None = None,
) -> Unlearner:
  """IFRU as an `Unlearner`; guarantee and costs as in `unlearn`.

  A later request starts from the parameters of the one before: stationary only approximately, so errors add up.

  Args:
    model: bprmf, lightgcn, neumf or wmf.
    train_config: for `fit`.
    config: IFRU's; None: the model's preset, with the weights and negatives of `train_config`.
    progress: as for `train.fit`.
  """
  training = train_config or TrainConfig()
  if config is None:
    config = IFRUConfig.preset(
      model.name, user_weight_power=training.user_weight_power, avoid_positives=training.avoid_positives
    )
    if model.name == "neumf":  # its loss weighs a positive against so many; BPR's is a mean over them
      config = dataclasses.replace(config, num_negatives=training.num_negatives)

  def forget_pairs(key: jax.Array, state: ModelState, forget: Interactions) -> UnlearnResult:
    return unlearn(key, model, state.params, state.interactions, forget, config)

  return post_hoc("ifru", model, training, forget_pairs, progress=progress)
