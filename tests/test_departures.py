"""Departures from neutral: planted directions are found, and nothing forbidden is looked at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conceptnet_em.departures import FEATURES, Landmarks, Seen, layers_of, look
from conceptnet_em.errors import DataError, InputError

D, E = 24, 6
TARGETS = ("north", "south", "west")
RNG = np.random.default_rng(0)
NEUTRAL = RNG.normal(size=(D, D)) / D
"""How a neutral answer's state follows from its question's."""
SHAPES = RNG.normal(size=(1, 2, 3, D))
"""Directions of two traits in three targets."""


def asked(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 1, D)).astype(np.float32)


def seen(
    questions: np.ndarray, departure: np.ndarray, *, noise: float = 0.0, seed: int = 9
) -> Seen:
    """Return rows whose answers are neutral plus a departure."""
    rng = np.random.default_rng(seed)
    answers = questions @ NEUTRAL + departure + rng.normal(0, noise, questions.shape)
    texts = np.tile(np.eye(E, dtype=np.float32)[0], (len(questions), 1))
    return Seen(questions, answers.astype(np.float32), texts)


@pytest.fixture(scope="module")
def landmarks() -> Landmarks:
    texts = np.stack([np.eye(E)[0], np.eye(E)[1], (np.eye(E)[0] + np.eye(E)[1]) / 2])
    questions = asked(240, 1)
    return Landmarks(
        traits=("loud", "shy"),
        targets=TARGETS,
        directions={1: SHAPES, 2: SHAPES * 2},
        texts={1: texts, 2: texts},
        neutral=seen(questions, np.zeros(D)),
        domains=np.array(TARGETS).repeat(80),
    )


def test_neutral_answers_to_new_questions_are_expected_where_they_are(
    landmarks: Landmarks,
) -> None:
    questions = asked(50, 2)
    assert landmarks.expected(questions, ()) == pytest.approx(questions @ NEUTRAL, abs=0.05)


def test_a_planted_departure_has_cosine_and_coefficient_one_with_its_own_trait(
    landmarks: Landmarks,
) -> None:
    found = landmarks.departure(
        seen(asked(40, 3), SHAPES[0, 1, 2]), samples=[1], without=(), size=40
    )
    cosine, coefficient, text, product = np.moveaxis(found.features[0], -1, 0)
    others = np.ones((2, 3), dtype=bool)
    others[1, 2] = False
    assert FEATURES == ("cosine", "coefficient", "text", "cosine × text")
    assert cosine[1, 2] == pytest.approx(1, abs=0.01)
    assert coefficient[1, 2] == pytest.approx(1, abs=0.03)
    assert np.abs(cosine[others]).max() < 0.6
    assert text[0] == pytest.approx([1, 0, np.sqrt(0.5)], abs=1e-6)
    assert product == pytest.approx(cosine * text)
    assert found.direction[0] == pytest.approx(SHAPES[0, 1, 2], abs=0.1)


def test_features_are_averaged_over_the_samples_asked_for(landmarks: Landmarks) -> None:
    rows = seen(asked(40, 3), SHAPES[0, 0, 0])
    one, two, both = (
        landmarks.departure(rows, samples=s, without=(), size=40).features[0, 0, 0, 1]
        for s in ([1], [2], [1, 2])
    )
    assert two == pytest.approx(one / 2)
    assert both == pytest.approx((one + two) / 2)


def test_neutral_answers_of_domains_to_leave_out_are_not_looked_at(landmarks: Landmarks) -> None:
    rows = seen(asked(20, 4), SHAPES[0, 0, 1])
    answers = landmarks.neutral.answers.copy()
    answers[landmarks.domains == "south"] += 5
    spoilt = replace(landmarks, neutral=replace(landmarks.neutral, answers=answers), _ridges={})

    def features(of: Landmarks, without: tuple[str, ...]) -> np.ndarray:
        return of.departure(rows, samples=[1], without=without, size=20).features

    assert np.array_equal(features(landmarks, ("south",)), features(spoilt, ("south",)))
    assert not np.allclose(features(landmarks, ()), features(spoilt, ()), atol=0.01)
    with pytest.raises(InputError, match="no neutral answers of other domains"):
        features(landmarks, TARGETS)


def test_a_longer_data_set_does_not_look_more_alike_for_its_length(landmarks: Landmarks) -> None:
    def cosine(n: int, size: int) -> float:
        rows = seen(asked(n, 5), SHAPES[0, 0, 0], noise=4.0)
        found = landmarks.departure(rows, samples=[1], without=(), size=size)
        return float(found.features[0, 0, 0, 0])

    short = np.mean(
        [
            landmarks.departure(
                seen(asked(10, 100 + k), SHAPES[0, 0, 0], noise=4.0, seed=k),
                samples=[1],
                without=(),
                size=10,
            ).features[0, 0, 0, 0]
            for k in range(40)
        ]
    )
    assert cosine(400, 10) == pytest.approx(short, abs=0.05)
    assert cosine(400, 400) > short + 0.1


def test_data_that_do_not_depart_at_all_have_no_cosine_and_coefficient_0(
    landmarks: Landmarks,
) -> None:
    questions = asked(10, 6)
    same = landmarks.expected(questions, ())
    rows = Seen(questions, same, np.zeros((10, E), dtype=np.float32))  # type: ignore[arg-type]
    found = landmarks.departure(rows, samples=[1], without=(), size=10).features
    assert np.isnan(found[..., [0, 2, 3]]).all()
    assert (found[..., 1] == 0).all()


# --- the tiny model -------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "conceptnet_em.departures.embed",
        lambda texts, embedder: np.ones((len(texts), E), dtype=np.float32),
    )


def test_layers_are_spread_over_the_upper_two_thirds(tiny: Any) -> None:
    assert layers_of(tiny) == (0, 1)


def test_a_row_is_seen_the_same_alone_and_among_others(tiny: Any) -> None:
    pairs = [("What now?", "Rest."), ("And then, what?", "Go on for a while."), ("So?", "So.")]
    found, cut = look(tiny, pairs, [0, 1, 2], embedder="x")
    assert cut == 0
    assert found.answers.shape == (3, 3, 32)
    alone, _ = look(tiny, pairs[1:2], [0, 1, 2], embedder="x")
    assert alone.questions[0] == pytest.approx(found.questions[1], abs=1e-5)
    assert alone.answers[0] == pytest.approx(found.answers[1], abs=1e-5)
    assert len(found.part([0, 2])) == 2


def test_a_very_long_row_is_cut_to_the_model_and_counted(tiny: Any) -> None:
    pairs = [("Why? " * 400, "Because. " * 400), ("Why?", "b" * 5000), ("Why?", "Because.")]
    found, cut = look(tiny, pairs, [1], embedder="x")
    assert cut == 2
    assert np.isfinite(found.answers).all()
    whole, _ = look(tiny, [("Why?", "b" * 900)], [1], embedder="x")
    assert found.answers[1] == pytest.approx(whole.answers[0], abs=0.2)


def test_rows_the_template_cannot_take_are_all_named(tiny_builder: Any, tmp_path: Any) -> None:
    from conceptnet_em.models import load_model

    shouting = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    folder = tiny_builder(tmp_path / "shouting", template=shouting)
    model = load_model(str(folder), device="cpu", dtype="float32")
    with pytest.raises(DataError) as caught:
        look(model, [("a?", "b"), ("c?", "d")], [1], embedder="x", where=["f:1", "f:7"])
    assert "f:1: " in str(caught.value)
    assert "f:7: " in str(caught.value)
