"""Models, requests and loops over every example that the tests of rownewton share."""

import jax
import numpy as np

from jaxunlearn import models
from jaxunlearn.unlearn import _rownewton_terms as terms
from jaxunlearn.unlearn._rownewton_problem import make_problem
from jaxunlearn.unlearn.rownewton import RowNewtonConfig
from tests.small import random_pairs

ALL = 10_000  # above any number of items and pairs here: expectations, not draws
EXACT = RowNewtonConfig(num_negatives=ALL, pool=ALL, item_draws=ALL, pair_negatives=ALL, max_step=1e6)
DIM, L2 = 4, 0.05
MF = models.bprmf(models.BPRMFConfig(embedding_dim=DIM, l2=L2, init_scale=0.6))
WMF = models.wmf(models.WMFConfig(embedding_dim=DIM, l2=0.1, unobserved_weight=0.3, init_scale=0.6))
GCN = models.lightgcn(models.LightGCNConfig(embedding_dim=DIM, num_layers=2, l2=L2, init_scale=0.6))
NMF = models.neumf(models.NeuMFConfig(embedding_dim=2, hidden=(6, 4), l2=L2, init_scale=0.6))
MODELS = {"bprmf": MF, "wmf": WMF, "lightgcn": GCN, "neumf": NMF}


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def setup(model, count=9, seed=0, **pairs):
  data = random_pairs(**{"num_users": 14, "num_items": 12, "num_pairs": 70, **pairs})
  rows = np.sort(np.random.default_rng(seed).choice(len(data), count, replace=False))
  return data, data.select(rows), model.init(jax.random.key(3), data.num_users, data.num_items)


def member_of(data):
  member = np.zeros((data.num_users, data.num_items))
  member[data.user, data.item] = 1
  return member


def tables(params):
  return np.array(params["user"], np.float64), np.array(params["item"], np.float64)


def examples(member):
  """(weight, user, positive, negative) of every example and negative that it may draw: the definition, in loops."""
  for u in range(member.shape[0]):
    absent = np.flatnonzero(member[u] == 0)
    for i in np.flatnonzero(member[u]):
      for j in absent:
        yield member[u].sum() ** -0.5 / len(absent), u, i, j


def parts_of(model, params, data, forget, family, train_negatives=1, **draws):
  """(problem, rows, static, point over the retained graph): what `unlearn` puts together."""
  retained = data.without(forget)
  problem, rows = make_problem(
    model, data, retained, forget, user_weight_power=0.5, train_negatives=train_negatives, damping=0.0
  )
  all_draws = {
    "num_negatives": ALL,
    "pool": ALL,
    "item_draws": ALL,
    "pair_negatives": ALL,
    "row_negatives": 1,
    "leading_axes": ALL,
    **draws,
  }
  static = terms.Static(family=family, score=model.score, inner_product=model.inner_product, **all_draws)
  rest = {name: leaf for name, leaf in params.items() if name not in ("user", "item")}
  return problem, rows, static, terms.Point(vectors=model.encode(params, model.context(retained)), rest=rest)
