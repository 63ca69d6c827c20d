"""The audits that are kept: what they found of exact methods, and of models that forgot nothing, taken together."""

import json
import math

import pytest

from experiments import _readme

FILES = sorted(_readme.KEPT.glob("audit-*.json"))
# Their guarantee is "exact", given the shards, which were made with the pairs that are forgotten.
EXACT = ("retrain", "sisa", "sisa[unit=user]", "grapheraser", "receraser", "receraser-ubp", "laser")


def intervals(*methods):
  """{(file, method, attack, selection): interval}; Retrain counts once where a second file has further methods."""
  found = {}
  for path in FILES:
    audit = json.loads(path.read_text("utf-8"))["audit"]
    for method in set(methods) & set(audit):
      for attack, selections in audit[method].items():
        for selection, one in selections.items():
          found[path.stem.removesuffix("-more").replace("-exact", ""), method, attack, selection] = one["auc_interval"]
  return found


def test_intervals_of_exact_methods_hold_one_half_as_often_as_they_should():
  """95 %: some of so many miss it by chance. More than 1 in 1,000 draws of such intervals would is no chance."""
  found = intervals(*EXACT)
  missed = [name for name, (low, high) in found.items() if not low <= 0.5 <= high]
  assert len(found) > 100
  tail = 1 - sum(math.comb(len(found), k) * 0.05**k * 0.95 ** (len(found) - k) for k in range(len(missed)))
  assert tail > 1e-3, missed


@pytest.mark.parametrize("attack", ["threshold", "trained", "lira"])
def test_a_model_that_forgot_nothing_is_always_found_out(attack):
  found = {name: interval for name, interval in intervals("original").items() if name[2] == attack}
  assert len(found) >= 3 * 5
  assert all(low > 0.5 for low, _ in found.values()), found
