"""The ranking metrics against libraries that others wrote; each test is skipped, saying so, without its library."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.base import Embeddings, Scorer, inner_product_score
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.metrics import evaluate

NUM_USERS, NUM_ITEMS = 60, 90


@pytest.fixture(scope="module")
def setup():
  rng = np.random.default_rng(0)
  pairs = Interactions.from_pairs(
    rng.integers(0, NUM_USERS - 2, 1500), rng.integers(0, NUM_ITEMS, 1500), num_users=NUM_USERS, num_items=NUM_ITEMS
  )
  is_test = rng.random(len(pairs)) < 0.4
  user, item = (rng.normal(size=(n, 6)).astype(np.float32) for n in (NUM_USERS, NUM_ITEMS))
  scorer = Scorer(None, Embeddings(jnp.asarray(user), jnp.asarray(item)), inner_product_score, True)
  return scorer, pairs.select(~is_test), pairs.select(is_test)


def masked_scores(scorer, train):
  dense = np.asarray(scorer.scores(jnp.arange(NUM_USERS))).astype(np.float64)
  dense[train.user, train.item] = -1e9
  return dense


def test_scikit_learn(setup):
  ndcg_score = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn").ndcg_score
  scorer, train, test = setup
  result = evaluate(scorer, test, mask=train, ks=(5, 20), per_user=True)
  dense, truth = masked_scores(scorer, train), test.to_csr().toarray()
  for k in (5, 20):
    # Its ideal ranking is cut at k too, since it sorts the truth and takes k.
    want = [ndcg_score(truth[u : u + 1], dense[u : u + 1], k=k) for u in result.users]
    np.testing.assert_allclose(result.per_user[f"ndcg@{k}"], want, rtol=1e-5)


def test_implicit(setup):
  evaluation = pytest.importorskip("implicit.evaluation", reason="needs implicit")
  base = pytest.importorskip("implicit.cpu.matrix_factorization_base", reason="needs implicit")
  scorer, train, test = setup

  class Fixed(base.MatrixFactorizationBase):
    def fit(self, *args, **kwargs):
      raise NotImplementedError

    def save(self, *args, **kwargs):
      raise NotImplementedError

  model = Fixed()
  model.user_factors, model.item_factors = (np.array(v) for v in scorer.vectors)
  for k in (5, 20):
    want = evaluation.ranking_metrics_at_k(
      model, train.to_csr(), test.to_csr(), K=k, show_progress=False, num_threads=1
    )
    result = evaluate(scorer, test, mask=train, ks=(k,), per_user=True)
    assert result.values[f"ndcg@{k}"] == pytest.approx(want["ndcg"], rel=1e-5)
    # Its precision is hits over the sum of min(k, |T|); ours is hits over |T| for each user.
    truth = test.user_degrees()[result.users]
    hits = (result.per_user[f"recall@{k}"] * truth).sum()
    assert hits / np.minimum(k, truth).sum() == pytest.approx(want["precision"], rel=1e-5)


def test_trec_eval(setup):
  pytrec_eval = pytest.importorskip("pytrec_eval", reason="needs pytrec-eval-terrier")
  scorer, train, test = setup
  result = evaluate(scorer, test, mask=train, ks=(5, 20), per_user=True)
  dense, truth = masked_scores(scorer, train), test.to_csr()
  judged = {str(u): {str(i): 1 for i in truth[u].indices} for u in result.users}
  run = {str(u): {str(i): float(s) for i, s in enumerate(dense[u])} for u in result.users}
  found = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.5,20", "recall.5,20", "success.5,20"}).evaluate(run)
  for ours, theirs in (("ndcg", "ndcg_cut"), ("recall", "recall"), ("hr", "success")):
    for k in (5, 20):
      want = [found[str(u)][f"{theirs}_{k}"] for u in result.users]
      np.testing.assert_allclose(result.per_user[f"{ours}@{k}"], want, rtol=1e-5, atol=1e-7)
