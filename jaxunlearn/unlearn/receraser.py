"""RecEraser: balanced shards of similar users, items or pairs; attention over the submodels."""

from __future__ import annotations

import dataclasses

from jaxunlearn._validate import check_choice, check_integers
from jaxunlearn.aggregate import AggregateConfig
from jaxunlearn.base import Model, Unlearner
from jaxunlearn.epoch import TrainConfig
from jaxunlearn.shards import Placement
from jaxunlearn.unlearn._partitions import NAMES, VectorsFn, partitioned


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecEraserConfig:
  """Hyper-parameters of RecEraser."""

  num_shards: int = 10  # K, ≥ 1
  partition: str = "inbp"  # inbp, ubp, ibp (Algorithms 1 and 2) and more; random… are free of the partition's leak
  aggregate: AggregateConfig = AggregateConfig(kind="attention")
  early_stopping: bool = False  # each shard stops by held-out pairs of its own
  shared_positives: bool = False  # as RecEraser's released sampler: negatives avoid other shards' pairs; not exact

  def __post_init__(self) -> None:
    check_integers(self)
    check_choice("partition", self.partition, NAMES)


def receraser(
  model: Model,
  train_config: TrainConfig | None = None,
  config: RecEraserConfig | None = None,
  *,
  vectors: VectorsFn | None = None,
  placement: Placement | None = None,
  progress: bool | None = None,
) -> Unlearner:
  """RecEraser as an `Unlearner`.

  Guarantee: exact given its partition. `unlearn(key, fit(key, D), F)` is bitwise what training on D ∖ F with the same
  key *and the same partition* gives (CPU; elsewhere with deterministic scatters). The partition comes from embeddings
  that were trained on all of D and is not made anew: where retained pairs lie may still tell of F. The paper leaves
  this open. `RecEraserConfig(partition="random-users")`, or `vectors` that never saw what may be forgotten, close it;
  `verify_exact` reports it.

  After a request: submodels of touched shards, their stages and the aggregator are trained anew from their own
  initialisation; samplers, graphs and optimizer states are built from the retained pairs; a forgotten user's or item's
  rows are initialisation (moved by draws as a negative, for items); other shards are the same buffers. The partition
  keeps the shards of the retained pairs and drops the forgotten ones'.

  Which to choose: the defaults are the paper's. On ml-1m shards of whole users (`partition="ubp-pairs"`) keep more of
  BPR-MF's utility than shards of pairs (`"inbp"`; `"inbp-released"`, the anchors of the released code, lies between).
  Over them `AggregateConfig(kind="combined")`, ours, serves more for a tenth of the steps (BUILD_NOTES, "Shards").

  Deviations from the released code: anchors are means per coordinate (eqs. 2 and 4, its are one number), negatives
  avoid the shard's own positives only (its sampler reads other shards'), the aggregator starts anew at each request.
  `shared_positives=True` samples as it does; then what is left of an untouched shard knows the forgotten pairs, and the
  guarantee is "approximate".

  Args:
    model: of every shard, any of bprmf, wmf, lightgcn, neumf.
    train_config: of every shard.
    config: RecEraser's.
    vectors: to partition by, `pretrained` WMF when None.
    placement: how several shards are trained at once.
    progress: as for `train.fit`.

  References:
    Chen et al., Recommendation Unlearning, WWW 2022.
  """
  config = config or RecEraserConfig()
  return partitioned(
    "receraser", model, train_config or TrainConfig(), config, vectors=vectors, placement=placement, progress=progress
  )
