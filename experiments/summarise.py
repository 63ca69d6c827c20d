"""Pools the seeds of results: one small result.json a method, model and dataset, to be kept with the code.

    python -m experiments.summarise --out=experiments/results/influence runs/influence-intr runs/influence-user

What is written is read by `report` and by every table like the results it was made from. Results of several forget sets
get folders of their own. Diagnostics (`info`) are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import _flags, _methods, _report, _results
from jaxunlearn.aggregate import AggregateConfig
from jaxunlearn.train import TrainConfig

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "experiments/results", "folder to write FORGET_HASH/DATASET/MODEL/METHOD/result.json in")
flags.DEFINE_boolean("quiet", False, "do not print what was written")

_PARTS = ("utility", "completeness", "efficiency")


def _values(result: Mapping[str, Any], part: str, name: str) -> list[float | None]:
  """A metric's numbers, one a seed of the result."""
  value = result[part].get(name)
  if isinstance(value, Mapping):
    value = value.get("values") or [value.get("mean")]
  found = list(value) if isinstance(value, list) else [value]
  return found if len(found) == len(result["seeds"]) else [None] * len(result["seeds"])


def _filled(settings: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
  """The settings, and at every depth the entries of `default` that they have not."""
  found = {**default, **settings}
  for name, value in found.items():
    if isinstance(value, Mapping) and isinstance(default.get(name), Mapping):
      found[name] = _filled(value, default[name])
  return found


def _config(result: Mapping[str, Any]) -> dict[str, Any]:
  """The configuration; a field of the training's or the method's that is newer than the result has its default."""
  config = dict(result.get("config") or {})
  train = _results.plain(TrainConfig())
  method = _results.plain(_methods.CONFIGS.get(str(result["method"]).partition("[")[0])) or {}
  aggregate = _results.plain(AggregateConfig())  # of `shards`, whose cells are no method's
  for part, default in (("train", train), ("shard_train", train), ("aggregate", aggregate), ("method", method)):
    if isinstance(config.get(part), Mapping):
      config[part] = _filled(config[part], default)
  return config


def pool(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """One result for each (data, forget set, dataset, model, method, config), seeds in ascending order; `null` where one
  lacks a metric. "devices", one a seed, where they differ; date, command and versions are the latest's.

  Raises:
    ValueError: two results of one row share a seed, or one row has two configurations.
  """
  groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
  for result in results:
    hashes = (str(result.get("data_hash")), str(result.get("forget_hash")))
    key = (*hashes, result["dataset"], result["model"], result["method"])
    groups.setdefault(key, []).append(result)
  pooled = []
  for (*_, dataset, model, method), members in groups.items():
    place = f"{method} on {model}, {dataset}"
    if any(_config(member) != _config(members[0]) for member in members):
      raise ValueError(f"Results of {place} differ in their configuration: pool them apart.")
    seeds = [seed for member in members for seed in member["seeds"]]
    if len(set(seeds)) != len(seeds):
      raise ValueError(f"Two results of {place} share a seed, {sorted(seeds)}: pass one.")
    order = sorted(range(len(seeds)), key=lambda index: seeds[index])
    one: dict[str, Any] = {
      name: value for name, value in max(members, key=lambda m: str(m.get("date"))).items() if name != "info"
    }
    one["seeds"], one["info"] = sorted(seeds), {}
    devices = [device for member in members for device in _report.devices_of(member)]
    one.pop("devices", None)
    if any(device != devices[0] for device in devices):
      one["devices"] = [devices[index] for index in order]
    for part in _PARTS:
      one[part] = {}
      for name in dict.fromkeys(name for member in members for name in member[part]):
        values = [value for member in members for value in _values(member, part, name)]
        known = [value for value in values if value is not None]
        if known:
          mean, sd = _results.mean_sd(known)
          one[part][name] = {"mean": mean, "sd": sd, "values": [values[index] for index in order]}
    pooled.append(one)
  return pooled


def folder_of(out: Path, result: Mapping[str, Any]) -> Path:
  """Where a pooled result is kept."""
  return out / str(result.get("forget_hash"))[:8] / result["dataset"] / result["model"] / result["method"]


def main(argv: list[str]) -> None:
  """Reads, pools, writes."""
  if not argv:
    raise ValueError("Expected folders with results: python -m experiments.summarise --out=FOLDER DIR...")
  out = _results.prepare_out(FLAGS.out)
  for result in pool(_results.load_results(argv)):
    path = _results.write_result(folder_of(out, result), result)
    if not FLAGS.quiet:
      print(path, file=sys.stderr)


if __name__ == "__main__":
  _flags.run(main, positional="DIR...", interrupted="Interrupted: run the command again.")
