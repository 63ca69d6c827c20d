"""Checkpoints: what goes in comes out, what does not fit is named, and a failed save leaves nothing."""

import errno
import json
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxunlearn import _checkpoint_files, checkpoint
from jaxunlearn.data.interactions import Interactions


class Pair(NamedTuple):
  left: Any
  right: Any


def example_state() -> dict[str, Any]:
  return {
    "params": {"user": jnp.arange(12.0).reshape(4, 3), "item": jnp.ones((2, 3), jnp.bfloat16)},
    "pair": Pair(jnp.arange(3), None),
    "host": np.arange(5, dtype=np.int64),
    "zero_dim": np.array(2.5),
    "np_scalar": np.float32(1.5),
    "empty": jnp.zeros((0, 3)),
    "empty_host": np.zeros((0,), np.int32),
    "flag": True,
    "step": 7,
    "rate": 0.1,
    "worst": float("inf"),
    "key": jax.random.key(3),
    "keys": jax.random.split(jax.random.key(4, impl="rbg"), 3),
    "list": [jnp.zeros(()), (1, 2)],
    "data": Interactions.from_pairs([0, 1], [1, 0], num_users=4, num_items=2),
  }


def assert_same(actual: Any, expected: Any) -> None:
  is_none = lambda leaf: leaf is None  # noqa: E731
  assert jax.tree.structure(actual, is_leaf=is_none) == jax.tree.structure(expected, is_leaf=is_none)
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(actual, is_leaf=is_none),
    jax.tree.leaves(expected, is_leaf=is_none),
    strict=True,
  ):
    assert isinstance(a, jax.Array) == isinstance(b, jax.Array), path
    if isinstance(b, jax.Array | np.ndarray | np.generic):
      assert type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape, path
      if jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
        assert jax.random.key_impl(a) == jax.random.key_impl(b)
        a, b = jax.random.key_data(a), jax.random.key_data(b)
      np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=str(path))
    else:
      assert type(a) is type(b) and a == b, path


def like_of(state: Any) -> Any:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if isinstance(x, jax.Array | np.ndarray) else x, state
  )


def test_round_trip(tmp_path):
  state, metadata = example_state(), {"users": ["a", "ü"], "config": {"dim": 3, "widths": (1, 2)}, "log": [], "n": 1.5}
  path = checkpoint.save(tmp_path / "deep" / "c", state, metadata)
  for like in (state, like_of(state)):
    back, meta = checkpoint.restore(path, like)
    assert_same(back, state)
    assert meta == {**metadata, "config": {"dim": 3, "widths": [1, 2]}}
  assert os.listdir(path.parent) == ["c"]


def test_without_like_named_nodes_become_dicts(tmp_path):
  state = example_state()
  checkpoint.save(tmp_path / "c", state)
  back, meta = checkpoint.restore(tmp_path / "c")
  assert meta == {}
  assert set(back) == set(state) and set(back["pair"]) == {"left", "right"}
  np.testing.assert_array_equal(back["list"][0], 0)
  assert back["list"][1] == [1, 2]
  np.testing.assert_array_equal(back["data"]["user"], [0, 1])


@pytest.mark.parametrize("state", [{}, (), None, 3, {"a": None}])
def test_states_without_arrays(tmp_path, state):
  checkpoint.save(tmp_path / "c", state)
  assert checkpoint.restore(tmp_path / "c", state)[0] == state


def test_one_leaf(tmp_path):
  checkpoint.save(tmp_path / "c", jnp.arange(3))
  np.testing.assert_array_equal(checkpoint.restore(tmp_path / "c")[0], [0, 1, 2])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
  shape=st.lists(st.integers(0, 4), max_size=3),
  dtype=st.sampled_from(["float32", "float64", "int8", "uint32", "bool", "complex64", "float16", "bfloat16"]),
  seed=st.integers(0, 99),
)
def test_any_numpy_array(tmp_path, shape, dtype, seed):
  array = np.random.default_rng(seed).integers(0, 2, shape).astype(jnp.dtype(dtype))
  checkpoint.save(tmp_path / "c", {"x": array}, overwrite=True)
  assert_same(checkpoint.restore(tmp_path / "c", {"x": array})[0], {"x": array})


