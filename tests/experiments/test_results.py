"""Results: strict JSON, whole files, errors that name the folder."""

import dataclasses
import json
import math
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _results


@dataclasses.dataclass(frozen=True)
class Config:
  rate: float = 0.1
  widths: tuple[int, ...] = (1, 2)


class Info(NamedTuple):
  residual: float


def example(**changes):
  arguments = dict(
    method="lightul", model="bprmf", dataset="toy", seeds=(0, 1), config=Config(), data_hash="d", forget_hash="f",
    utility=_results.over_seeds([{"ndcg@20": 0.3}, {"ndcg@20": 0.4}]),
    completeness={"auc": np.float32(0.5), "auc_retrain": float("nan")},
    efficiency={"unlearn_seconds": jnp.float32(1.5), "retrain_ratio": math.inf, "peak_memory_mb": 1},
    info={"fit": Info(0.25), "rows": np.arange(2), "ok": np.bool_(True), "none": None},
  )  # fmt: skip
  return _results.make_result(**{**arguments, **changes})


def test_round_trip(tmp_path):
  result = example()
  path = _results.write_result(tmp_path / "a" / "b", result)
  assert path == tmp_path / "a" / "b" / "result.json"
  assert os.listdir(path.parent) == ["result.json"]
  (back,) = _results.load_results(path)
  assert back == result
  assert back["config"] == {"rate": 0.1, "widths": [1, 2]}
  assert back["completeness"] == {"auc": 0.5, "auc_retrain": None}
  assert back["efficiency"] == {"unlearn_seconds": 1.5, "retrain_ratio": None, "peak_memory_mb": 1}
  assert back["info"] == {"fit": {"residual": 0.25}, "rows": [0, 1], "ok": True, "none": None}
  assert back["utility"]["ndcg@20"]["values"] == [0.3, 0.4]


def test_what_every_result_says():
  result = example()
  assert {"python", "jax", "jaxlib", "flax", "numpy", "jaxunlearn"} <= result["versions"].keys()
  assert result["versions"]["jax"] == jax.__version__
  assert {"platform", "kind", "count", "cpu_model", "cores"} <= result["device"].keys()
  assert result["device"]["cores"] >= 1 and result["device"]["cpu_model"]
  assert result["date"].endswith("+00:00")
  assert result["command"].startswith("python ")


def test_no_json_form():
  with pytest.raises(TypeError, match="object"):
    _results.plain({"x": object()})


def test_write_replaces_whole(tmp_path, monkeypatch):
  _results.write_result(tmp_path, example(method="first"))

  def fail(*args):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "replace", fail)
  with pytest.raises(OSError, match=str(tmp_path)):
    _results.write_result(tmp_path, example(method="second"))
  assert os.listdir(tmp_path) == ["result.json"]
  assert _results.load_results(tmp_path)[0]["method"] == "first"


def test_unwritable_folder_is_named(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("")
  with pytest.raises(OSError, match=r"Cannot write results to .*file"):
    _results.prepare_out(tmp_path / "file")
  with pytest.raises(OSError, match=r"Cannot write results to .*file/deeper"):
    _results.prepare_out(tmp_path / "file" / "deeper")

  def refuse(dir):
    raise PermissionError(13, "Permission denied")

  monkeypatch.setattr(_results.tempfile, "TemporaryFile", refuse)  # tests may run as root, who may write anywhere
  with pytest.raises(OSError, match=f"Cannot write results to {tmp_path}: Permission denied"):
    _results.prepare_out(tmp_path)


def test_prepare_leaves_nothing(tmp_path):
  assert _results.prepare_out(tmp_path / "new") == tmp_path / "new"
  assert os.listdir(tmp_path / "new") == []


def test_load(tmp_path):
  for name in ("b", "a"):
    _results.write_result(tmp_path / "runs" / name, example(method=name))
  assert [r["method"] for r in _results.load_results(tmp_path / "runs")] == ["a", "b"]
  both = [tmp_path / "runs" / "b", tmp_path / "runs"]
  assert [r["method"] for r in _results.load_results(both)] == ["b", "a"]
  with pytest.raises(OSError, match="nowhere"):
    _results.load_results(tmp_path / "nowhere")
  (tmp_path / "empty").mkdir()
  with pytest.raises(OSError, match="No result.json at"):
    _results.load_results([tmp_path / "empty"])


@pytest.mark.parametrize(
  ("text", "words"), [("{", "not a result"), ('{"method": 1}', "model, dataset"), ("[]", "missing"), ("[NaN]", "NaN")]
)
def test_load_names_a_bad_file(tmp_path, text, words):
  (tmp_path / "result.json").write_text(text)
  with pytest.raises(ValueError, match=words) as error:
    _results.load_results(tmp_path)
  assert str(tmp_path / "result.json") in str(error.value)


def test_mean_sd():
  assert _results.mean_sd([1, 2, 3, 4]) == (2.5, pytest.approx(math.sqrt(5 / 3)))
  mean, sd = _results.mean_sd([2.0])
  assert mean == 2.0 and math.isnan(sd)
  with pytest.raises(ValueError, match="at least one"):
    _results.mean_sd([])


def test_over_seeds_needs_equal_metrics():
  with pytest.raises(ValueError, match="same metrics"):
    _results.over_seeds([{"a": 1.0}, {"b": 1.0}])


def test_peak_memory():
  before = _results.peak_memory_mb()
  held = np.ones(40 * 2**20, np.uint8)
  assert 20 < before <= _results.peak_memory_mb() < 10**6
  del held


def test_strict_json():
  assert json.loads(json.dumps(example(), allow_nan=False)) == example()
