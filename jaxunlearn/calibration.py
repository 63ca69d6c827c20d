"""How strongly an approximate method has to be set, found without a retrained model.

Steps, rounds, dampings and weights decide how much is forgotten, and which are right goes with how the base model was
trained. Retraining would tell, but then nothing needs to be unlearned. Pairs that were held out of training tell too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxunlearn._validate import check_fraction, check_whole
from jaxunlearn.base import State, Unlearner
from jaxunlearn.data.forget import sample_forget
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.metrics.completeness import auc
from jaxunlearn.metrics.membership import standardised_scores
from jaxunlearn.partition._types import host_rng

_FEWEST = 30  # held-out pairs
TARGET = 0.5  # AUC of forgotten against held-out pairs after exact retraining


class Calibration(NamedTuple):
  """What `calibrate` found.

  Attributes:
    best: index of the candidate whose mean AUC is nearest to 0.5.
    auc: float [C, T], of each candidate after each trial request; NaN for those that `stop` left out.
    before: float [T], the same before the request.
    standard_error: of a candidate's mean over trials, if it is at 0.5 and pairs are independent; of few held-out pairs
      too small, since it leaves out what is fitted to them (by a tenth at 30, a twentieth at 200).
    bracketed: whether some candidate forgets too little and some too much; otherwise a stronger or a weaker one than
      all of them may be nearer.
  """

  best: int
  auc: np.ndarray
  before: np.ndarray
  standard_error: float
  bracketed: bool


def calibrate(
  key: jax.Array,
  candidates: Sequence[Unlearner],
  state: State,
  interactions: Interactions,
  held_out: Interactions,
  *,
  ratio: float = 0.01,
  num_trials: int = 2,
  stop: bool = False,
) -> Calibration:
  """Tries settings of an approximate method on random requests, and picks the one that forgets as retraining would.

  After exact retraining a random forgotten pair and a pair that was held out of training in the same way are
  exchangeable: neither was trained on, and nothing but the draw tells them apart. So the AUC of whatever is computed
  from both alike is 0.5 in expectation: above it a method has forgotten too little, below it too much. Here it is a
  pair's score, in standard deviations of its user's scores, less what the retained degrees of its user and item
  foretell of it: a quadratic of their logarithms, fitted to the held-out pairs. Popular items score high whether or
  not a pair was trained on, and that would drown the rest. No model is retrained, and the trial requests are not those
  of the people who asked: what is found holds for the model and its training, and is used for the requests that come.

  The held-out pairs are a random part of what could have been trained on: the validation part of model selection is
  one, if the state was trained without it. Test pairs of another kind than the training pairs (later ones, higher
  ratings) are not: the AUC of Retrain is then not 0.5. 44,556 held-out pairs and eight trials of 4,010 told one round
  of rownewton from the next on ml-1m, two trials hardly; `standard_error` says what a difference is worth.

  Args:
    key: of the trial requests, and of the candidates' own draws.
    candidates: settings to try, C of them; with `stop` from the weakest to the strongest.
    state: the trained model, as `unlearn` of every candidate takes it.
    interactions: the pairs that it was trained on.
    held_out: pairs that it was not trained on, drawn at random from what would have been.
    ratio: pairs of a trial request, of all, in (0, 1).
    num_trials: requests a candidate is tried on, T ≥ 1; all candidates on the same ones, each from `state`.
    stop: leave out what comes after the first candidate that is at or below 0.5.

  Raises:
    ValueError: no candidates, an argument out of range, interactions that are not the state's, or held-out pairs that
      were trained on or are fewer than 30.

  Guarantee: none for single requests, and none against a stronger attack: on ml-1m, LightGCN, L2UnRank's preset is at
  0.505 here, and a likelihood ratio with shadow models sees its trace at 0.551. What is far from 0.5 has not forgotten
  as retraining does; what is at 0.5 may have. Utility is not looked at: a candidate that destroys the ranking has an
  AUC too.

  References:
    The exchangeability of members and non-members under exact unlearning is that of membership attacks on unlearned
    models (Hayes et al., "Inexact Unlearning Needs More Careful Evaluations", 2024); using it to choose a setting is
    ours.
  """
  check_fraction("ratio", ratio)
  check_whole("num_trials", num_trials)
  if not candidates:
    raise ValueError("Expected candidates to try, got none.")
  if len(held_out) < _FEWEST:
    raise ValueError(
      f"Expected at least {_FEWEST} held_out pairs, to which six numbers are fitted, got {len(held_out) or 'none'}; "
      "train on a part of the pairs and hold out the others."
    )
  own = getattr(state, "interactions", interactions)
  if own.digest() != interactions.digest():
    raise ValueError(
      f"Expected the interactions of the state, {len(own):,} pairs, got {len(interactions):,} others; pass "
      "state.interactions."
    )
  trained = int(interactions.contains(held_out).sum())
  if trained:
    raise ValueError(
      f"Expected held_out pairs that were not trained on, got {trained} of {len(held_out)} that are in `interactions`."
    )
  trials = [
    sample_forget(host_rng(jax.random.fold_in(key, trial)), interactions, ratio=ratio) for trial in range(num_trials)
  ]

  degrees = [_degree_terms(interactions.without(trial), (trial, held_out)) for trial in trials]

  def against_held_out(unlearner: Unlearner, served: State, trial: int) -> float:
    scorer = unlearner.scorer(served)
    inside, outside = (standardised_scores(scorer, pairs) for pairs in (trials[trial], held_out))
    terms = degrees[trial]
    foretold = np.linalg.lstsq(terms[1], outside.astype(np.float64))[0]
    return auc(inside - terms[0] @ foretold, outside - terms[1] @ foretold)

  before = np.array([against_held_out(candidates[0], state, trial) for trial in range(num_trials)])
  found = np.full((len(candidates), num_trials), np.nan)
  for row, unlearner in enumerate(candidates):
    for trial, forgotten in enumerate(trials):
      new = unlearner.unlearn(jax.random.fold_in(key, num_trials + trial), state, forgotten).state
      found[row, trial] = against_held_out(unlearner, new, trial)
    if stop and found[row].mean() <= TARGET:
      break
  means = found.mean(axis=1)
  known = means[~np.isnan(means)]
  forgotten_pairs = sum(map(len, trials))
  return Calibration(
    best=int(np.nanargmin(np.abs(means - TARGET))),
    auc=found,
    before=before,
    standard_error=float(np.sqrt(1 / (12 * forgotten_pairs) + 1 / (12 * len(held_out)))),
    bracketed=bool(known.min() <= TARGET <= known.max()),
  )


def _degree_terms(retained: Interactions, sides: Sequence[Interactions]) -> list[np.ndarray]:
  """1, a, b, a², ab, b² of the centred logarithms a, b of a pair's user's and item's degree: float64 [N, 6] a side."""
  user, item = (np.log1p(degrees.astype(np.float64)) for degrees in (retained.user_degrees(), retained.item_degrees()))
  user, item = user - user.mean(), item - item.mean()
  terms = []
  for pairs in sides:
    a, b = user[pairs.user], item[pairs.item]
    terms.append(np.stack([np.ones_like(a), a, b, a * a, a * b, b * b], axis=1))
  return terms