def test_ellipsis_takes_what_is_stored(tmp_path):
  data = Interactions.from_pairs([0, 1], [1, 0], num_users=4, num_items=2)
  checkpoint.save(tmp_path / "c", {"data": data, "x": jnp.ones(3)})
  back, _ = checkpoint.restore(tmp_path / "c", {"data": Interactions(..., ..., 4, 2), "x": jnp.zeros(3)})
  assert back["data"].digest() == data.digest()


def test_restored_onto_a_sharding(tmp_path):
  mesh = jax.make_mesh((1,), ("x",))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
  checkpoint.save(tmp_path / "c", {"x": jnp.ones(4)})
  back, _ = checkpoint.restore(tmp_path / "c", {"x": jax.ShapeDtypeStruct((4,), jnp.float32, sharding=sharding)})
  np.testing.assert_array_equal(back["x"], 1)


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"a": jax.ShapeDtypeStruct((2, 5), jnp.float32)}, ["state['a']", "float32[2, 3]", "float32[2, 5]"]),
    ({"a": jax.ShapeDtypeStruct((2, 3), jnp.int32)}, ["state['a']", "float32[2, 3]", "int32[2, 3]"]),
    ({"n": None}, ["state['n']", "a Python int", "None"]),
    ({"n": 2.0}, ["state['n']", "a Python int", "a Python float"]),
    ({"k": jax.random.key(0, impl="rbg")}, ["state['k']", "key<fry>", "key<rbg>"]),
    ({"extra": 1}, ["state['extra'] is expected but not stored"]),
  ],
)
def test_mismatch_names_the_leaf(tmp_path, change, words):
  state = {"a": jnp.zeros((2, 3)), "n": 2, "k": jax.random.key(0)}
  checkpoint.save(tmp_path / "c", state)
  with pytest.raises(ValueError) as error:
    checkpoint.restore(tmp_path / "c", {**state, **change})
  for word in words:
    assert word in str(error.value)
  with pytest.raises(ValueError, match=r"state\['n'\] is stored but not expected"):
    checkpoint.restore(tmp_path / "c", {"a": state["a"], "k": state["k"]})


def test_what_cannot_be_stored_is_named(tmp_path):
  for leaf in ("text", np.array(["a"]), object()):
    with pytest.raises(TypeError, match=r"state\['bad'\]"):
      checkpoint.save(tmp_path / "c", {"bad": leaf})
  with pytest.raises(TypeError, match=r"metadata\['vocabulary'\], got 3"):
    checkpoint.save(tmp_path / "c", {}, {"vocabulary": {3: 0}})
  with pytest.raises(TypeError, match="metadata"):
    checkpoint.save(tmp_path / "c", {}, {"x": object()})
  assert os.listdir(tmp_path) == []


def test_existing_needs_overwrite(tmp_path):
  checkpoint.save(tmp_path / "c", {"x": jnp.zeros(2)})
  with pytest.raises(FileExistsError, match="overwrite=True"):
    checkpoint.save(tmp_path / "c", {"x": jnp.ones(2)})
  checkpoint.save(tmp_path / "c", {"x": jnp.ones(2)}, overwrite=True)
  np.testing.assert_array_equal(checkpoint.restore(tmp_path / "c")[0]["x"], 1)
  assert os.listdir(tmp_path) == ["c"]


def test_overwrite_replaces_checkpoints_alone(tmp_path):
  (tmp_path / "results").mkdir()
  (tmp_path / "results" / "thesis.txt").write_text("years of work")
  for name in ("results", "results/thesis.txt"):
    with pytest.raises(FileExistsError, match=f"{name} is no checkpoint, so overwrite=True does not replace it"):
      checkpoint.save(tmp_path / name, {"x": jnp.zeros(2)}, overwrite=True)
  assert (tmp_path / "results" / "thesis.txt").read_text() == "years of work"
  (tmp_path / "empty").mkdir()
  checkpoint.save(tmp_path / "empty", {"x": jnp.zeros(2)}, overwrite=True)
  assert sorted(os.listdir(tmp_path)) == ["empty", "results"]


