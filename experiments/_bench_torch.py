"""LightGCN's training step in PyTorch, as the reference implementation does it, and the check that it is the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments import _bench
from jaxunlearn.base import Batch
from jaxunlearn.graph import Graph

RELATIVE = 1e-3  # of a loss or a gradient's entry: float32 sums in another order stay well below


class TorchLightGCN:
  """One step: propagate the full graph, BPR plus L2 on the layer-0 rows of the batch, backward, Adam.

  Args:
    params: {"user": [U, d], "item": [I, d]}, copied.
    graph: the normalised adjacency, converted.
    layout: "coo", as in the reference implementation, or "csr".
    num_layers: propagation layers.
    l2: weight of the L2 term.
    learning_rate: Adam's.

  References:
    He et al., LightGCN, SIGIR 2020; github.com/gusye1234/LightGCN-PyTorch, code/model.py (computer, bpr_loss).
  """

  def __init__(
    self, params: Mapping[str, Any], graph: Graph, *, layout: str, num_layers: int, l2: float, learning_rate: float
  ) -> None:
    self.torch = torch = _bench.library("torch")
    self.tables = {name: torch.tensor(np.array(params[name]), requires_grad=True) for name in ("user", "item")}
    self.num_layers, self.l2 = num_layers, l2
    real = np.asarray(graph.adjacency.data) != 0  # the padding is explicit zeros
    indices, values = np.asarray(graph.adjacency.indices)[real].T, np.asarray(graph.adjacency.data)[real]
    shape = (graph.num_nodes, graph.num_nodes)
    entries = torch.tensor(indices.astype(np.int64)), torch.tensor(values)
    adjacency = torch.sparse_coo_tensor(*entries, shape, check_invariants=True).coalesce()
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # PyTorch says of every CSR tensor that its support is in beta
      self.adjacency = adjacency.to_sparse_csr() if layout == "csr" else adjacency
    self.optimizer = torch.optim.Adam(self.tables.values(), lr=learning_rate)

  def batch(self, batch: Batch) -> tuple[Any, Any, Any]:
    """Users, positives and negatives as int64 tensors; every example must be real and have one negative."""
    if batch.negative.shape[1] != 1 or not bool((np.asarray(batch.weight) == 1).all()):
      raise ValueError("Expected a batch without padding and with one negative an example.")
    arrays = (batch.user, batch.positive, batch.negative[:, 0])
    user, positive, negative = (self.torch.tensor(np.asarray(x).astype(np.int64)) for x in arrays)
    return user, positive, negative

  def loss(self, user: Any, positive: Any, negative: Any) -> Any:
    """Mean BPR on propagated vectors plus `l2` · ½ mean(‖u‖² + ‖i⁺‖² + ‖i⁻‖²) of layer 0."""
    layer = self.torch.cat([self.tables["user"], self.tables["item"]])
    total = layer
    for _ in range(self.num_layers):
      layer = self.torch.sparse.mm(self.adjacency, layer)
      total = total + layer
    vectors = total / (self.num_layers + 1)
    users, items = vectors.split([len(self.tables["user"]), len(self.tables["item"])])
    u = users[user]
    difference = (u * items[negative]).sum(1) - (u * items[positive]).sum(1)
    ranking = self.torch.nn.functional.softplus(difference).mean()
    rows = (self.tables["user"][user], self.tables["item"][positive], self.tables["item"][negative])
    return ranking + self.l2 * 0.5 * sum(row.square().sum() for row in rows) / len(user)

  def backward(self, batch: tuple[Any, Any, Any]) -> float:
    """The loss of a batch, its gradient left in the tables."""
    self.optimizer.zero_grad()
    loss = self.loss(*batch)
    loss.backward()
    return float(loss.detach())

  def step(self, batch: tuple[Any, Any, Any]) -> float:
    """One training step; the loss before it."""
    loss = self.backward(batch)
    self.optimizer.step()
    return loss


def check_agreement(
  torch_model: TorchLightGCN, loss_and_grad: Callable[[], tuple[Any, Mapping[str, Any]]], batch: Batch
) -> None:
  """Raises unless both sides have one loss and one gradient at the same parameters.

  Args:
    torch_model: with the same parameters.
    loss_and_grad: ours, on `batch`.
    batch: without padding.

  Raises:
    ValueError: they differ by more than `RELATIVE`: a comparison of their speed would mean nothing.
  """
  theirs, (ours, grads) = torch_model.backward(torch_model.batch(batch)), loss_and_grad()
  if not np.isclose(float(ours), theirs, rtol=RELATIVE, atol=0):
    raise ValueError(f"Expected the same loss of ours and PyTorch's LightGCN, got {float(ours):.6g} and {theirs:.6g}.")
  for name, table in torch_model.tables.items():
    mine, other = np.asarray(grads[name]), table.grad.numpy()
    # The entries are far apart in size: what is noise of float32 sums is judged by the largest of them.
    near = np.isclose(mine, other, rtol=RELATIVE, atol=1e-5 * np.abs(other).max())
    if not near.all():
      raise ValueError(
        f"Expected the same gradient of ours and PyTorch's LightGCN, got {np.count_nonzero(~near):,} of {near.size:,} "
        f"entries of the {name} table that differ by more than {RELATIVE:g}, relative."
      )
