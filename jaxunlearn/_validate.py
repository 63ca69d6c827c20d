"""Checks of arguments on the host, each with the name, the value and the rule in its message."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_positive(name: str, value: float) -> None:
  """Raises ValueError unless value > 0."""
  if not value > 0:
    raise ValueError(f"Expected {name}={value} > 0.")


def check_non_negative(name: str, value: float) -> None:
  """Raises ValueError unless value >= 0."""
  if not value >= 0:
    raise ValueError(f"Expected {name}={value} >= 0.")


def check_whole(name: str, value: Any, *, least: int = 1) -> None:
  """Raises ValueError unless value is an integer ≥ `least`, 1 or 0."""
  if not _is_integer(value) or value < least:
    raise ValueError(f"Expected {name}={value!r} to be a whole number {'> 0' if least else '>= 0'}.")


def check_integers(config: Any) -> None:
  """Raises ValueError where a field of a dataclass that is annotated `int` holds something else, such as a float."""
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if field.type == "int" and not _is_integer(value):
      raise ValueError(f"Expected {field.name}={value!r} to be a whole number.")


def _is_integer(value: Any) -> bool:
  return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_fraction(name: str, value: float, *, closed: bool = False) -> None:
  """Raises ValueError unless value is in (0, 1), or in [0, 1] when closed."""
  if not (0 <= value <= 1 if closed else 0 < value < 1):
    raise ValueError(f"Expected {name}={value} in {'[0, 1]' if closed else '(0, 1)'}.")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
  """Raises ValueError unless value is one of choices; names the nearest."""
  known = tuple(choices)
  if value not in known:
    near = difflib.get_close_matches(str(value), [str(c) for c in known], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"Expected {name}={value!r} to be one of {', '.join(map(repr, known))}.{hint}")


def check_preset(model: str, known: Iterable[str]) -> None:
  """Raises ValueError for another spelling of a model that a preset knows: it would get the settings of none."""
  if model not in (names := tuple(known)) and model.lower() in names:
    raise ValueError(f"Expected model={model!r} spelt as {model.lower()!r}.")


def check_tables(params: Any, interactions: Any) -> None:
  """Raises ValueError unless params["user"] and ["item"] have a row for each user and item of the interactions."""
  for name, size in (("user", interactions.num_users), ("item", interactions.num_items)):
    table = params.get(name) if isinstance(params, Mapping) else None
    if table is None or not jnp.shape(table) or jnp.shape(table)[0] != size:
      got = "none" if table is None else f"shape {jnp.shape(table)}"
      raise ValueError(
        f"Expected params[{name!r}] with {size:,} rows, one a position of the interactions, got {got}; pass the "
        "parameters that were trained on these interactions."
      )


def check_own_vectors(method: str, model: Any) -> None:
  """Raises ValueError for vectors from elsewhere, which know the pairs that an exact method would leave out."""
  if model.name == "frozen":
    raise ValueError(
      f"Expected a model that {method} can train without what is forgotten, got 'frozen': its vectors were trained "
      "elsewhere, on all pairs. Train them anew there, or use lightul."
    )


def check_trained(method: str, model: Any) -> None:
  """Raises ValueError for a model that nothing trains."""
  if model.batches == "none":
    raise ValueError(
      f"Expected a model that is trained, got {model.name!r}, which has no loss for {method}; use lightul for vectors "
      "from elsewhere, retrain for popularity."
    )


@jax.jit  # one program; of a leaf, not of a tree: those of shards may lie on several devices
def _not_finite(array: jax.Array) -> jax.Array:
  return jnp.sum(~jnp.isfinite(array))


def check_positions(name: str, array: np.ndarray) -> None:
  """Raises ValueError for a mask, or ids of another kind, where positions are asked for."""
  if array.size and not np.issubdtype(array.dtype, np.integer):
    raise ValueError(
      f"Expected {name} as integer positions, got {array.dtype}: np.flatnonzero(mask) of a mask, a Vocabulary for ids."
    )


_RETRAIN = "train again with a smaller learning rate, or load an earlier checkpoint"


def check_finite(name: str, tree: Any, remedy: str = _RETRAIN) -> None:
  """Raises ValueError naming the first leaf of `tree` that holds NaN or infinity, and how many rows do."""
  leaves = [(path, jnp.asarray(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
  inexact = [(path, array) for path, array in leaves if jnp.issubdtype(array.dtype, jnp.inexact)]
  for (path, array), bad in zip(inexact, jax.device_get([_not_finite(array) for _, array in inexact]), strict=True):
    if bad:
      where = jax.tree_util.keystr(path)
      raise ValueError(
        f"Expected finite values in {name}{where}, got {bad} NaN or infinite of {array.size} (shape {array.shape}); "
        f"{remedy}."
      )
