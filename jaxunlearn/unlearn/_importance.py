"""IFRU's importance-based pruning: which rows an influence step may move."""

from __future__ import annotations

import numpy as np

from jaxunlearn._validate import check_fraction, check_whole
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.graph import Scope


def importance(interactions: Interactions, forget: Interactions, hops: int) -> tuple[np.ndarray, np.ndarray]:
  """IFRU's score of every user and item: the share of forgotten pairs, spread over `hops` steps of the graph.

  s₀(v) = c(v) / deg(v) and s_{k+1}(v) = (s_k(v) + Σ_{w ∈ N(v)} s_k(w)) / deg(v), with c(v) the forgotten pairs of v
  and deg(v) = 1 + pairs of v: the receiver's degree divides, so a hub is moved by no single neighbour.

  Args:
    interactions: all pairs, the forgotten ones included.
    forget: pairs of `interactions`.
    hops: K ≥ 0.

  Returns:
    float64 [num_users] and [num_items], ≥ 0; more than 0 exactly on the `hops`-neighbourhood of the forgotten pairs.

  References:
    Released code of IFRU (baiyimeng/IFRU, compute_neighbor_influence_clip), which counts its 0-labelled samples as
    edges too; implicit data have none.
  """
  check_whole("hops", hops, least=0)
  user_degree, item_degree = 1.0 + interactions.user_degrees(), 1.0 + interactions.item_degrees()
  user, item = forget.user_degrees() / user_degree, forget.item_degrees() / item_degree
  for _ in range(hops):
    to_user = np.bincount(interactions.user, weights=item[interactions.item], minlength=user.size)
    to_item = np.bincount(interactions.item, weights=user[interactions.user], minlength=item.size)
    user, item = (user + to_user) / user_degree, (item + to_item) / item_degree
  return user, item


def pruned_scope(
  interactions: Interactions, forget: Interactions, *, hops: int, keep_fraction: float, force_endpoints: bool = True
) -> Scope:
  """The rows that stay after pruning: the `keep_fraction` most important of the `hops`-neighbourhood.

  Users and items are ranked together, as in the released code.

  Args:
    interactions: all pairs, the forgotten ones included.
    forget: pairs of `interactions`.
    hops: K ≥ 0.
    keep_fraction: share of the neighbourhood that is kept, in [0, 1]; 1 keeps it all.
    force_endpoints: keep the users and items of the forgotten pairs whatever their score. The released code can drop
      them, and then moves everything but what was asked for.
  """
  check_fraction("keep_fraction", keep_fraction, closed=True)
  user, item = importance(interactions, forget, hops)
  scores = np.concatenate([user, item])
  reached = scores > 0
  keep = reached
  if keep_fraction < 1 and reached.any():
    keep = reached & (scores > np.quantile(scores[reached], 1.0 - keep_fraction))
  if force_endpoints:
    keep = keep | np.concatenate([forget.user_degrees(), forget.item_degrees()]).astype(bool)
  return Scope(keep[: user.size], keep[user.size :])
