"""Leaves of a checkpoint: what `tree.json` says of each, and the way back from there to a value and a tree."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_SCALARS: dict[str, type] = {"bool": bool, "int": int, "float": float}


def entry(path: Any) -> list[list[Any]]:
  """A key path as JSON: [["key", "user"], ["index", 0], ["attr", "params"]]."""
  util, out = jax.tree_util, []
  for part in path:
    if isinstance(part, util.SequenceKey):
      out.append(["index", part.idx])
    elif isinstance(part, util.GetAttrKey):
      out.append(["attr", part.name])
    elif isinstance(part, util.DictKey | util.FlattenedIndexKey):
      out.append(["key", part.key if isinstance(part.key, str | int) else str(part.key)])
    else:
      out.append(["key", str(part)])
  return out


def describe(where: str, leaf: Any) -> tuple[dict[str, Any], Any]:
  """What tree.json says of a leaf, and the array that orbax stores of it (None where there is nothing to store)."""
  if leaf is None:
    return {"kind": "none"}, None
  for kind, cls in _SCALARS.items():
    if type(leaf) is cls:
      return {"kind": kind, "value": leaf.hex() if isinstance(leaf, float) else leaf}, None
  if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    data = jax.random.key_data(leaf)
    impl = str(jax.random.key_impl(leaf))
    record = {"kind": "key", "shape": list(leaf.shape), "dtype": str(leaf.dtype), "impl": impl}
    return record, data if data.size else None
  if isinstance(leaf, jax.Array | np.ndarray | np.generic):
    if leaf.dtype.kind in "OUSMm":
      raise TypeError(f"Expected numbers at state{where}, got dtype {leaf.dtype}; text and objects belong in metadata.")
    kind = "jax" if isinstance(leaf, jax.Array) else "numpy" if isinstance(leaf, np.ndarray) else "numpy_scalar"
    record = {"kind": kind, "shape": list(leaf.shape), "dtype": str(leaf.dtype)}
    return record, (leaf if kind != "numpy_scalar" else np.asarray(leaf)) if leaf.size else None
  raise TypeError(
    f"Expected an array, number or key at state{where}, got {type(leaf).__name__}; it belongs in metadata."
  )


def rebuild(record: dict[str, Any], array: Any) -> Any:
  """The value of a leaf from its record and the array that was stored of it (None: nothing was)."""
  kind = record["kind"]
  if kind == "none":
    return None
  if kind in _SCALARS:
    return float.fromhex(record["value"]) if kind == "float" else _SCALARS[kind](record["value"])
  if kind == "key":
    width = np.shape(jax.random.key_data(jax.random.key(0, impl=record["impl"])))
    data = np.zeros((*record["shape"], *width), np.uint32) if array is None else array
    return jax.random.wrap_key_data(jnp.asarray(data), impl=record["impl"])
  if array is None:
    array = np.zeros(record["shape"], jnp.dtype(record["dtype"]))
  if kind == "numpy_scalar":
    return array[()]
  if kind == "numpy" or isinstance(array, jax.Array):
    return array
  if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
    raise ValueError(f"state{record['where']} is stored as {array.dtype}; set jax_enable_x64 to restore it unchanged.")
  return jnp.array(array)  # a copy: the NumPy buffer may not be shared with an array that is donated later


def signature(kind: str | None, shape: Any, dtype: Any) -> str:
  """A leaf in an error message: `float32[3, 4]`, `a Python int`, `None`."""
  if shape is None:
    return "None" if kind == "none" else f"a Python {kind}"
  return f"{dtype}[{', '.join(map(str, shape))}]"


def nest(records: list[dict[str, Any]], leaves: list[Any]) -> Any:
  """Nested dicts and lists from the key paths; a state that is one leaf is that leaf."""
  if len(records) == 1 and not records[0]["path"]:
    return leaves[0]
  root: dict[Any, Any] = {}
  sequences: set[int] = set()
  for record, leaf in zip(records, leaves, strict=True):
    node, parts = root, record["path"]
    for depth, (kind, key) in enumerate(parts):
      if kind == "index":
        sequences.add(id(node))
      if depth == len(parts) - 1:
        node[key] = leaf
      else:
        node = node.setdefault(key, {})

  def finish(node: Any) -> Any:
    if not isinstance(node, dict):
      return node
    done = {key: finish(value) for key, value in node.items()}
    return list(done.values()) if id(node) in sequences else done

  return finish(root)
