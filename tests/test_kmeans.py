import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.kmeans import assign, kmeans, merge_small


def blobs(seed=0):
  rng = np.random.default_rng(seed)
  centers = np.asarray([[0, 0], [10, 0], [0, 10]])
  return jnp.asarray(np.concatenate([c + 0.1 * rng.normal(size=(20, 2)) for c in centers]), jnp.float32)


def test_assignment_equals_the_naive_double_loop():
  rng = np.random.default_rng(0)
  points, centers = rng.normal(size=(50, 4)), rng.normal(size=(7, 4))
  naive = [int(np.argmin([np.sum((p - c) ** 2) for c in centers])) for p in points]
  got, distance = assign(jnp.asarray(points, jnp.float32), jnp.asarray(centers, jnp.float32))
  assert got.tolist() == naive
  np.testing.assert_allclose(distance, [np.min(np.sum((p - centers) ** 2, axis=1)) for p in points], atol=1e-4)


def test_planted_clusters_are_found():
  everyone = jnp.ones(60, bool)
  tries = [
    kmeans(key, blobs(), everyone, num_clusters=3, num_iterations=20) for key in jax.random.split(jax.random.key(0), 8)
  ]
  found = min(tries, key=lambda clusters: float(clusters.inertia))
  labels = np.asarray(found.assignment).reshape(3, 20)
  assert all(len(set(row)) == 1 for row in labels.tolist())
  assert len(set(labels[:, 0].tolist())) == 3


def test_iterations_lower_the_inertia_and_no_cluster_stays_empty():
  rng = np.random.default_rng(1)
  points = jnp.asarray(rng.normal(size=(300, 5)), jnp.float32)
  inertia = [
    float(kmeans(jax.random.key(0), points, jnp.ones(300, bool), num_clusters=40, num_iterations=n).inertia)
    for n in (1, 3, 10)
  ]
  assert inertia[0] >= inertia[1] >= inertia[2]
  last = kmeans(jax.random.key(0), points, jnp.ones(300, bool), num_clusters=40, num_iterations=10)
  assert len(np.unique(last.assignment)) == 40


def test_absent_points_move_no_center():
  points = jnp.concatenate([blobs(), jnp.full((5, 2), 1e6)])
  present = jnp.arange(65) < 60
  found = kmeans(jax.random.key(0), points, present, num_clusters=3, num_iterations=10)
  assert float(jnp.max(jnp.abs(found.centers))) < 20


def test_small_clusters_are_merged():
  rng = np.random.default_rng(1)
  points = jnp.asarray(rng.normal(size=(100, 5)), jnp.float32)
  present = jnp.ones(100, bool)
  found = kmeans(jax.random.key(0), points, present, num_clusters=40, num_iterations=10)
  sizes = np.bincount(found.assignment)
  assert sizes.min() < 3
  merged = merge_small(points, present, found, 3)
  sizes = np.bincount(merged.assignment)
  assert sizes[sizes > 0].min() >= 3
  with pytest.raises(ValueError, match="min_size"):
    merge_small(points, present, found, 0)
