import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.base import Embeddings, Scorer, inner_product_score
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.data.vocabulary import Vocabulary
from jaxunlearn.recommend import recommend

USERS, ITEMS = Vocabulary.from_ids(["ann", "bob", "cat"]), Vocabulary.from_ids([10, 20, 30, 40])
# Ann's order is 40 30 20 10, Bob's the reverse; Cat has no pair left, and would get Ann's order from her vector.
SCORER = Scorer(
  None, Embeddings(jnp.asarray([[1.0], [-1.0], [1.0]]), jnp.asarray([[1.0], [2.0], [3.0], [4.0]])),
  inner_product_score, True,
)  # fmt: skip
SEEN = Interactions.from_pairs([0, 0, 1], [3, 1, 1], num_users=3, num_items=4)
POPULAR, COUNTS = [20, 40, 10, 30], [2, 1, 0, 0]  # with cold items, those of no pair


def call(user_ids, k, **changes):
  return recommend(SCORER, user_ids, k, **{"users": USERS, "items": ITEMS, "seen": SEEN, "cold_items": True, **changes})


def test_seen_items_are_left_out():
  got = call(["bob", "ann", "bob"], 2)
  np.testing.assert_array_equal(got.item_ids, [[10, 30], [30, 10], [10, 30]])
  np.testing.assert_array_equal(got.scores, [[-1, -3], [3, 1], [-1, -3]])
  assert not got.by_popularity.any()


def test_seen_items_are_kept_on_request():
  np.testing.assert_array_equal(call(["ann"], 4, exclude_seen=False).item_ids, [[40, 30, 20, 10]])


def test_unknown_and_wholly_forgotten_users_get_the_popular_items():
  got = call(["zoe", "ann", "cat"], 3)
  np.testing.assert_array_equal(got.item_ids, [POPULAR[:3], [30, 10, -1], POPULAR[:3]])
  np.testing.assert_array_equal(got.scores, [COUNTS[:3], [3, 1, -np.inf], COUNTS[:3]])
  np.testing.assert_array_equal(got.by_popularity, [True, False, True])


def test_forgetting_a_user_turns_the_answer_into_popularity():
  left = SEEN.without(SEEN.select(SEEN.user == 0))
  got = call(["ann"], 4, seen=left)
  np.testing.assert_array_equal(got.item_ids, [[20, 10, 30, 40]])
  assert got.by_popularity.all()


def test_nothing_left_at_all():
  got = call(["ann", "zoe"], 2, seen=SEEN.select(np.zeros(3, bool)))
  np.testing.assert_array_equal(got.item_ids, [[10, 20], [10, 20]])


def test_items_without_a_pair_are_not_recommended():
  """An item request leaves a vector behind that most methods have hardly moved; what is served must not show it."""
  got = call(["ann", "bob", "zoe"], 2, cold_items=False)
  np.testing.assert_array_equal(got.item_ids, [[-1, -1], [40, -1], [20, 40]])  # 10 and 30 have no pair
  np.testing.assert_array_equal(got.scores, [[-np.inf, -np.inf], [-4, -np.inf], [2, 1]])
  np.testing.assert_array_equal(call(["ann"], 3, cold_items=False, exclude_seen=False).item_ids, [[40, 20, -1]])
  np.testing.assert_array_equal(call(["ann"], 1, cold_items=False, exclude_seen=False).item_ids, [[40]])
  np.testing.assert_array_equal(call(["zoe"], 6, cold_items=False).item_ids, [[20, 40, -1, -1, -1, -1]])


def test_forgotten_items_are_passed_over_whatever_their_scores():
  rng = np.random.default_rng(0)
  scorer = Scorer(
    None, Embeddings(*(jnp.asarray(rng.normal(size=(n, 3)), jnp.float32) for n in (9, 70))), inner_product_score, True
  )
  seen = Interactions.from_pairs(*rng.integers(0, (9, 70), (60, 2)).T, num_users=9, num_items=70)
  seen = seen.select(~np.isin(seen.item, np.arange(0, 70, 3)))
  got = recommend(scorer, np.arange(9), 12, users=Vocabulary.identity(9), items=Vocabulary.identity(70), seen=seen)
  has_pairs = seen.item_degrees() > 0
  scores = np.asarray(scorer.vectors.user @ scorer.vectors.item.T)
  for user in range(9):
    able = [i for i in np.argsort(-scores[user]) if has_pairs[i] and i not in seen.item[seen.user == user]]
    assert got.item_ids[user].tolist() == able[:12] and len(able) >= 12


def test_more_than_there_is():
  got = call(["ann", "zoe"], 6)
  np.testing.assert_array_equal(got.item_ids, [[30, 10, -1, -1, -1, -1], [*POPULAR, -1, -1]])
  assert np.isneginf(got.scores[got.item_ids == -1]).all()


def test_string_item_ids():
  items = Vocabulary.from_ids(["a", "bb", "ccc", "d"])
  got = call(["ann"], 3, items=items)
  assert got.item_ids.tolist() == [["ccc", "a", ""]]


@pytest.mark.parametrize("seen", [SEEN, None])
def test_no_users(seen):
  got = call([], 3, seen=seen, exclude_seen=seen is not None)
  assert got.item_ids.shape == got.scores.shape == (0, 3)
  assert got.by_popularity.shape == (0,)


def test_without_seen():
  got = call(["cat"], 2, seen=None, exclude_seen=False)
  np.testing.assert_array_equal(got.item_ids, [[40, 30]])
  with pytest.raises(ValueError, match="Unknown ids: 'zoe'"):
    call(["zoe"], 2, seen=None, exclude_seen=False)
  with pytest.raises(ValueError, match="Expected seen when exclude_seen=True"):
    call(["ann"], 2, seen=None)


def test_rejects():
  with pytest.raises(ValueError, match="k=0 to be a whole number > 0"):
    call(["ann"], 0)
  with pytest.raises(ValueError, match="k=2.5 to be a whole number > 0"):
    call(["ann"], 2.5)
  with pytest.raises(ValueError, match="str ids, got int"):
    call([1], 2)
  with pytest.raises(ValueError, match="Expected vocabularies over"):
    call(["ann"], 2, items=Vocabulary.identity(5))
  with pytest.raises(ValueError, match="Expected seen over"):
    call(["ann"], 2, seen=Interactions.from_pairs([0], [0], num_users=3, num_items=5))
