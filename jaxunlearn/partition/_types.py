"""The value that every partition function returns, and the checks that they share."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn._validate import check_choice, check_finite
from jaxunlearn.data.interactions import Interactions

SOURCES = ("ids", "pairs", "vectors")
_MAX_WEIGHT = np.iinfo(np.int32).max


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, eq=False)
class Partition:
  """Which shard holds which pair: a host value, aligned with the sorted interactions that it was made for.

  It is a pytree (`shard` is the leaf, the rest is static), so a state may hold it.

  What `derived_from` says decides what "exact" means. Shards are retrained without the forgotten pairs, but not
  partitioned anew. A partition derived from "pairs" or "vectors" saw the pairs that are to be forgotten: where the
  others lie may still tell of them, and unlearning is exact *given the partition* only, not exact against the whole
  procedure run on the retained pairs (the RecEraser paper leaves this open; GraphEraser's code has a switch that
  partitions anew). One derived from "ids" is the same with and without them, so there is nothing left to tell.

  Attributes:
    shard: int32 [N], the shard of each pair, in [0, num_shards).
    num_shards: K; a shard may be empty.
    name: "random", "ubp", "ibp", "inbp", "blpa", "bekm" or "laser".
    derived_from: "ids" (independent of the data), "pairs" (computed from the graph of all pairs) or "vectors"
      (computed from embeddings, pre-trained on pairs that may include those to be forgotten).
    info: scalars that describe how it came about (passes, whether it stood still, the cap). Nothing computes from it.
  """

  shard: np.ndarray
  num_shards: int
  name: str
  derived_from: str
  info: dict[str, Any] = dataclasses.field(default_factory=dict)

  def tree_flatten_with_keys(self) -> tuple[Any, Any]:
    """The leaf with its name, for `jax.tree_util`."""
    aux = (self.num_shards, self.name, self.derived_from, tuple(sorted(self.info.items())))
    return ((jax.tree_util.GetAttrKey("shard"), self.shard),), aux

  @classmethod
  def tree_unflatten(cls, aux: Any, leaves: Any) -> Partition:
    """Rebuilds from the leaf, for `jax.tree_util`."""
    return cls(leaves[0], aux[0], aux[1], aux[2], dict(aux[3]))

  @classmethod
  def make(cls, shard: np.ndarray, num_shards: int, name: str, derived_from: str, **info: Any) -> Partition:
    """Checks and builds; the plain constructor trusts its caller.

    Raises:
      ValueError: a shard out of [0, num_shards), an array that is not one-dimensional and integer, or an unknown
        `derived_from`.
    """
    shard = np.asarray(shard)
    check_choice("derived_from", derived_from, SOURCES)
    if shard.ndim != 1 or not np.issubdtype(shard.dtype, np.integer):
      raise ValueError(f"Expected shard as integers [N], one a pair, got {shard.dtype} {list(shard.shape)}.")
    if shard.size and not (0 <= int(shard.min()) and int(shard.max()) < num_shards):
      bad = shard[(shard < 0) | (shard >= num_shards)][0]
      raise ValueError(f"Expected shards in [0, {num_shards}), got {bad}; raise num_shards.")
    return cls(shard.astype(np.int32), int(num_shards), name, derived_from, info)

  def __len__(self) -> int:
    return int(self.shard.shape[0])

  def __repr__(self) -> str:
    return (
      f"Partition({self.name!r} from {self.derived_from}, {len(self):,} pairs in {self.num_shards} shards, "
      f"largest / mean {self.balance:.2f})"
    )

  def sizes(self) -> np.ndarray:
    """int64 [num_shards]: pairs a shard."""
    return np.bincount(self.shard, minlength=self.num_shards)

  @property
  def balance(self) -> float:
    """Pairs of the largest shard over the mean of all, ≥ 1; 1 without pairs. The time of parallel retraining."""
    return float(self.sizes().max() * self.num_shards / len(self)) if len(self) else 1.0

  def select(self, keep: np.ndarray) -> Partition:
    """Of the retained pairs alone: `keep` (bool [N], or ascending row numbers) as for `Interactions.select`.

    `info` stays behind: it was counted over all pairs.
    """
    keep = np.asarray(keep)
    if keep.dtype == bool and keep.shape != self.shard.shape:
      raise ValueError(f"Expected keep as bool [{len(self)}], one a pair, got shape {list(keep.shape)}.")
    return dataclasses.replace(self, shard=self.shard[keep], info={})

  def shards(self, interactions: Interactions) -> list[Interactions]:
    """K Interactions over the full user and item axes (positions as they were), some of them perhaps empty.

    Raises:
      ValueError: the number of pairs differs from that of the partition: `select` it along with the interactions.
    """
    check_aligned(self, interactions)
    return [interactions.select(self.shard == k) for k in range(self.num_shards)]


def check_aligned(partition: Partition, interactions: Interactions) -> None:
  """Raises ValueError unless there is one shard a pair."""
  if len(partition) != len(interactions):
    raise ValueError(
      f"Expected a partition of {len(interactions)} pairs, got one of {len(partition)}; after a deletion take "
      "partition.select(keep) with the same keep as for the interactions."
    )


def check_num_shards(
  num_shards: int, num_units: int | None = None, unit: str = "pairs", *, name: str = "num_shards"
) -> None:
  """Raises ValueError unless 1 <= num_shards, an integer, <= num_units (where there is a limit)."""
  if isinstance(num_shards, bool) or not isinstance(num_shards, (int, np.integer)) or num_shards < 1:
    raise ValueError(f"Expected {name}={num_shards!r} to be an integer >= 1.")
  if num_units is not None and num_shards > num_units:
    raise ValueError(f"Expected {name}={num_shards} <= {num_units} {unit} to distribute; lower {name}.")


def check_vectors(name: str, vectors: Any, num_rows: int) -> np.ndarray:
  """`vectors` as float32 [num_rows, d].

  Raises:
    ValueError: another shape, not floating point, or NaN or infinity among them.
  """
  array = np.asarray(vectors)
  if array.ndim != 2 or array.shape[0] != num_rows or not array.shape[1]:
    raise ValueError(
      f"Expected {name} of shape [{num_rows}, d], a row a position, got {list(array.shape)}; vectors of another "
      "dataset, or with a padding row, have to be aligned with the interactions first."
    )
  if not np.issubdtype(array.dtype, np.floating):
    raise ValueError(f"Expected {name} in floating point, got {array.dtype}.")
  array = array.astype(np.float32)
  check_finite(name, array)
  return array


def host_rng(key: jax.Array) -> np.random.Generator:
  """A NumPy generator seeded by 128 bits drawn from `key`."""
  return np.random.default_rng(np.asarray(jax.random.bits(key, (4,), "uint32")))


def draw_distinct(key: jax.Array, num_units: int, count: int) -> jax.Array:
  """int32 [count], distinct numbers below num_units, uniform; on the host, to save compiling a shuffle."""
  return jnp.asarray(host_rng(key).choice(num_units, count, replace=False), jnp.int32)


def sure_cap(weight: np.ndarray, num_shards: int, wanted: float) -> int:
  """The cap ⌈wanted⌉, raised where needed to the least one at which a greedy scan surely places every unit.

  Let W be the sum and w the largest of the weights. A unit of weight v that fits nowhere leaves less than v in each
  shard, K · cap − (W − v) ≤ K (v − 1) in all; that is impossible from cap = ⌊(W + (K − 1) w) / K⌋ on. With unit
  weights this is ⌈W / K⌉.

  Args:
    weight: integers [M], ≥ 0.
    num_shards: K.
    wanted: units of weight a shard may hold, if possible.

  Raises:
    ValueError: the weights sum to 2³¹ or more, which the scan counts in int32.
  """
  total, largest = int(weight.sum(dtype=np.int64)), int(weight.max())
  if total > _MAX_WEIGHT:
    raise ValueError(f"Expected at most {_MAX_WEIGHT} pairs, got {total}.")
  # 1.2 · 50 / 10 must give 6, whatever the product's last bit is.
  return min(max(math.ceil(wanted - 1e-9), (total + (num_shards - 1) * largest) // num_shards), _MAX_WEIGHT)
