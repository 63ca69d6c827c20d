"""What a served model is measured by: utility, completeness, unranking, distance.

Metrics look at a `Scorer` and at nothing else.
"""

from jaxunlearn.metrics.completeness import Probe, auc, completeness_auc, completeness_probe, pair_scores
from jaxunlearn.metrics.distance import (
  ScoreDistance,
  mean_absolute_difference,
  overlap_at_k,
  pair_spearman,
  sample_pairs,
  score_distance,
  user_spearman,
)
from jaxunlearn.metrics.ranking import RankingEvaluator, RankingResult, evaluate, top_k_items
from jaxunlearn.metrics.topk import top_k
from jaxunlearn.metrics.unranking import RankShift, UnrankingResult, forgotten_ranks, rank_shift, unranking

__all__ = [
  "Probe",
  "RankShift",
  "RankingEvaluator",
  "RankingResult",
  "ScoreDistance",
  "UnrankingResult",
  "auc",
  "completeness_auc",
  "completeness_probe",
  "evaluate",
  "forgotten_ranks",
  "mean_absolute_difference",
  "overlap_at_k",
  "pair_scores",
  "pair_spearman",
  "rank_shift",
  "sample_pairs",
  "score_distance",
  "top_k",
  "top_k_items",
  "unranking",
  "user_spearman",
]
