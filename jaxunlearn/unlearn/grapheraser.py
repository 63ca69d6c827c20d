"""GraphEraser: balanced communities of the interaction graph as shards, learned static weights."""

from __future__ import annotations

import dataclasses

from jaxunlearn._validate import check_choice, check_integers
from jaxunlearn.aggregate import AggregateConfig
from jaxunlearn.base import Model, Unlearner
from jaxunlearn.epoch import TrainConfig
from jaxunlearn.shards import Placement
from jaxunlearn.unlearn._partitions import VectorsFn, partitioned


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphEraserConfig:
  """Hyper-parameters of GraphEraser."""

  num_shards: int = 10  # K, ≥ 1
  partition: str = "bekm"  # bekm (balanced k-means of vectors) or blpa (balanced label propagation)
  aggregate: AggregateConfig = AggregateConfig(  # K numbers need few steps
    kind="static", train=TrainConfig(num_epochs=2, batch_size=4096, learning_rate=5e-2)
  )
  early_stopping: bool = False  # each shard stops by held-out pairs of its own
  shared_positives: bool = False  # as RecEraser's released sampler: negatives avoid other shards' pairs; not exact

  def __post_init__(self) -> None:
    check_integers(self)
    check_choice("partition", self.partition, ("bekm", "blpa"))


def grapheraser(
  model: Model,
  train_config: TrainConfig | None = None,
  config: GraphEraserConfig | None = None,
  *,
  vectors: VectorsFn | None = None,
  placement: Placement | None = None,
  progress: bool | None = None,
) -> Unlearner:
  """GraphEraser for recommendation as an `Unlearner`.

  Guarantee: exact given its partition. `unlearn(key, fit(key, D), F)` is bitwise what training on D ∖ F with the same
  key *and the same partition* gives. The partition is made from the graph or from vectors of D, F included, and is not
  made anew: where retained pairs lie may still tell of F (the authors' code has a switch for that). `partition.random`
  (SISA) has no such leak.

  After a request: submodels of touched shards, their stages and the aggregator are trained anew from their own
  initialisation; samplers, graphs and optimizer states are built from the retained pairs; a forgotten user's or item's
  rows are initialisation (moved by draws as a negative, for items); other shards are the same buffers. The partition
  keeps the shards of the retained pairs and drops the forgotten ones'.

  The RecEraser paper compares with it and says no more than its name. Our reading: nodes are users and items, a pair
  goes to its user's shard, and the weights are learned by the base model's ranking loss (facts §7). Since a user is in
  one shard, `shared_positives` changes nothing but the guarantee.

  Args:
    model: of every shard, any of bprmf, wmf, lightgcn, neumf.
    train_config: of every shard.
    config: GraphEraser's.
    vectors: to partition by (bekm), `pretrained` WMF when None.
    placement: how several shards are trained at once.
    progress: as for `train.fit`.

  References:
    Chen et al., Graph Unlearning, CCS 2022.
  """
  config = config or GraphEraserConfig()
  return partitioned(
    "grapheraser", model, train_config or TrainConfig(), config, vectors=vectors, placement=placement, progress=progress
  )
