"""What scripts measure of a model that is served: which pairs are ranked, and when an AUC means something."""

import dataclasses

import numpy as np
import pytest

from experiments import _common
from jaxunlearn.base import Embeddings
from jaxunlearn.data.synthetic import SyntheticConfig, generate
from jaxunlearn.unlearn.lightul import vectors_scorer

DATASET = generate(SyntheticConfig(num_users=40, num_items=30, num_pairs=600)).dataset


def test_pairs_that_are_held_back_are_no_recommendations():
  """A model that ranks them first is right: they must not take the places of test pairs."""
  train = DATASET.train
  held = train.select(np.arange(0, len(train), 5))
  rest = dataclasses.replace(DATASET, train=train.without(held), timestamp=None)
  scores = np.zeros((train.num_users, train.num_items), np.float32)
  scores[DATASET.test.user, DATASET.test.item] = 1
  scores[held.user, held.item] = 2
  scorer = vectors_scorer(Embeddings(np.eye(train.num_users, dtype=np.float32), scores.T))
  assert _common.Measure(rest, mask=train).utility(scorer)["ndcg@20"] == pytest.approx(1)
  assert _common.Measure(rest).utility(scorer)["ndcg@20"] < 0.9
  assert _common.Measure(DATASET).utility(scorer)["ndcg@20"] == pytest.approx(1)


@pytest.mark.parametrize(("count", "has_auc"), [(1, False), (19, False), (20, True)])
def test_a_few_pairs_have_no_auc(count, has_auc):
  forget = DATASET.train.select(np.arange(count))
  scorer = vectors_scorer(Embeddings(np.ones((40, 2), np.float32), np.ones((30, 2), np.float32)))
  _, completeness = _common.Measure(DATASET, forget)(scorer)
  assert completeness == ({"auc": pytest.approx(0.5)} if has_auc else {})
