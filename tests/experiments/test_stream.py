"""Streams of requests and leave-one-out: what is drawn, what is counted, and the scripts as commands."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _leave_one_out as leave_one_out
from experiments import _stream as stream
from jaxunlearn.data import SyntheticConfig, datasets, generate
from jaxunlearn.metrics.ranking import evaluate
from jaxunlearn.models import BPRMFConfig, bprmf
from jaxunlearn.unlearn.retrain import ModelState, model_scorer
from tests import scripts

DATA = generate(SyntheticConfig(num_users=40, num_items=30, num_pairs=500, num_clusters=2)).dataset
SMALL = "--train.num_epochs=3 --train.batch_size=128 --bprmf.embedding_dim=4"


def run(tmp_path, command):
  done = scripts.run(command, tmp_path)
  return done.returncode, done.stdout, done.stderr


def test_requests_are_disjoint_pairs_of_the_data():
  requests = stream.draw_requests(DATA.train, 5, 7, seed=0)
  assert [len(one) for one in requests] == [7] * 5
  so_far = stream.so_far(requests)
  assert [len(one) for one in so_far] == [7, 14, 21, 28, 35]
  assert DATA.train.contains(so_far[-1]).all()
  with pytest.raises(ValueError, match="--requests"):
    stream.draw_requests(DATA.train, len(DATA.train), 1, seed=0)


def test_a_request_of_a_user_is_all_of_their_pairs():
  requests = stream.draw_users(DATA.train, 12, seed=0)
  users = [int(one.user[0]) for one in requests]
  assert len(set(users)) == 12 and users != sorted(users)
  for user, one in zip(users, requests, strict=True):
    np.testing.assert_array_equal(one.keys(), DATA.train.keys()[DATA.train.user == user])
  assert users != [int(one.user[0]) for one in stream.draw_users(DATA.train, 12, seed=1)]
  everyone = int((DATA.train.user_degrees() > 0).sum())
  assert len(stream.draw_users(DATA.train, everyone - 1, seed=0)) == everyone - 1
  with pytest.raises(ValueError, match=f"--requests={everyone}"):
    stream.draw_users(DATA.train, everyone, seed=0)


@pytest.mark.parametrize(
  ("requests", "references", "places"),
  [(50, 4, [12, 25, 38, 50]), (100, 4, [25, 50, 75, 100]), (1, 4, [1]), (7, 0, [])],
)
def test_references_end_at_the_end(requests, references, places):
  assert stream.reference_places(requests, references) == places


def test_who_remains_is_ranked_apart_and_compared_with_retrain():
  requests = stream.draw_users(DATA.train, 12, seed=0)
  along = stream.Along(DATA, stream.so_far(requests))
  model = bprmf(BPRMFConfig(embedding_dim=3))
  state = ModelState(model.init(jax.random.key(0), DATA.num_users, DATA.num_items), DATA.train)
  point = along(model_scorer(model, state), 5)
  gone = [int(one.user[0]) for one in requests[:5]]
  assert set(gone) & set(DATA.test.user.tolist())  # else nobody is left out
  left = np.setdiff1d(np.flatnonzero(DATA.train.user_degrees()), gone)
  want = evaluate(model_scorer(model, state), DATA.test, mask=DATA.train, users=left).values["ndcg@20"]
  assert point["remaining_ndcg@20"] == pytest.approx(want, rel=1e-6) and point["ndcg@20"] != point["remaining_ndcg@20"]
  half = {**point, "ndcg@20": point["ndcg@20"] / 2, "remaining_ndcg@20": point["remaining_ndcg@20"] / 4}
  there, elsewhere = stream.against([half, {**half, "requests": 6}], [point])
  assert (there["releff@20"], there["remaining_releff@20"]) == (pytest.approx(0.5), pytest.approx(0.25))
  assert elsewhere == {**half, "requests": 6}


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


def test_a_stream_of_users_as_a_command(tmp_path):
  command = (
    f"stream --dataset=synthetic --by=user --methods=rownewton --requests=5 --every=4 --references=2 {SMALL} --out=out"
  )
  code, out, err = run(tmp_path, command)
  assert code == 0, err
  found = json.loads((tmp_path / "out" / "result.json").read_text())
  data = datasets.load("synthetic").train
  requests = stream.draw_users(data, 5, seed=0)
  sizes = [int(data.user_degrees()[one.user[0]]) for one in requests]
  assert found["sizes"] == sizes and found["by"] == "user" and max(sizes) <= 256  # one capacity holds each of them
  points, retrain = found["stream"]["rownewton"]["points"], found["retrain"]
  assert [point["requests"] for point in points] == [2, 4, 5] and [point["requests"] for point in retrain] == [2, 5]
  assert retrain[-1]["pairs"] == sum(sizes) == points[-1]["pairs"]
  assert found["forget_hash"] == stream.so_far(requests)[-1].digest()
  for point, reference in ((points[0], retrain[0]), (points[2], retrain[1])):
    for prefix in ("", "remaining_"):
      ratio = point[f"{prefix}ndcg@20"] / reference[f"{prefix}ndcg@20"]
      assert point[f"{prefix}releff@20"] == pytest.approx(ratio) and point["requests"] == reference["requests"]
  assert "releff@20" not in points[1] and "releff@20" in found["stream"]["rownewton"]["joint"]
  assert sum(found["stream"]["rownewton"]["compiled"][1:]) == 0
  assert "RelEff@20" in out
  assert found["methods"]["rownewton"]["method"]["num_rounds"] == 1 and found["config"]["seed"] == 0
  code, _, err = run(tmp_path, f"{command} --pairs=3")
  assert code == 1 and "--by=user" in err


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
