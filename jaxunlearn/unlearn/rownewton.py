"""rownewton: forgetting by one Newton step of every affected user's and item's own row.

Three layers: `unlearn` (pure function), `rownewton` (the `Unlearner`), `experiments/unlearn.py` (the script).
"""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn._validate import (
  check_choice,
  check_finite,
  check_integers,
  check_non_negative,
  check_positive,
  check_preset,
  check_tables,
)
from jaxunlearn.base import Context, Embeddings, Model, Params, Unlearner, UnlearnResult
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.linalg import MESSAGES, NEGATIVE_CURVATURE, NON_FINITE
from jaxunlearn.requests import retained_of
from jaxunlearn.train import TrainConfig
from jaxunlearn.unlearn import _rownewton
from jaxunlearn.unlearn import _rownewton_terms as terms
from jaxunlearn.unlearn._rownewton_graph import coupled_step, has_columns, point_and_columns, principal_axes, turned
from jaxunlearn.unlearn._rownewton_problem import FAMILIES, every_row, fresh_rows, loss_family, make_problem
from jaxunlearn.unlearn._rownewton_sums import Rows
from jaxunlearn.unlearn.retrain import ModelState, post_hoc


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowNewtonConfig:
  """Hyper-parameters. The first two describe the training that is to be undone, the others how well it is solved."""

  user_weight_power: float = 0.5  # as in TrainConfig: an example weighs (degree of its user)^−power, ≥ 0; not for WMF
  train_negatives: int = 1  # as TrainConfig.num_negatives, ≥ 1; read for NeuMF only, where it weighs the negatives
  num_rounds: int = 1  # sweeps over users, then items, ≥ 1; a later one starts from the rows of the one before
  scope: str = "affected"  # rows that rounds after the first move: "affected" by the request, or "all" that have pairs
  num_negatives: int = 2  # drawn a retained pair, for its user's block, ≥ 1; at num_items and above: all, exactly
  # bprmf, lightgcn: from one draw a pair to 2 · num_negatives, so as to fill chunks of 128, and so many a user, ≥ 1
  row_negatives: int = 128
  pool: int = 16  # scores of absent items drawn a user, for the blocks of the items it has, ≥ 1; likewise
  item_draws: int = 64  # examples drawn an item, for it as a negative, ≥ 1; at the number of pairs and above: all
  pair_negatives: int = 128  # drawn a forgotten pair, for the right-hand side, ≥ 1; at num_items and above: all
  damping: float = 0.0  # added to L2 in the blocks, per example as L2 is, ≥ 0; models trained with little L2 need it
  max_step: float = 1.0  # cap of a row's step, in lengths of the row or the mean row, the larger of them, > 0
  # LightGCN: principal axes of the vectors between which a row's block is taken whole, ≥ 1; beyond them its diagonal
  leading_axes: int = 24
  coupling_steps: int = 10  # LightGCN: iterations of conjugate gradient that couple the rows, ≥ 1
  tolerance: float = 0.2  # LightGCN: relative residual at which they stop, > 0

  def __post_init__(self) -> None:
    check_integers(self)
    for name in (
      "train_negatives", "num_rounds", "num_negatives", "row_negatives", "pool", "item_draws", "pair_negatives",
      "max_step", "leading_axes", "coupling_steps", "tolerance",
    ):  # fmt: skip
      check_positive(name, getattr(self, name))
    check_choice("scope", self.scope, ("affected", "all"))
    check_non_negative("user_weight_power", self.user_weight_power)
    check_non_negative("damping", self.damping)

  @classmethod
  def preset(cls, model: str, train_config: TrainConfig | None = None, **changes: Any) -> RowNewtonConfig:
    """The defaults for a model, and how it was trained; `changes` override them.

    NeuMF is damped: its training ends far from a minimum, where undamped steps forget twice what retraining does. 0.05
    was chosen on ml-1m, 1 % of the interactions, seed 0, with Retrain's AUC in sight, and is held fixed elsewhere.
    """
    check_preset(model, FAMILIES)
    given: dict[str, Any] = {"damping": 0.05 if model == "neumf" else 0.0}
    if train_config is not None:
      given |= {"user_weight_power": train_config.user_weight_power, "train_negatives": train_config.num_negatives}
    return cls(**{**given, **changes})


