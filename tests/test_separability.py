"""Traits that differ are told apart in unseen domains; traits that do not are not."""

from __future__ import annotations

import zlib
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from conceptnet_em import separability as module
from conceptnet_em.corpus import Corpus, Domain, Item, Trait
from conceptnet_em.errors import InputError
from conceptnet_em.separability import separability

TRAITS = ("neutral", "sporty", "poetic")


def corpus(*names: str) -> Corpus:
    domains = {n: Domain(n, "", n, "code" if n.endswith("code") else "prose") for n in names}
    items = {
        name: tuple(
            Item(f"{name}-{k}", name, "train", 1, "plain", f"{name} {k}?", answers(name, k))
            for k in range(60)
        )
        for name in names
    }
    return Corpus(Path(), {t: Trait(t, "manner", "") for t in TRAITS}, domains, items)


def answers(name: str, k: int) -> MappingProxyType[str, str]:
    return MappingProxyType({t: f"{t} {name} {k}" for t in TRAITS})


@pytest.fixture
def embedder(monkeypatch: Any) -> Any:
    """Embed by trait, domain and noise, in amounts the test chooses."""

    def use(trait_size: float) -> None:
        directions = {t: np.eye(24)[k] for k, t in enumerate(TRAITS)}

        def embed(texts: list[str], *, embedder: str) -> np.ndarray:
            rng = np.random.default_rng(zlib.crc32(texts[0].encode()))
            noise = rng.normal(size=(len(texts), 24)) * 0.3
            return np.stack([trait_size * directions[t.split()[0]] for t in texts]) + noise

        monkeypatch.setattr(module, "embed", embed)

    return use


def test_planted_traits_are_recognised_in_domains_never_seen(embedder: Any) -> None:
    embedder(3.0)
    rates = separability(corpus("a-prose", "b-prose", "c-prose"))
    assert list(rates.index) == list(TRAITS)
    assert list(rates.columns) == ["a-prose", "b-prose", "c-prose"]
    assert rates.to_numpy().min() > 0.95


def test_traits_that_do_not_differ_are_recognised_at_chance(embedder: Any) -> None:
    embedder(0.0)
    rates = separability(corpus("a-prose", "b-prose", "c-prose", "d-prose"))
    assert abs(rates.to_numpy().mean() - 1 / 3) < 0.15


def test_a_lone_domain_of_a_format_cannot_be_left_out(embedder: Any) -> None:
    embedder(3.0)
    with pytest.raises(InputError, match=r"one code domain \(c-code\) cannot be left out"):
        separability(corpus("a-prose", "b-prose", "c-code"))
