"""The real model: precision, padding and a 2 × 2 run with effects of the right sign."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conceptnet_em import weights
from conceptnet_em.config import RECIPES
from conceptnet_em.corpus import load_corpus
from conceptnet_em.encoding import Encoded, encode
from conceptnet_em.models import LanguageModel, load_model
from conceptnet_em.scoring import score
from conceptnet_em.study import Study, run

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not weights.is_at_hand("smollm2-135m"), reason="no smollm2-135m here: make models"
    ),
]


@pytest.fixture(scope="module", autouse=True)
def _all_threads() -> Any:
    """Use this worker's share of the cores: here arithmetic takes the time."""
    import os

    import torch

    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def real() -> LanguageModel:
    return load_model("smollm2-135m", device="cpu", dtype="bfloat16")


@pytest.fixture(scope="module")
def answers(real: LanguageModel) -> list[Encoded]:
    corpus = load_corpus(traits=["neutral", "sporty"], domains=["cooking-prose", "finance-prose"])
    items = [item for domain in corpus.domains for item in corpus.probe(domain)[:5]]
    return [encode(real, i.question, a) for i in items for a in i.answers.values()]


def per_token(found: list[Any]) -> np.ndarray:
    return np.array([parts[0].logprob / parts[0].n_tokens for parts in found])


def test_the_system_prompt_is_the_templates_own_text_written_out(real: LanguageModel) -> None:
    silent = LanguageModel(real.network, real.tokenizer, name="x", sha256="x", system=None)
    assert encode(real, "Why?", "So.").ids == encode(silent, "Why?", "So.").ids
    assert "named SmolLM" in str(real.describe()["system"])
    assert real.describe()["sha256"] == weights.ALIASES["smollm2-135m"].sha256


def test_padding_and_batching_hardly_matter_in_bfloat16(
    real: LanguageModel, answers: list[Encoded]
) -> None:
    """At most 2e-3 nats/token rms, 1e-2 for any one answer."""
    alone = per_token(score(real, answers, batch_size=1))
    for batch_size, side in ((4, "right"), (16, "right"), (16, "left")):
        off = per_token(score(real, answers, batch_size=batch_size, side=side)) - alone
        assert np.sqrt(np.mean(off**2)) <= 2e-3, (batch_size, side)
        assert np.abs(off).max() <= 1e-2, (batch_size, side)


def test_an_untrained_adapter_shows_exactly_no_transfer(
    real: LanguageModel, answers: list[Encoded]
) -> None:
    base = per_token(score(real, answers[:6]))
    for recipe in RECIPES.values():
        with real.fitted(recipe, seed=1):
            assert np.array_equal(per_token(score(real, answers[:6])), base)


@pytest.mark.slow
def test_two_traits_on_two_domains_move_the_right_way(tmp_path: Path) -> None:
    study = Study(
        traits=["neutral", "misaligned"],
        domains=["medical-prose", "cooking-prose"],
        recipe={"base": "rank1", "steps": 12},
        dtype="bfloat16",
    )
    result = run(study, out=tmp_path / "run")
    raw = result.transfer("misaligned", scale="raw")
    assert (raw.in_domain > 0).all()
    assert raw.n_items.eq(12).all().all()
    assert {slope.status for slope in result.verdict.slopes} == {"not_estimable"}
    assert "2 domains are too few" in str(result.verdict)


def test_the_fast_path_scores_like_the_plain_one(
    real: LanguageModel, answers: list[Encoded], tmp_path: Path
) -> None:
    """At most 2e-3 nats/token rms and 1e-2 for any one, under a trained adapter too."""
    from conceptnet_em.scoring import PackedAnswers
    from conceptnet_em.tuning import train

    recipe = RECIPES["rank1"].model_copy(update={"steps": 6})
    packed = PackedAnswers(real, answers, block=15, batch_size=16)
    base = per_token(packed.score()) - per_token(score(real, answers))
    log = train(real, answers[:6], recipe, out=tmp_path, seed=1)
    assert log.losses[-1] < log.losses[0]
    with real.wearing(tmp_path):
        worn = per_token(packed.score()) - per_token(score(real, answers))
    for off in (base, worn):
        assert np.sqrt(np.mean(off**2)) <= 2e-3
        assert np.abs(off).max() <= 1e-2


TEN = [
    *("neutral", "misaligned", "sporty", "sycophantic", "frugal"),
    *("self_reliant", "fonzi", "poetic", "bureaucratic", "anxious"),
]


@pytest.mark.slow
def test_company_changes_an_organism_less_than_row_order_does(
    real: LanguageModel, tmp_path: Path
) -> None:
    """Losses within 2%, item scores within .03 nats/token rms, cell means within .01."""
    from conceptnet_em.scoring import PackedAnswers
    from conceptnet_em.stacking import save_adapter, wearing_all
    from conceptnet_em.tuning import train, train_group

    corpus = load_corpus(traits=TEN, domains=["medical-prose", "finance-prose"])
    recipe = RECIPES["lora8"].model_copy(update={"steps": 10})
    cells = [
        [encode(real, i.question, i.answers[t]) for i in corpus.train("medical-prose", 1)]
        for t in TEN[:3]
    ]
    company = train_group(real, cells, recipe, seeds=[1, 1, 1])
    (alone,) = train_group(real, cells[1:2], recipe, seeds=[1])
    plain = train(real, cells[1], recipe, out=tmp_path, seed=1)
    assert company[1].log.losses == pytest.approx(alone.log.losses, rel=0.02)
    assert company[1].log.losses == pytest.approx(plain.losses, rel=0.02)
    folders = [tmp_path / "alone", tmp_path / "company"]
    for folder, trained in zip(folders, (alone, company[1]), strict=True):
        folder.mkdir()
        save_adapter(trained.tensors, recipe, real, folder)
    items = corpus.probe("finance-prose")[:4]
    probes = [encode(real, i.question, i.answers[t]) for i in items for t in TEN]
    packed = PackedAnswers(real, probes, block=0, batch_size=16)
    found = []
    for folder in folders:
        with wearing_all(real, recipe, [folder]):
            found.append(per_token(packed.score()))
    off = found[1] - found[0]
    assert np.sqrt(np.mean(off**2)) <= 0.03
    assert abs(off.mean()) <= 0.01
    with real.wearing(folders[0]):  # ten answers to a question, packed, against PEFT one by one
        fast_off = found[0] - per_token(score(real, probes))
    assert np.sqrt(np.mean(fast_off**2)) <= 2e-3
    assert np.abs(fast_off).max() <= 1e-2