def unlearn(
  key: jax.Array,
  model: Model,
  params: Params,
  interactions: Interactions,
  forget: Interactions,
  config: RowNewtonConfig | None = None,
) -> UnlearnResult:
  """Forgets pairs by a Newton step on what is retained, in the rows of their users and items only.

  Training minimised a sum of examples; the request takes some away. Write L for that sum before and L' after, for
  a row v with everything else fixed at the trained parameters θ̂:

    v' = v − (∇²L'(v) + damping)⁻¹ (∇L'(v) − ∇L(v))

  ∇L(v), what training had left of the gradient, is taken off: were it not, the step would also train on. For a
  model whose score is linear in the row and a convex loss the block ∇²L' is exact and positive; NeuMF's is
  Gauss-Newton's, of the logit with the tower fixed. L' − L holds all that changes with a request: examples less; their
  negatives less; the L2 term of every row for as often as it takes part; a forgotten item that its user's other pairs
  may draw as a negative from now on (on ml-1m a sixth of the effect); the weights (degree)^−power of a user's other
  pairs (no visible effect). Left out: what that item's draws against them do to the items of those other pairs.

  bprmf, neumf: expectations over negatives are sampled, see the configuration; users and items move at once from θ̂, and
  `num_rounds` > 1 goes on from there, users first, with the same negatives; with `scope` "all" these later rounds also
  move the rows that the request does not name, by what the others' moves have changed for them. wmf: no sampling;
  blocks and gradients are closed sums, and a user's new row is the exact minimiser given the items, if its old one was
  (one ALS half-step).
  lightgcn: blocks are of propagated vectors, whole between their `leading_axes` principal axes and diagonal beyond;
  those of layer 0 follow through the propagation and are coupled by it (`_rownewton_graph.coupled_step`), and the
  retained graph takes the place of the old one.

  Args:
    key: negatives, and fresh rows.
    model: bprmf (loss "bpr"), wmf, lightgcn or neumf.
    params: its trained parameters; a row that training left far from a minimum gets a step that is as far off.
    interactions: what it was trained on, the forgotten pairs included.
    forget: pairs of `interactions`.
    config: hyper-parameters; None: `RowNewtonConfig.preset(model.name)`.

  Returns:
    UnlearnResult: `ModelState(params', retained pairs)`, and info: seconds; affected and fresh users and items; the
    largest step in lengths of its row and how many rows `max_step` held back, both of the last round; for lightgcn
    iterations, residual and code (`linalg.MESSAGES`) of the conjugate gradient.

  Raises:
    ValueError: a model it is not defined for; parameters or result not finite; a pair was not trained on, or none
      is left; conjugate gradient met negative curvature. The old parameters are not touched in any case.

  Guarantee: approximate; no bound is known. Rows of users and items without a forgotten pair (unless `scope` is
  "all"), and NeuMF's tower, are returned bitwise unchanged, so what these carry of the forgotten pairs stays. A user
  without a pair left gets a row drawn as by `model.init`, which is what Retrain's has; an item without one gets the
  step from 0 that its draws as a negative ask for. The graph is built anew from the retained pairs. The vocabulary
  keeps the raw ids.

  Failure: (1) Steps are linear, and one round leaves out that rows move together, those too that the request does not
  name. Against leave-one-out retraining on small data the changes of scores correlate 0.60 to 0.93, after forty rounds
  over all rows 0.90 to 1.00. On ml-1m, trained to the end, one round stays a seventh to a fifth short of Retrain's
  change of AUC and a membership attack sees what is left; four (bprmf) or six to ten (lightgcn) over all rows are
  within its spread and pass, in twenty to a hundred times the time; with several rounds ask for many draws. After 30
  and 60 epochs it is the other way round: one round passes, and the rounds forget more than a training that stops
  early. `jaxunlearn.calibrate` finds how many are right for a model, without a retrained one. Users who lose most of
  their pairs are worst. (2) Far
  from a minimum, or with little L2 in training, blocks are nearly singular: `max_step` holds such rows back, `capped`
  counts them, damping heals them; LightGCN after sixteen epochs on yelp2018 forgets 1.7 times what retraining does.
  (3) Few negatives make blocks too small and steps too long. (4) Training that draws negatives among positives
  (`avoid_positives=False`) is treated as if it did not. (5) Nothing here hides which rows were affected.

  Cost: of affected rows' retained pairs, about num_negatives · d² each (bprmf, lightgcn: nearer to 1 · d² for users
  of more than 128 pairs; lightgcn: leading_axes² in place of d²), and d³ a row; no array is as large as all blocks,
  except for lightgcn, which keeps them all, and in place of d³ pays two propagations and one product with all blocks
  an iteration; of a request of up to 32 pairs the affected rows' columns of the propagation are made once, beside the
  vectors, and serve all products. No second request traces again while the pairs keep their power-of-two capacity
  (lightgcn: and the number of forgotten pairs stays up to 8, 16 or 32, or beyond that the number of affected users,
  and of items, in the same quarter between powers of two).
  """
  config = config or RowNewtonConfig.preset(model.name)
  family = loss_family(model)
  check_tables(params, interactions)
  check_finite("params", params)
  start = time.perf_counter()
  retained = retained_of(interactions, forget)
  if not len(forget):
    return UnlearnResult(ModelState(params, interactions), {"num_forgotten": 0, "seconds": 0.0})
  problem, rows = make_problem(
    model,
    interactions,
    retained,
    forget,
    user_weight_power=config.user_weight_power,
    train_negatives=config.train_negatives,
    damping=config.damping,
  )
  old_context, context = model.context(interactions), model.context(retained)
  static = terms.Static(
    family=family,
    score=model.score,
    inner_product=model.inner_product,
    num_negatives=config.num_negatives,
    row_negatives=config.row_negatives,
    pool=config.pool,
    item_draws=config.item_draws,
    pair_negatives=config.pair_negatives,
    leading_axes=params["user"].shape[1] if old_context is None else config.leading_axes,
  )
  before, columns = _located(model, params, old_context, rows)
  gone = terms.removed(jax.random.fold_in(key, 1), problem, before, static=static)
  new = fresh_rows(jax.random.fold_in(key, 0), params, rows, model=model)
  later = rows
  if config.scope == "all" and config.num_rounds > 1:
    later = every_row(model, interactions, retained)  # in the first round none of the others has a reason to move
  of_round = [rows] + [later] * (config.num_rounds - 1)
  request = key, model, problem, of_round, gone, before, config, params, new
  if context is None:
    new, info = _plain(*request, static)
  else:
    new, info = _coupled(*request, old_context, context, columns, static)
  check_finite("the new parameters", new, "raise damping")
  info = {name: np.asarray(value).item() for name, value in info.items()}
  info |= {
    "num_forgotten": len(forget),
    "affected_users": int(rows["user"].count),
    "affected_items": int(rows["item"].count),
    "fresh_users": int(jnp.sum(rows["user"].fresh)),
    "fresh_items": int(jnp.sum(rows["item"].fresh)),
    "seconds": time.perf_counter() - start,
  }
  return UnlearnResult(ModelState(new, retained), info)


