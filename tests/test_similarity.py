"""Centroid similarities against geometry, and their reliability against planted structure."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from conceptnet_em.errors import InputError
from conceptnet_em.geometry import split_half
from conceptnet_em.similarity import centroid_cosine, split_half_reliability


def vectors(seed: int, *, structure: float, noise: float, domains=6, items=12, width=40):
    """Items around one centre a domain; the centres are drawn anew for every seed."""
    rng = np.random.default_rng(seed)
    centres = structure * rng.normal(size=(domains, width))
    return {
        f"d{k}": centre + noise * rng.normal(size=(items, width))
        for k, centre in enumerate(centres)
    }


@pytest.fixture
def some():
    return vectors(0, structure=1.0, noise=1.0)


def test_the_cosine_is_that_of_the_mean_vectors():
    # means (1, 0), (1, 1), (-2, 0): cosines 1/√2 and -1; lengths do not count
    found = centroid_cosine(
        {
            "east": np.array([[2.0, 1.0], [0.0, -1.0]]),
            "north-east": np.array([[1.0, 1.0]]),
            "west": np.array([[-2.0, 3.0], [-2.0, -3.0]]),
        }
    )
    assert list(found.index) == list(found.columns) == ["east", "north-east", "west"]
    half = 1 / math.sqrt(2)
    assert found.loc["east"].tolist() == pytest.approx([1, half, -1])
    assert found.loc["north-east"].tolist() == pytest.approx([half, 1, -half])


def test_the_cosine_is_symmetric_with_ones_on_the_diagonal(some):
    found = centroid_cosine(some).to_numpy()
    assert found == pytest.approx(found.T)
    assert np.diag(found) == pytest.approx(1)


def test_the_cosine_is_the_same_after_a_rotation(some):
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(40, 40)))
    found = centroid_cosine({name: items @ turn for name, items in some.items()})
    assert found.to_numpy() == pytest.approx(centroid_cosine(some).to_numpy())


def test_the_cosine_is_the_same_when_a_domain_is_scaled(some):
    scaled = {name: items * (k + 0.5) for k, (name, items) in enumerate(some.items())}
    assert centroid_cosine(scaled).to_numpy() == pytest.approx(centroid_cosine(some).to_numpy())


def test_the_cosine_is_not_centred_so_a_common_shift_makes_domains_alike(some):
    shifted = {name: items + 50 for name, items in some.items()}
    assert centroid_cosine(shifted).to_numpy().min() > 0.99
    assert centroid_cosine(some).to_numpy().min() < 0.5


def test_domains_with_one_centroid_have_similarity_one():
    found = centroid_cosine({"a": np.array([[1.0, 2.0], [3.0, 0.0]]), "b": np.array([[2.0, 1.0]])})
    assert found.to_numpy() == pytest.approx(1)


def test_order_of_domains_moves_labels_and_values_together(some):
    turned = dict(reversed(some.items()))
    found = centroid_cosine(turned)
    assert list(found.index) == list(turned)
    there = centroid_cosine(some).loc[found.index, found.columns]
    assert found.to_numpy() == pytest.approx(there.to_numpy())


def test_a_zero_centroid_is_nan_against_everything_and_leaves_the_others(some):
    found = centroid_cosine({**some, "nil": np.array([[1.0] * 40, [-1.0] * 40])})
    assert found["nil"].isna().all()
    assert found.drop(index="nil", columns="nil").notna().all(axis=None)


def test_empty_domains_are_all_named(some):
    empty = np.empty((0, 40))
    with pytest.raises(InputError, match="no items to compute a similarity from in x, y"):
        centroid_cosine({**some, "x": empty, "y": empty})


def test_vectors_of_several_widths_are_refused(some):
    with pytest.raises(InputError, match=r"several widths: \[3, 40\]"):
        centroid_cosine({**some, "x": np.ones((2, 3))})


def test_planted_structure_is_reliable():
    found = split_half_reliability(vectors(0, structure=1.0, noise=0.2))
    assert found > 0.98


def test_noise_has_no_reliability_on_average():
    found = [split_half_reliability(vectors(k, structure=0.0, noise=1.0)) for k in range(30)]
    assert abs(np.mean(found)) < 0.25


def test_reliability_is_the_mean_correlation_of_all_halves_stepped_up():
    found = vectors(5, structure=1.0, noise=1.5, domains=4, items=2, width=10)
    off = ~np.eye(4, dtype=bool)
    correlations = []
    for picks in product((0, 1), repeat=4):
        picked = list(zip(picks, found.items(), strict=True))
        halves = [centroid_cosine({d: v[[k ^ pick]] for pick, (d, v) in picked}) for k in (0, 1)]
        correlations.append(np.corrcoef(*(half.to_numpy()[off] for half in halves))[0, 1])
    mean = np.mean(correlations)
    assert 0.2 < mean < 0.9
    stepped = 2 * mean / (1 + mean)  # Spearman-Brown
    assert split_half_reliability(found, splits=2_000) == pytest.approx(stepped, abs=0.02)


def test_more_noise_means_less_reliability():
    levels = [
        np.mean([split_half_reliability(vectors(k, structure=1.0, noise=noise)) for k in range(10)])
        for noise in (0.5, 3.0, 8.0)
    ]
    assert levels[0] > levels[1] > levels[2]


def test_reliability_is_what_the_halves_of_geometry_give(some):
    assert split_half_reliability(some) == split_half(centroid_cosine, some, splits=50, seed=0)
    assert split_half_reliability(some) == pytest.approx(0.8478509567655039, abs=1e-12)


def test_reliability_follows_its_seed(some):
    assert split_half_reliability(some, seed=3) == split_half_reliability(some, seed=3)
    assert split_half_reliability(some, seed=3) != split_half_reliability(some, seed=4)


@pytest.mark.parametrize(
    "found",
    [
        vectors(0, structure=1.0, noise=1.0, domains=2),
        vectors(0, structure=1.0, noise=1.0, items=1),
        {f"d{k}": np.ones((4, 3)) for k in range(4)},
    ],
    ids=["two domains", "one item each", "all alike"],
)
def test_reliability_is_nan_where_it_cannot_be_estimated(found):
    assert math.isnan(split_half_reliability(found))
