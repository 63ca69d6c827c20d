"""Interactions and where they come from: readers, vocabularies, splits, forget sets, datasets by name."""

from __future__ import annotations

from jaxunlearn.data import datasets
from jaxunlearn.data.dataset import Dataset
from jaxunlearn.data.datasets import load
from jaxunlearn.data.forget import (
  sample_forget,
  sample_interactions,
  sample_items,
  sample_users,
  select_core,
  select_edge,
)
from jaxunlearn.data.interactions import Interactions, PaddedInteractions, capacity_for
from jaxunlearn.data.lightgcn_text import read_folder, read_pairs, write_lightgcn_text
from jaxunlearn.data.ratings import IndexedRatings, RatingTable, index_ratings, k_core
from jaxunlearn.data.readers import read_csv, read_inter, read_movielens, read_parquet
from jaxunlearn.data.scenarios import Scenario, bandwagon, sensitive_category
from jaxunlearn.data.splits import Split, hold_out, leave_n_out, random_split, time_split
from jaxunlearn.data.synthetic import Synthetic, SyntheticConfig, generate
from jaxunlearn.data.vocabulary import Vocabulary

__all__ = [
  # values
  "Interactions",
  "PaddedInteractions",
  "capacity_for",
  "Vocabulary",
  "Dataset",
  # datasets by name
  "datasets",
  "load",
  # readers
  "read_folder",
  "read_pairs",
  "write_lightgcn_text",
  "read_movielens",
  "read_inter",
  "read_csv",
  "read_parquet",
  "RatingTable",
  "IndexedRatings",
  "index_ratings",
  "k_core",
  # splits
  "Split",
  "random_split",
  "leave_n_out",
  "time_split",
  "hold_out",
  # forget sets
  "sample_forget",
  "sample_interactions",
  "sample_users",
  "sample_items",
  "select_core",
  "select_edge",
  "Scenario",
  "bandwagon",
  "sensitive_category",
  # synthetic data
  "SyntheticConfig",
  "Synthetic",
  "generate",
]
