"""How far a served model is from Retrain, and where its forgotten items have gone: numbers of one cell."""

from __future__ import annotations

from jaxunlearn.base import Scorer
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.metrics.distance import score_distance
from jaxunlearn.metrics.unranking import rank_shift, unranking

KS = (20, 50)


def unranked(
  scorer: Scorer, forget: Interactions, retained: Interactions, before: Scorer | None = None
) -> dict[str, float]:
  """`outside@k`: share of the forgotten items out of their users' top k; `rank_shift`: mean places down since `before`.

  Retrain's own values are the target. Retained items are not ranked.
  """
  found = unranking(scorer, forget, mask=retained, ks=KS)
  numbers = {f"outside@{k}": share for k, share in found.outside.items()}
  if before is not None:
    numbers["rank_shift"] = rank_shift(before, scorer, forget, mask=retained).mean
  return numbers


def to_reference(scorer: Scorer, reference: Scorer, retained: Interactions) -> dict[str, float]:
  """Mean Spearman correlation of users' rankings, mean |score difference| (raw, in sd of the reference), top-k overlap.

  Between two Retrains of different seeds these are the noise floor.
  """
  found = score_distance(scorer, reference, mask=retained, ks=KS)
  overlap = {f"overlap@{k}": share for k, share in found.overlap.items()}
  return {"spearman": found.user_spearman, "score_mae": found.mean_abs, "score_mae_sd": found.relative_abs, **overlap}
