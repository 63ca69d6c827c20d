"""Partitions of the pairs into shards: one submodel a shard, so that a deletion retrains few of them.

| function | shards hold | derived from | source |
|---|---|---|---|
| `random` | pairs, users or items by a keyed hash of the id | ids | SISA; ours in the hash |
| `ubp` · `ibp` · `inbp` | similar users · items · pairs, balanced | vectors | RecEraser |
| `blpa` · `bekm` | communities of the graph · of the vectors, balanced | pairs · vectors | GraphEraser |
| `laser` | similar users in equal groups, the most cohesive first | pairs | LASER |

All of them but `random` look at the pairs that are later to be forgotten: see `Partition.derived_from`.
"""

from __future__ import annotations

from jaxunlearn.partition._types import Partition
from jaxunlearn.partition.balanced import greedy_assignment
from jaxunlearn.partition.grapheraser import bekm, blpa
from jaxunlearn.partition.hashed import random
from jaxunlearn.partition.laser import laser
from jaxunlearn.partition.user_item import ibp, inbp, ubp

__all__ = ["Partition", "random", "ubp", "ibp", "inbp", "blpa", "bekm", "laser", "greedy_assignment"]
