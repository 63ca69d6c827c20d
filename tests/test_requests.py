import jax
import numpy as np
import pytest

from jaxunlearn import models
from jaxunlearn.data.interactions import Interactions
from jaxunlearn.data.vocabulary import Vocabulary
from jaxunlearn.requests import Request, resolve
from jaxunlearn.unlearn import finetune, gradient_ascent, ifru, l2unrank, lightul, rownewton

USERS = Vocabulary.from_ids(["ann", "bob", "cy"])
ITEMS = Vocabulary.from_ids([10, 20, 30, 40])


def data():
  return Interactions.from_pairs([0, 0, 1, 1, 2], [0, 1, 1, 2, 3], num_users=3, num_items=4)


def request(**parts):
  return Request(user_vocabulary=USERS, item_vocabulary=ITEMS, **parts)


def pairs(interactions):
  return set(zip(interactions.user.tolist(), interactions.item.tolist(), strict=True))


def test_pairs_users_and_items_add_up():
  got = resolve(request(pairs=[("ann", 10)], users=["bob"], items=[20]), data())
  assert pairs(got) == {(0, 0), (1, 1), (1, 2), (0, 1)}


def test_an_empty_request_is_empty():
  assert len(resolve(request(), data())) == 0


@pytest.mark.parametrize(
  ("parts", "message"),
  [
    ({"users": ["dan"]}, "dan"),
    ({"items": [99]}, "99"),
    ({"pairs": [("ann", 40)]}, r"\('ann', 40\)"),
  ],
)
def test_what_is_not_there_raises_and_may_be_ignored(parts, message):
  with pytest.raises(ValueError, match=message):
    resolve(request(**parts), data())
  assert len(resolve(request(**parts, missing="ignore"), data())) == 0


def test_a_user_without_pairs_left_raises():
  retained = data().without(data().select(data().user == 1))
  with pytest.raises(ValueError, match="bob"):
    resolve(request(users=["bob"]), retained)


def test_positions_without_vocabulary():
  assert pairs(resolve(Request(pairs=[(2, 3)]), data())) == {(2, 3)}
  with pytest.raises(ValueError, match=r"\[0, 3\)"):
    resolve(Request(users=[7]), data())
  with pytest.raises(ValueError, match="user_vocabulary"):
    resolve(Request(users=["ann"]), data())


def test_forgetting_everything_is_refused():
  with pytest.raises(ValueError, match="forgets all 5 pairs"):
    resolve(data(), data())


@pytest.mark.parametrize("method", [finetune, gradient_ascent, ifru, l2unrank, lightul, rownewton])
def test_forgetting_everything_is_refused_by_the_pure_functions(method):
  model = models.bprmf()
  params = model.init(jax.random.key(0), data().num_users, data().num_items)
  with pytest.raises(ValueError, match="forgets all 5 pairs; delete the model"):
    method.unlearn(jax.random.key(0), model, params, data(), data())


def test_interactions_that_were_never_trained_are_named():
  with pytest.raises(ValueError, match=r"\(2, 0\)"):
    resolve(Interactions.from_pairs(np.asarray([2]), np.asarray([0]), num_users=3, num_items=4), data())