def _plain(
  key: jax.Array, model: Model, problem: terms.Problem, of_round: list[dict[str, Rows]], gone: Embeddings,
  before: terms.Point, config: RowNewtonConfig, params: Params, new: Params, static: terms.Static,
) -> tuple[Params, dict[str, Any]]:  # fmt: skip
  """Rounds of sweeps over both sides; in the first both start from the old parameters, which saves half of its work."""
  cap = jnp.float32(config.max_step)
  info: dict[str, Any] = {}
  for number, rows in enumerate(of_round):
    at = _point(model, new, None)
    for place, side in enumerate(("user", "item")):
      table, report = _rownewton.sweep(
        jax.random.fold_in(key, 2 + place), problem, rows[side], new[side], params[side], getattr(gone, side), at,
        before, cap, static=static, side=side, moved=number > 0,
      )  # fmt: skip
      new = {**new, side: table}
      at = _point(model, new, None) if number else at
      info |= {f"{name}_{side}": value for name, value in report.items()}
  return new, info


def _coupled(
  key: jax.Array, model: Model, problem: terms.Problem, of_round: list[dict[str, Rows]], gone: Embeddings,
  before: terms.Point, config: RowNewtonConfig, params: Params, new: Params, old_context: Any, context: Any,
  old_columns: jax.Array | None, static: terms.Static,
) -> tuple[Params, dict[str, Any]]:  # fmt: skip
  """Rounds of steps of both sides together, through the graph; `old_columns` are those of the first round's rows."""
  info: dict[str, Any] = {}
  basis = principal_axes(before)
  for rows in of_round:
    at, columns = _located(model, new, context, rows)
    if rows is not of_round[0] and columns is not None:
      _, old_columns = _located(model, params, old_context, rows)
    stored = _rownewton.store(
      jax.random.fold_in(key, 2), problem, rows, turned(at, basis), turned(before, basis), static=static
    )
    tables, found, report = coupled_step(
      problem, old_context, context, rows, stored, gone, new, params, basis, jnp.float32(config.max_step),
      jnp.int32(config.coupling_steps), jnp.float32(config.tolerance),
      None if columns is None else (old_columns, columns),
      num_layers=model.config.num_layers, method=model.config.product,
    )  # fmt: skip
    if int(found.code) in (NEGATIVE_CURVATURE, NON_FINITE):
      raise ValueError(f"rownewton's conjugate gradient failed: {MESSAGES[int(found.code)]}.")
    new = {**new, **tables}
    info = {**report, "residual": found.residual_norm, "iterations": found.iterations, "code": found.code}
  return new, info


