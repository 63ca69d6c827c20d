"""The whole contract on one page: what a model is, what an unlearner is, what is served, what a request is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
from flax import struct

from jaxunlearn.data.interactions import Interactions
from jaxunlearn.losses import row_sum

Params = Any  # a pytree of float arrays
Context = Any  # a pytree: all that a forward pass reads from the data, or None
State = Any  # a pytree: what the next request needs, and nothing that was forgotten


class Embeddings(NamedTuple):
  """One vector a user and one an item: float [num_users, d], float [num_items, d]."""

  user: jax.Array
  item: jax.Array


class Batch(NamedTuple):
  """Training examples for a loss; `weight` is 0 for padding, which every loss leaves out of sum and mean.

  A pairwise loss reads (user, positive, negative); a pointwise loss counts the positive as label 1 and each
  negative as label 0; a user loss (WMF) reads `user` as the distinct users of the batch and (row, positive)
  as all their pairs, `row` being the position in `user`, `pair_weight` 0 for padding.
  """

  user: jax.Array  # int32 [B]
  positive: jax.Array  # int32 [B]; user loss: [P]
  negative: jax.Array  # int32 [B, num_negatives]; user loss: [0]
  weight: jax.Array  # float32 [B]
  row: jax.Array | None = None  # user loss: int32 [P]
  pair_weight: jax.Array | None = None  # user loss: float32 [P]


class Model(NamedTuple):
  """A recommender as a tuple of pure functions.

  The first five fields are the contract; the rest describes it to the training loop.

  Attributes:
    init: (key, num_users, num_items) -> params.
    context: (interactions) -> context, a pytree or None.
    encode: (params, context) -> Embeddings.
    score: (params, user_vectors [..., d], item_vectors [..., d]) -> [...]; broadcasts.
    loss: (params, context, batch) -> scalar, the mean over the batch's real examples.
    name: short name for messages and results.
    config: the configuration that the factory was given, or None; a checkpoint is resumed only by an equal one.
    batches: which batches `loss` takes: "pairwise", "users" (WMF), or "none" (nothing to train).
    inner_product: whether `score` is the plain inner product of the two vectors.
    row_loss: (rest, user rows [B, d], positive rows [B, d], negative rows [B, num_negatives, d], weight [B]) -> scalar:
      the same loss from rows that are gathered already, `rest` being the parameters without the two tables; None when
      `loss` reads more than the batch's rows. A row-sparse optimizer needs it.
  """

  init: Callable[[jax.Array, int, int], Params]
  context: Callable[[Interactions], Context]
  encode: Callable[[Params, Context], Embeddings]
  score: Callable[[Params, jax.Array, jax.Array], jax.Array]
  loss: Callable[[Params, Context, Batch], jax.Array]
  name: str = "model"
  config: Any = None
  batches: str = "pairwise"
  inner_product: bool = True
  row_loss: Callable[[Params, jax.Array, jax.Array, jax.Array, jax.Array], jax.Array] | None = None


class Scorer(struct.PyTreeNode):
  """What is served. `recommend` and every metric look at this and at nothing else.

  Scores are exact to float32: the TF32 that a GPU takes by default would rank by 10 bits, with ties that no score has.

  Attributes:
    params: parameters that `score` reads beside the vectors (NeuMF's tower); None for inner products.
    vectors: served vectors, one a user and one an item.
    score: the model's `score`.
    inner_product: whether the score is the inner product of `vectors`.
  """

  params: Params
  vectors: Embeddings
  score: Callable[[Params, jax.Array, jax.Array], jax.Array] = struct.field(pytree_node=False)
  inner_product: bool = struct.field(pytree_node=False)

  @property
  def num_users(self) -> int:
    """Rows of the user axis."""
    return self.vectors.user.shape[0]

  @property
  def num_items(self) -> int:
    """Rows of the item axis."""
    return self.vectors.item.shape[0]

  @property
  def embeddings(self) -> Embeddings | None:
    """The served vectors where the score is their inner product, else None."""
    return self.vectors if self.inner_product else None

  @jax.default_matmul_precision("highest")
  def scores(self, users: jax.Array) -> jax.Array:
    """float [B, num_items]: all items for each position in `users` (int [B])."""
    if self.inner_product:
      return self.vectors.user[users] @ self.vectors.item.T
    return self.score(self.params, self.vectors.user[users][:, None, :], self.vectors.item[None, :, :])

  @jax.default_matmul_precision("highest")
  def pair_scores(self, users: jax.Array, items: jax.Array) -> jax.Array:
    """float [B]: one score a pair of positions (int [B], int [B])."""
    return self.score(self.params, self.vectors.user[users], self.vectors.item[items])


def inner_product_score(params: Params, user_vectors: jax.Array, item_vectors: jax.Array) -> jax.Array:
  """⟨user, item⟩ over the last axis, broadcasting the others; `params` is not read."""
  del params
  return row_sum(user_vectors * item_vectors)


def scorer_of(model: Model, params: Params, context: Context) -> Scorer:
  """The scorer of a trained model: its vectors encoded once."""
  return Scorer(
    params=None if model.inner_product else params,
    vectors=model.encode(params, context),
    score=model.score,
    inner_product=model.inner_product,
  )


class UnlearnResult(NamedTuple):
  """A new state and diagnostics. Nothing computes from `info`."""

  state: State
  info: dict[str, Any]


class FitFn(Protocol):
  """fit(key, interactions) -> state."""

  def __call__(self, key: jax.Array, interactions: Interactions) -> State:
    """Trains on `interactions`."""


class UnlearnFn(Protocol):
  """unlearn(key, state, request) -> UnlearnResult."""

  def __call__(self, key: jax.Array, state: State, request: Any) -> UnlearnResult:
    """Forgets `request`: a `Request` of raw ids, or `Interactions` of positions."""


class Unlearner(NamedTuple):
  """A way of training a recommender such that, or after which, it can forget.

  Attributes:
    fit: (key, interactions) -> state.
    unlearn: (key, state, request) -> UnlearnResult(state, info).
    scorer: (state) -> Scorer, what is served.
    guarantee: "exact" (the parameters equal those of training without the request, see the method's
      docstring for given what) or "approximate".
    name: short name for messages and results.
    refit: (key, state) -> state, of exact methods: trains from scratch on the state's retained pairs, with its
      partition where it has one. `verify_exact` compares with it.
  """

  fit: FitFn
  unlearn: UnlearnFn
  scorer: Callable[[State], Scorer]
  guarantee: str
  name: str = "unlearner"
  refit: Callable[[jax.Array, State], State] | None = None
