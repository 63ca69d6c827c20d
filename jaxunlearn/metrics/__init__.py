"""What a served model is measured by: utility and completeness. Metrics look at a `Scorer` and at nothing else."""

from jaxunlearn.metrics.completeness import Probe, auc, completeness_auc, completeness_probe, pair_scores
from jaxunlearn.metrics.ranking import RankingEvaluator, RankingResult, evaluate, top_k_items
from jaxunlearn.metrics.topk import top_k

__all__ = [
  "Probe",
  "RankingEvaluator",
  "RankingResult",
  "auc",
  "completeness_auc",
  "completeness_probe",
  "evaluate",
  "pair_scores",
  "top_k",
  "top_k_items",
]