def test_a_link_leads_to_what_is_replaced(tmp_path):
  """What it pointed to used to stay, with whatever was to be forgotten."""
  checkpoint.save(tmp_path / "real", {"x": jnp.zeros(2)})
  (tmp_path / "link").symlink_to("real")
  checkpoint.save(tmp_path / "link", {"x": jnp.ones(2)}, overwrite=True)
  for name in ("real", "link"):
    np.testing.assert_array_equal(checkpoint.restore(tmp_path / name)[0]["x"], 1)
  assert sorted(os.listdir(tmp_path)) == ["link", "real"] and (tmp_path / "link").is_symlink()


def test_leftovers_of_names_with_brackets_are_swept(tmp_path):
  (tmp_path / ".l2unrank[hops=2].trash-0").mkdir()
  checkpoint.save(tmp_path / "l2unrank[hops=2]", {"x": jnp.zeros(2)})
  assert os.listdir(tmp_path) == ["l2unrank[hops=2]"]


def test_missing(tmp_path):
  with pytest.raises(FileNotFoundError, match="nowhere"):
    checkpoint.restore(tmp_path / "nowhere")
  (tmp_path / "plain").mkdir()
  with pytest.raises(OSError, match="plain.*manifest"):
    checkpoint.restore(tmp_path / "plain")


def test_every_damaged_file_is_found(tmp_path):
  state = {"x": jnp.arange(1000.0), "n": 1}
  path = checkpoint.save(tmp_path / "c", state, {"a": 1})
  files = [file for file in path.rglob("*") if file.is_file()]
  assert {"tree.json", "metadata.json", "manifest.json"} <= {file.name for file in files}
  for file in files:
    content = file.read_bytes()
    flipped = bytes([content[0] ^ 0xFF]) + content[1:] if content else b"x"
    for damage in (content[: len(content) // 2] if content else b"x", flipped, None):
      file.unlink() if damage is None else file.write_bytes(damage)
      with pytest.raises(OSError, match=str(path)):
        checkpoint.restore(path, state)
      file.write_bytes(content)
  assert_same(checkpoint.restore(path, state)[0], state)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("RESOURCE_EXHAUSTED")])
def test_full_disk(tmp_path, monkeypatch, error):
  old = checkpoint.save(tmp_path / "c", {"x": jnp.zeros(2)})

  def fail(self, directory, *args, **kwargs):
    os.makedirs(directory)
    (directory / "half").write_bytes(b"...")
    raise error

  monkeypatch.setattr(ocp.Checkpointer, "save", fail)
  for path in (tmp_path / "c", tmp_path / "new"):
    with pytest.raises(OSError, match=str(path)) as caught:
      checkpoint.save(path, {"x": jnp.ones(2)}, overwrite=True)
    assert caught.value.errno == getattr(error, "errno", None)
  assert os.listdir(tmp_path) == ["c"]
  monkeypatch.undo()
  np.testing.assert_array_equal(checkpoint.restore(old)[0]["x"], 0)


def test_a_failure_while_listing_the_files(tmp_path, monkeypatch):
  def fail(folder):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(_checkpoint_files, "write_manifest", fail)
  with pytest.raises(OSError, match=str(tmp_path / "c")):
    checkpoint.save(tmp_path / "c", {"x": jnp.ones(2)})
  assert os.listdir(tmp_path) == []


def test_parent_is_a_file(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(OSError, match="file"):
    checkpoint.save(tmp_path / "file" / "c", {"x": jnp.ones(2)})


def test_files_are_plain_json(tmp_path):
  path = checkpoint.save(tmp_path / "c", {"x": jnp.ones((2, 3))}, {"numpy": np.int64(3), "array": np.arange(2)})
  assert json.loads((path / "metadata.json").read_text()) == {"numpy": 3, "array": [0, 1]}
  record = json.loads((path / "tree.json").read_text())["leaves"][0]
  assert record["where"] == "['x']" and record["shape"] == [2, 3] and record["dtype"] == "float32"
