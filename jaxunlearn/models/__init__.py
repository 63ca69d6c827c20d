"""Recommenders as tuples of pure functions (`base.Model`), each from a cached factory of its configuration."""

from __future__ import annotations

from typing import Any

from jaxunlearn._validate import check_choice
from jaxunlearn.base import Model
from jaxunlearn.models.bprmf import BPRMFConfig, bprmf
from jaxunlearn.models.frozen import frozen
from jaxunlearn.models.lightgcn import LightGCNConfig, lightgcn
from jaxunlearn.models.neumf import NeuMFConfig, neumf
from jaxunlearn.models.popularity import popularity
from jaxunlearn.models.wmf import WMFConfig, wmf

CONFIGS: dict[str, type] = {
  "bprmf": BPRMFConfig,
  "wmf": WMFConfig,
  "lightgcn": LightGCNConfig,
  "neumf": NeuMFConfig,
}
_FACTORIES: dict[str, Any] = {"bprmf": bprmf, "wmf": wmf, "lightgcn": lightgcn, "neumf": neumf}


def build(name: str, config: Any = None) -> Model:
  """The model of that name: bprmf, wmf, lightgcn, neumf (with its configuration or None), or popularity."""
  check_choice("model", name, (*CONFIGS, "popularity"))
  return popularity() if name == "popularity" else _FACTORIES[name](config)


__all__ = [
  "CONFIGS",
  "BPRMFConfig",
  "LightGCNConfig",
  "NeuMFConfig",
  "WMFConfig",
  "bprmf",
  "build",
  "frozen",
  "lightgcn",
  "neumf",
  "popularity",
  "wmf",
]
