"""What a served model is measured by: utility, completeness, unranking, distance, membership audits.

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
from jaxunlearn.metrics.exposure import exposure
from jaxunlearn.metrics.membership import (
  AttackResult,
  attack_result,
  likelihood_ratio,
  memorisation,
  shadow_halves,
  standardised_scores,
  trained_attack,
)
from jaxunlearn.metrics.ranking import RankingEvaluator, RankingResult, evaluate, top_k_items
from jaxunlearn.metrics.topk import top_k
from jaxunlearn.metrics.unranking import RankShift, UnrankingResult, forgotten_ranks, rank_shift, unranking

__all__ = [
  "AttackResult",
  "Probe",
  "RankShift",
  "RankingEvaluator",
  "RankingResult",
  "ScoreDistance",
  "UnrankingResult",
  "attack_result",
  "auc",
  "completeness_auc",
  "completeness_probe",
  "evaluate",
  "exposure",
  "forgotten_ranks",
  "likelihood_ratio",
  "mean_absolute_difference",
  "memorisation",
  "overlap_at_k",
  "pair_scores",
  "pair_spearman",
  "rank_shift",
  "sample_pairs",
  "score_distance",
  "shadow_halves",
  "standardised_scores",
  "top_k",
  "top_k_items",
  "trained_attack",
  "unranking",
  "user_spearman",
]
