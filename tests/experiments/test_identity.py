"""What makes two runs the same run."""

import pytest

from experiments import _identity


def test_differences():
  wanted = {"a": 1, "b": {"c": [1, 2], "d": "x" * 60}}
  assert _identity.differences(wanted, wanted) == []
  assert _identity.differences({"a": 1, "b": None}, wanted) == ['b is null there and {"c": [1, 2]… here']
  assert _identity.differences({"b": {**wanted["b"], "c": [1]}}, wanted, {"a": 1}) == [
    "b.c is [1] there and [1, 2] here"
  ]


def test_what_is_kept_is_found_by_settings_newer_than_it_at_their_defaults(tmp_path):
  path = tmp_path / "attacks" / "sisa.json"
  assert _identity.kept(path, {"method": {"a": 1}}, lambda: {"auc": 0.5}) == {"auc": 0.5}
  newer = {"method": {"a": 1, "b": False}}
  assert _identity.kept(path, newer, dict, {"method": {"a": 0, "b": False}}) == {"auc": 0.5}
  for defaults in ({"method": {"b": True}}, None):
    with pytest.raises(ValueError, match="method.b is"):
      _identity.kept(path, newer, dict, defaults)
