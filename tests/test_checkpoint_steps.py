"""Steps of a run: a kill at any moment leaves a complete one, and no run resumes from another's."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import _checkpoint_files, checkpoint


def test_steps(tmp_path):
  assert checkpoint.latest(tmp_path / "run") is None
  for step in (0, 5, 10, 100):
    path = checkpoint.save_step(tmp_path / "run", step, {"x": jnp.full(2, step)}, {"step": step})
    assert checkpoint.latest(tmp_path / "run") == path
  assert checkpoint.steps(tmp_path / "run") == [10, 100]
  checkpoint.save_step(tmp_path / "run", 100, {"x": jnp.zeros(2)}, keep=1)
  assert checkpoint.steps(tmp_path / "run") == [100]
  assert sorted(os.listdir(tmp_path / "run")) == ["step_00000100"]
  for bad in ({"step": -1}, {"step": 1, "keep": 0}):
    with pytest.raises(ValueError, match="keep"):
      checkpoint.save_step(tmp_path / "run", state={}, **bad)


def test_latest_skips_an_incomplete_step(tmp_path):
  for step in (1, 2):
    checkpoint.save_step(tmp_path, step, {"x": jnp.ones(2)})
  (tmp_path / "step_00000002" / "tree.json").unlink()
  assert checkpoint.latest(tmp_path).name == "step_00000001"


@pytest.mark.parametrize("call", range(1, 6))
def test_killed_between_any_two_renames(tmp_path, monkeypatch, call):
  """A kill leaves the files as they are: no handler runs. Whatever the moment, a whole state is found."""
  path = checkpoint.save(tmp_path / "c", {"x": jnp.zeros(2)})
  rename, rmtree, calls = os.rename, _checkpoint_files.shutil.rmtree, []

  def dying(function):
    def wrapped(*args, **kwargs):
      calls.append(function)
      if len(calls) < call:
        function(*args, **kwargs)

    return wrapped

  monkeypatch.setattr(os, "rename", dying(rename))
  monkeypatch.setattr(_checkpoint_files.shutil, "rmtree", dying(rmtree))
  checkpoint.save(path, {"x": jnp.ones(2)}, overwrite=True)
  monkeypatch.undo()
  x = checkpoint.restore(path)[0]["x"]
  assert np.array_equal(x, [0, 0]) or np.array_equal(x, [1, 1])
  checkpoint.save(path, {"x": jnp.full(2, 2)}, overwrite=True)
  np.testing.assert_array_equal(checkpoint.restore(path)[0]["x"], 2)


def test_killed_while_saving(tmp_path):
  """SIGKILL during saves, three times: what is there is complete, and the leftovers go with the next save."""
  script = textwrap.dedent("""
    import sys, jax.numpy as jnp
    from jaxunlearn import checkpoint
    for step in range(10**6):
      checkpoint.save_step(sys.argv[1], step, {"x": jnp.full((1000, 50), step)}, {"step": step})
      print(step, flush=True)
  """)
  for seed in range(3):
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    for _ in range(3):
      process.stdout.readline()
    time.sleep(0.013 * seed)
    process.send_signal(signal.SIGKILL)
    last = [int(line) for line in process.communicate()[0].split()]
    state, metadata = checkpoint.restore(checkpoint.latest(tmp_path))
    assert metadata["step"] >= max(last, default=2)
    np.testing.assert_array_equal(state["x"], metadata["step"])
  step = metadata["step"] + 1
  checkpoint.save_step(tmp_path, step, {"x": jnp.zeros(1)})
  assert len(checkpoint.steps(tmp_path)) == 2


def test_leftovers_of_a_dead_process_are_removed(tmp_path):
  dead = subprocess.Popen([sys.executable, "-c", ""])
  dead.wait()
  host = _checkpoint_files.platform.node()
  names = [f".c.tmp-{host}-{dead.pid}-aa", f".c.tmp-{host}-{os.getppid()}-bb", ".c.tmp-elsewhere-1-cc", ".c.trash-dd"]
  for name in names:
    (tmp_path / name).mkdir()
  checkpoint.save(tmp_path / "c", {})
  assert sorted(name for name in os.listdir(tmp_path) if name != "c") == sorted(names[1:3])


def test_run_directory(tmp_path):
  like = {"x": jnp.zeros(2)}
  run = checkpoint.RunDirectory(tmp_path / "run", {"rate": 0.1, "widths": (1, 2)})
  assert run.latest(like) is None
  run.save(1, {"x": jnp.ones(2)}, {"history": [1]})
  run.save(2, {"x": jnp.full(2, 2.0)}, {"history": [1, 2]})
  state, metadata = checkpoint.RunDirectory(tmp_path / "run", {"rate": 0.1, "widths": (1, 2)}).latest(like)
  assert metadata == {"history": [1, 2]}
  np.testing.assert_array_equal(state["x"], 2)
  with pytest.raises(ValueError, match=r"another run: rate is 0\.1 there and 0\.2 here"):
    checkpoint.RunDirectory(tmp_path / "run", {"rate": 0.2, "widths": (1, 2)}).latest(like)

  tree = tmp_path / "run" / "step_00000002" / "tree.json"
  tree.write_text(tree.read_text().replace("x", "y"))  # the same size, another content
  with pytest.warns(UserWarning, match="Trying the step before"):
    state, metadata = run.latest(like)
  assert metadata == {"history": [1]}
  tree = tmp_path / "run" / "step_00000001" / "tree.json"
  tree.write_text(tree.read_text().replace("x", "y"))
  with pytest.warns(UserWarning), pytest.raises(OSError, match="has changed"):
    run.latest(like)