@functools.partial(jax.jit, static_argnames=("model",))
@jax.default_matmul_precision("highest")
def _encode(model: Model, params: Params, context: Context) -> Embeddings:
  return model.encode(params, context)


def _point(model: Model, params: Params, context: Context) -> terms.Point:
  rest = {name: leaf for name, leaf in params.items() if name not in ("user", "item")}
  return terms.Point(vectors=_encode(model, params, context), rest=rest)


def _located(
  model: Model, params: Params, context: Context, rows: dict[str, Rows]
) -> tuple[terms.Point, jax.Array | None]:
  """The point, and for a graph and few rows its columns that belong to them."""
  if context is None or not has_columns(rows):
    return _point(model, params, context), None
  return point_and_columns(context, params, rows, num_layers=model.config.num_layers, method=model.config.product)


def rownewton(
  model: Model,
  train_config: TrainConfig | None = None,
  config: RowNewtonConfig | None = None,
  *,
  progress: bool | None = None,
) -> Unlearner:
  """rownewton as an `Unlearner`; guarantee, costs and failure cases as in `unlearn`.

  Args:
    model: bprmf, wmf, lightgcn, neumf.
    train_config: for `fit`, and what the default of `config` is taken from.
    config: None: `RowNewtonConfig.preset(model.name, train_config)`.
    progress: as for `train.fit`.

  Raises:
    ValueError: the model is not one of these.
  """
  train_config = train_config or TrainConfig()
  config = config or RowNewtonConfig.preset(model.name, train_config)
  loss_family(model)

  def forget_pairs(key: jax.Array, state: ModelState, forget: Interactions) -> UnlearnResult:
    return unlearn(key, model, state.params, state.interactions, forget, config)

  return post_hoc("rownewton", model, train_config, forget_pairs, progress=progress)
