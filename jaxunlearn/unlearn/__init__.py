"""Unlearning methods, a file each; every one is a factory of a `base.Unlearner`, with a pure function below it."""

from jaxunlearn.unlearn.lightul import LightULConfig, ServedState, lightul
from jaxunlearn.unlearn.retrain import ModelState, retrain

__all__ = ["LightULConfig", "ModelState", "ServedState", "lightul", "retrain"]
