"""Streams of requests and leave-one-out: what is drawn, what is counted, and the scripts as commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _leave_one_out as leave_one_out
from experiments import _results
from experiments import _stream as stream
from jaxunlearn.data import SyntheticConfig, generate
from jaxunlearn.models import BPRMFConfig, bprmf

DATA = generate(SyntheticConfig(num_users=40, num_items=30, num_pairs=500, num_clusters=2)).dataset
ROOT = Path(_results.__file__).parents[1]
SMALL = "--train.num_epochs=3 --train.batch_size=128 --bprmf.embedding_dim=4"


def run(tmp_path, command):
  environment = os.environ | {"PYTHONPATH": str(ROOT), "JAXUNLEARN_CACHE": str(tmp_path / "cache")}
  done = subprocess.run(
    [sys.executable, "-m", *f"experiments.{command}".split()],
    capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment, check=False,
  )  # fmt: skip
  return done.returncode, done.stdout, done.stderr


def test_requests_are_disjoint_pairs_of_the_data():
  requests = stream.draw_requests(DATA.train, 5, 7, seed=0)
  assert [len(one) for one in requests] == [7] * 5
  so_far = stream.so_far(requests)
  assert [len(one) for one in so_far] == [7, 14, 21, 28, 35]
  assert DATA.train.contains(so_far[-1]).all()
  with pytest.raises(ValueError, match="--requests"):
    stream.draw_requests(DATA.train, len(DATA.train), 1, seed=0)


def test_compilations_are_counted():
  stream.count_compilations()
  program = jax.jit(lambda x: x * 3 + jnp.sum(x))
  with stream.counting_compilations() as first:
    program(jnp.ones(7)).block_until_ready()
  with stream.counting_compilations() as second:
    program(jnp.ones(7)).block_until_ready()
  with stream.counting_compilations() as other_shape:
    program(jnp.ones(8)).block_until_ready()
  assert first[0] >= 1 and second == [0] and other_shape[0] >= 1


def test_a_stream_as_a_command(tmp_path):
  command = (
    f"stream --dataset=synthetic --methods=rownewton --requests=4 --pairs=5 --every=2 --references=2 {SMALL} --out=out"
  )
  code, out, err = run(tmp_path, command)
  assert code == 0, err
  found = json.loads((tmp_path / "out" / "result.json").read_text())
  points = found["stream"]["rownewton"]["points"]
  assert [point["pairs"] for point in points] == [10, 20] == [point["pairs"] for point in found["retrain"]]
  assert found["stream"]["rownewton"]["joint"]["pairs"] == 20
  assert sum(found["stream"]["rownewton"]["compiled"][1:]) == 0 < found["stream"]["rownewton"]["compiled"][0]
  assert "RowNewton (ours), at once" in out and (tmp_path / "out" / "plot.png").exists()


def test_the_small_part_holds_the_pairs_of_its_users_and_items(monkeypatch):
  monkeypatch.setattr(leave_one_out, "_FEWEST", 3)
  part = leave_one_out.small_part(np.random.default_rng(0), DATA.train, 10, 8)
  popular = np.argsort(-DATA.train.item_degrees(), kind="stable")[:8]
  assert (part.num_users, part.num_items) == (10, 8)
  assert (part.user_degrees() >= 3).all() and (part.user_degrees() < 7).all()
  rows = {tuple(sorted(part.item[part.user == u])) for u in range(10)}
  place = {int(i): n for n, i in enumerate(np.sort(popular))}
  theirs = {
    tuple(sorted(place[int(i)] for i in DATA.train.item[DATA.train.user == u] if int(i) in place)) for u in range(40)
  }
  assert rows <= theirs
  with pytest.raises(ValueError, match="--num_users=41"):
    leave_one_out.small_part(np.random.default_rng(0), DATA.train, 41, 8)


def test_the_expected_loss_is_the_mean_of_the_losses_of_draws(monkeypatch):
  monkeypatch.setattr(leave_one_out, "_FEWEST", 2)  # against a loop over each pair and each of its negatives
  part = leave_one_out.small_part(np.random.default_rng(0), DATA.train, 5, 6)
  model = bprmf(BPRMFConfig(embedding_dim=3, l2=0.1))
  params = model.init(jax.random.key(0), 5, 6)
  member = np.zeros((5, 6))
  member[part.user, part.item] = 1
  want = 0.0
  for user, item in zip(part.user, part.item, strict=True):
    absent = np.flatnonzero(member[user] == 0)
    u, i, losses = params["user"][user], params["item"][item], []
    for other in absent:
      j = params["item"][other]
      losses.append(jnp.log1p(jnp.exp(u @ j - u @ i)) + 0.05 * (u @ u + i @ i + j @ j))
    want += member[user].sum() ** -0.5 * np.mean(losses)
  got = leave_one_out.expected_loss(params, jnp.asarray(member, jnp.float32), jnp.float32(0.1))
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_agreement():
  found = leave_one_out.agreement([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
  np.testing.assert_allclose([found["pearson"], found["spearman"], found["slope"]], [1, 1, 2])
  assert np.isnan(leave_one_out.agreement([1.0, 1.0], [1.0, 2.0])["pearson"])


def test_leave_one_out_as_a_command(tmp_path):
  command = (
    "leave_one_out --dataset=synthetic --methods=rownewton --num_users=24 --num_items=20 --num_pairs=10 "
    "--embedding_dim=4 --steps=800 --retrain_steps=300 --l2=0.1 --out=out"
  )
  code, out, err = run(tmp_path, command)
  assert code == 0, err
  found = json.loads((tmp_path / "out" / "result.json").read_text())
  assert found["leave_one_out"]["rownewton"]["pearson"] > 0.7 and len(found["true"]) == 10
  assert found["largest_gradient"] < 1e-2 and all(change < 0 for change in found["true"])
  assert "RowNewton (ours)" in out and (tmp_path / "out" / "plot.svg").exists()
  code, _, err = run(tmp_path, "leave_one_out --dataset=synthetic --num_pairs=100000 --out=out")
  assert code == 1 and "--num_pairs=100000" in err
