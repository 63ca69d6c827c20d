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
POPULAR, COUNTS = [20, 40, 10, 30], [2, 1, 0, 0]


def call(user_ids, k, **changes):
  return recommend(SCORER, user_ids, k, **{"users": USERS, "items": ITEMS, "seen": SEEN, **changes})


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
  with pytest.raises(ValueError, match="k=0 > 0"):
    call(["ann"], 0)
  with pytest.raises(ValueError, match="str ids, got int"):
    call([1], 2)
  with pytest.raises(ValueError, match="Expected vocabularies over"):
    call(["ann"], 2, items=Vocabulary.identity(5))
  with pytest.raises(ValueError, match="Expected seen over"):
    call(["ann"], 2, seen=Interactions.from_pairs([0], [0], num_users=3, num_items=5))
