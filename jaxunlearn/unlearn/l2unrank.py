"""L2UnRank: move only the rows near a request, by one weighted influence step, so that forgotten items lose their rank.

Three stages, each on its own in `_l2unrank_stages` and `_l2unrank`: scope, influence of each entity, weighted step.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import linalg
from jaxunlearn._validate import check_finite, check_tables
from jaxunlearn.base import Model, Params, Unlearner, UnlearnResult
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.requests import retained_of
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn._l2unrank import Report, influence_step
from jaxunlearn.unlearn._l2unrank_config import L2UnRankConfig
from jaxunlearn.unlearn._l2unrank_rows import Scalars, Static, System
from jaxunlearn.unlearn._l2unrank_stages import (
  Influence,
  Region,
  combined_influence,
  influence_region,
  negative_roles,
  pair_weights,
  semantic_influence,
  structural_influence,
)
from jaxunlearn.unlearn._l2unrank_system import LOSSES, build_static, build_system
from jaxunlearn.unlearn.retrain import ModelState, post_hoc

__all__ = [
  "Influence",
  "L2UnRankConfig",
  "Region",
  "combined_influence",
  "influence_region",
  "l2unrank",
  "negative_roles",
  "pair_weights",
  "semantic_influence",
  "structural_influence",
  "unlearn",
]

_RETRIES = 6  # times that damping is multiplied by _RAISE at negative curvature
_RAISE = 10.0


def unlearn(
  key: jax.Array,
  model: Model,
  params: Params,
  interactions: Interactions,
  forget: Interactions,
  config: L2UnRankConfig | None = None,
) -> UnlearnResult:
  """Demotes pairs by one influence step on the rows within p hops of them.

  1. Scope: N_p, the users and items within p hops of the forgotten pairs D_f, and S_p, the retained pairs with an end
     in N_p. Only rows of N_p move.
  2. Influence: ω_v ∝ degree_weight · (degree inside the scope, over the largest of its type) + score_weight ·
     (1 + cos(e_v, mean direction of the forgotten pairs' entities)) / 2, a distribution over N_p; a pair weighs
     w_ui ∝ ω_u + ω_i, of mean 1 over D_f and over S_p.
  3. Step: θ' = θ + η (H_w + damping)⁻¹ ∇ Σ_{D_f} w ℓ with H_w the Gauss-Newton matrix of Σ_{S_p} w ℓ, restricted to the
     rows of N_p, by conjugate gradient. The sign is plus, for the loss of the forgotten pairs is taken *away*.

  ℓ is the model's training loss with its L2 term and user weights: BPR (bprmf, lightgcn), binary cross-entropy (neumf;
  the tower stays), squares over all entries (wmf). Shapes come in few tiers, so another request of about the size, or
  of the same tier, does not retrace.

  Args:
    key: negatives.
    model: bprmf, wmf, neumf, lightgcn.
    params: its trained parameters; influence estimates assume that training had converged.
    interactions: what it was trained on, the forgotten pairs included.
    forget: pairs of `interactions`: single ones, or all of some users or items.
    config: hyper-parameters; None: `L2UnRankConfig.preset(model.name)`.

  Returns:
    UnlearnResult: a `ModelState` of new parameters and retained pairs, and info: seconds; code (of `linalg.MESSAGES`),
    iterations, residual_norm and curvature of conjugate gradient; damping used, and how often it was raised; users,
    items and pairs in scope, hessian_pairs, users_cleared, items_placed_anew, rows_touched, rows_capped; change, the
    norm of the step.

  Raises:
    ValueError: a model that it is not defined for; parameters or a result that are not finite; curvature that stays
      negative however much damping was added; a pair that was not trained on; nothing would be retained, or of
      lightgcn only users who have every item.

  Guarantee: approximate, and a demotion of ranks rather than a removal of data: no bound is known, and no noise is
  added. Rows outside the scope are bitwise unchanged (LightGCN: its layer-0 rows; vectors move with the graph).
  A wholly forgotten user's row is set to zero: its loss is gone, so no influence step would move it, and it would
  keep all that it learnt. A wholly forgotten item's row starts from zero too and makes a Newton step on the retained
  loss, in which it is a negative only. The graph is repacked
  without the pairs. The vocabulary keeps the raw ids.

  References:
    Learning to Fast Unrank in Collaborative Filtering Recommendation, arXiv:2511.06803. The equations were not
    available; the released code holds none of the three stages and subtracts the step. Formulas as reconstructed in
    facts/l2unrank_and_evaluation.md, with these deviations: damping is per example of a row; `negative_roles` adds
    curvature that S_p lacks, and `pairs_per_row` thins S_p out without bias; wholly forgotten rows are cleared first.
  """
  config = config or L2UnRankConfig.preset(model.name)
  if model.name not in LOSSES or not hasattr(model.config, "l2"):
    raise ValueError(f"L2UnRank is defined for {', '.join(LOSSES)}, got {model.name}. Use lightul or retrain instead.")
  check_tables(params, interactions)
  check_finite("params", params)
  start = time.perf_counter()
  retained = retained_of(interactions, forget)
  if not len(forget):
    return UnlearnResult(ModelState(params, retained), {"num_forgotten": 0, "seconds": 0.0})
  before = model.context(interactions)
  vectors = model.encode(params, before)
  after = None if before is None else model.context(retained)
  degrees = retained.user_degrees()
  if after is not None and np.all((degrees == 0) | (degrees == retained.num_items)):
    raise ValueError(
      "L2UnRank on a graph weighs retained pairs against negatives, and every user who remains has every item, so "
      "that there is no curvature; use retrain."
    )
  static = build_static(model, config, propagates=before is not None)
  system, region = build_system(key, static, vectors, interactions, retained, forget, config)
  tables, report, damping, raised = _solve(jax.random.fold_in(key, 1), params, before, after, system, static, config)
  check_finite("the updated tables", tables, "raise damping")
  sizes = (interactions.num_users, interactions.num_items)
  moving = [
    int(np.sum(np.asarray(rows) < n)) for rows, n in zip((system.user_rows, system.item_rows), sizes, strict=True)
  ]
  cleared = int(np.sum(np.asarray(system.gone_user)))
  info: dict[str, Any] = {
    "num_forgotten": len(forget),
    "code": int(report.code),
    "iterations": int(report.iterations),
    "residual_norm": float(report.residual_norm),
    "curvature": float(report.curvature),
    "damping": damping,
    "damping_raised": raised,
    "scope_users": int(region.scope.user.sum()),
    "scope_items": int(region.scope.item.sum()),
    "scope_pairs": int(region.support.sum()),
    "hessian_pairs": int(system.support.count),
    "users_cleared": cleared,
    "items_placed_anew": int(np.sum(np.asarray(system.gone_item))),
    "rows_touched": sum(moving) + cleared,
    "rows_capped": int(report.capped),
    "change": float(report.change),
  }
  info["seconds"] = time.perf_counter() - start
  return UnlearnResult(ModelState({**params, "user": tables[0], "item": tables[1]}, retained), info)


def _solve(
  key: jax.Array, params: Params, before: Any, after: Any, system: System, static: Static, config: L2UnRankConfig
) -> tuple[tuple[jax.Array, jax.Array], Report, float, int]:
  """The step, with more damping as long as the curvature is negative."""
  damping = config.damping
  raised = 0
  while True:
    scalars = Scalars(
      l2=jnp.float32(static.model.config.l2),
      damping=jnp.float32(damping),
      step=jnp.float32(config.step),
      row_cap=jnp.float32(config.row_cap),
      unobserved=jnp.float32(getattr(static.model.config, "unobserved_weight", 0.0)),
      train_negatives=jnp.float32(config.train_negatives),
      tolerance=jnp.float32(config.tolerance),
      max_iterations=jnp.int32(config.max_iterations),
    )
    # The same negatives again: another draw would be another matrix.
    tables, report = influence_step(jax.random.clone(key), params, before, after, system, scalars, static=static)
    if int(report.code) != linalg.NEGATIVE_CURVATURE or raised == _RETRIES:
      break
    raised += 1
    damping = _RAISE * damping if damping > 0 else 1e-4
  code = int(report.code)
  if code in (linalg.NEGATIVE_CURVATURE, linalg.NON_FINITE):
    raise ValueError(
      f"L2UnRank: {linalg.MESSAGES[code]} (damping={float(scalars.damping):.3g}, iterations={int(report.iterations)}, "
      f"curvature={float(report.curvature):.3g}); the parameters are as they were."
    )
  return tables, report, float(scalars.damping), raised


def l2unrank(
  model: Model,
  train_config: TrainConfig | None = None,
  config: L2UnRankConfig | None = None,
  *,
  progress: bool | None = None,
) -> Unlearner:
  """L2UnRank as an `Unlearner`; guarantee and costs as in `unlearn`.

  A later request starts from the parameters of the one before. Each step leaves a residual gradient behind that the
  next one does not see, so errors add up over a sequence.

  Args:
    model: bprmf, wmf, neumf, lightgcn.
    train_config: for `fit`, and for the user weights of the loss; TrainConfig() when None.
    config: L2UnRank's; None: the preset for this model and training.
    progress: as for `train.fit`.
  """
  training = train_config or TrainConfig()
  settings = config or L2UnRankConfig.preset(model.name, training)

  def forget_pairs(key: jax.Array, state: ModelState, forget: Interactions) -> UnlearnResult:
    return unlearn(key, model, state.params, state.interactions, forget, settings)

  return post_hoc("l2unrank", model, training, forget_pairs, progress=progress)
