"""Every predictor on the tiny model, and the screen that puts them side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest

from conceptnet_em import config, predictor_inputs
from conceptnet_em.corpus import Item, load_corpus, other_sample
from conceptnet_em.errors import InputError
from conceptnet_em.models import LanguageModel
from conceptnet_em.predictor_inputs import Inputs, inputs_for
from conceptnet_em.predictor_store import Kept, similarities
from conceptnet_em.predictors import EXTERNAL, POST_HOC, TABLE, Predictor, chosen, listing
from conceptnet_em.records import Similarity
from conceptnet_em.screening import screen
from conceptnet_em.similarity import from_table, to_table
from conceptnet_em.store import RunFolder
from conceptnet_em.study import Result, Study, run

DOMAINS = tuple(f"{name}-prose" for name in ("alpha", "beta", "gamma", "delta", "epsilon", "zeta"))
BEFORE = [one for one in TABLE.values() if one.kind != POST_HOC]


@pytest.fixture(autouse=True)
def letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embed by letter counts, so that no embedder is needed."""

    def embed(texts: Any, *, embedder: str) -> np.ndarray:
        counts = [
            [text.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz0123456789"]
            for text in texts
        ]
        return np.array(counts, dtype=np.float32)

    monkeypatch.setattr(predictor_inputs, "embed", embed)


@pytest.fixture
def inputs(make_corpus: Callable[..., Path], tiny: LanguageModel) -> Inputs:
    corpus = load_corpus(make_corpus(domains=DOMAINS))
    return inputs_for(
        corpus,
        tiny,
        traits=["neutral", "sporty", "sycophantic"],
        domains=DOMAINS,
        replicate=1,
        embedder="letters",
    )


def mine(inputs: Inputs) -> list[Similarity]:
    """One apart from itself."""
    names = list(inputs.items)
    values = pd.DataFrame(-np.abs(np.subtract.outer(range(6), range(6))) * 1.0, names, names)
    return [inputs.similarity("mine", values, 1.0)]


MINE = Predictor("mine", mine, EXTERNAL, "nothing", "nothing", "me")


def drawn(name: str, seed: int) -> Predictor:
    """Return a trait-specific predictor that is noise."""

    def compute(inputs: Inputs) -> list[Similarity]:
        rng = np.random.default_rng(seed)
        names = list(inputs.items)
        return [
            inputs.similarity(
                name, pd.DataFrame(rng.normal(size=(6, 6)), names, names), 1.0, trait=trait
            )
            for trait in inputs.others
        ]

    return Predictor(name, compute, EXTERNAL, "nothing", "nothing", "me", specific=True)


def test_a_study_may_name_every_predictor_known_before_training() -> None:
    assert set(get_args(config.Predictor)) == {one.name for one in BEFORE}
    assert list(TABLE) == [one.name for one in TABLE.values()]
    assert set(config.PREDICTORS) <= set(TABLE)


@pytest.mark.parametrize("one", BEFORE, ids=lambda one: one.name)
def test_a_predictor_is_what_its_line_in_the_table_says(one: Predictor, inputs: Inputs) -> None:
    found = similarities([one], inputs)
    assert found
    assert {s.predictor for s in found} == {one.name}
    assert [s.trait for s in found] == (["sporty", "sycophantic"] if one.specific else [None])
    for s in found:
        assert list(s.values.index) == list(s.values.columns) == list(DOMAINS)
        assert s.replicate == 1
        assert (s.layer is not None) == one.layered
        assert s.basis.startswith(f"{one.kind}; {one.reads}, 4 training items a domain, sample 2")
        values = s.values.to_numpy(float)
        if np.isnan(values).any():
            assert len(s.basis.split("; ")) > 2, "what is missing is said"
        elif not one.directed:
            assert values == pytest.approx(values.T, abs=1e-6)


def test_directed_predictors_tell_source_from_target(inputs: Inputs) -> None:
    for name in ("gradient-net", "in-context"):
        values = similarities([name], inputs)[0].values.to_numpy(float)
        assert np.abs(values - values.T).max() > 1e-6, name


def test_items_come_from_the_other_sample_only(inputs: Inputs) -> None:
    assert other_sample(1) == 2
    numbers = {int(item.id.rsplit("-", 1)[1]) for items in inputs.items.values() for item in items}
    assert numbers == {5, 6, 7, 8}


def test_a_predictor_of_ones_own_needs_a_function_only(inputs: Inputs) -> None:
    (found,) = similarities([MINE], inputs)
    assert found.values.loc["alpha-prose", "gamma-prose"] == -2
    assert "sample 2" in found.basis


def test_an_unknown_predictor_is_named_with_what_there_is() -> None:
    with pytest.raises(InputError, match=r"trait-word.*did you mean 'trait-words'"):
        chosen(["text", "trait-word"])


def test_what_several_predictors_read_is_made_once_and_counted_for_each(inputs: Inputs) -> None:
    made = []

    def slow() -> int:
        import time

        time.sleep(0.05)
        made.append(1)
        return 7

    first = inputs.timed(lambda: inputs.once("slow", slow))
    again = inputs.timed(lambda: inputs.once("slow", slow) + inputs.once("slow", slow))
    assert (first[0], again[0]) == (7, 14)
    assert made == [1]
    assert min(first[1], again[1]) >= 0.05
    assert again[1] < 0.1  # counted once although looked at twice


def test_the_table_of_similarities_keeps_everything(inputs: Inputs) -> None:
    found = similarities(["text", "trait-direction", "text-path"], inputs)
    back = from_table(to_table(found))
    for ours, theirs in zip(found, back, strict=True):
        assert replace(ours, values=0, reliability=0) == replace(theirs, values=0, reliability=0)
        assert np.allclose(ours.values, theirs.values, equal_nan=True)


@pytest.fixture
def finished(
    make_corpus: Callable[..., Path], tiny_folder: Path, tmp_path: Path
) -> tuple[Path, Path]:
    """A run of 2 traits × 6 domains and its corpus."""
    root = make_corpus(domains=DOMAINS)
    study = Study(
        root=root,
        model=str(tiny_folder),
        traits=("neutral", "sporty"),
        domains=DOMAINS,
        predictors=("text",),
        dtype="float32",
        recipe={"base": "rank1", "steps": 6, "batch_size": 2, "learning_rate": 0.1},
    )
    run(study, out=tmp_path / "run")
    return tmp_path / "run", root


def test_a_screen_lines_up_every_predictor_and_keeps_what_it_computed(
    finished: tuple[Path, Path], monkeypatch: Any
) -> None:
    path, root = finished
    names = [
        "text",
        "trait-words",
        "trait-direction",
        "gradient-net",
        "update-cosine",
        "shift-along",
    ]
    found = screen(path, [*names, MINE], root=root)
    rows = {row.predictor: row for row in found.rows}
    assert list(rows) == [*names, "mine"]
    assert found.n_domains == 6
    for row in rows.values():
        if row.status == "ok":
            assert row.p <= row.p_search + 1e-12 <= 1 + 1e-12
            assert row.seconds >= 0
            assert abs(row.r_within) <= 1
    assert rows["mine"].status == "ok"
    assert rows["update-cosine"].kind == POST_HOC
    assert rows["update-cosine"].status == "ok"
    text = str(found)
    assert "post hoc" in text
    assert "Group: free relabelling of 6 domains" in text

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("computed again")

    monkeypatch.setattr(predictor_inputs, "cell_gradients", never)
    again = screen(path, names, root=root)
    kept = {row.predictor: row for row in again.rows}
    assert kept["gradient-net"].seconds == rows["gradient-net"].seconds
    assert kept["gradient-net"].slope == pytest.approx(rows["gradient-net"].slope)


def test_trait_specific_predictors_are_also_shown_with_trait_words_held_fixed(
    finished: tuple[Path, Path],
) -> None:
    path, root = finished
    words, other = drawn("trait-words", 1), drawn("other", 2)
    found = screen(path, [words, other, MINE], root=root)
    rows = {row.predictor: row for row in found.rows}
    alone = {row.predictor: row for row in screen(path, [other], root=root).rows}["other"]
    assert rows["other"].p == alone.p
    assert 0 < rows["other"].p_given_words != alone.p
    assert np.isnan(alone.p_given_words)
    assert np.isnan(rows["trait-words"].p_given_words)
    assert np.isnan(rows["mine"].p_given_words)
    same = screen(path, [words, replace(drawn("twin", 1))], root=root)
    twin = {row.predictor: row for row in same.rows}["twin"]
    assert np.isnan(twin.p_given_words), "nothing is left of a copy of the words"
    assert twin.p == rows["trait-words"].p


def test_a_predictor_without_a_value_costs_only_itself(finished: tuple[Path, Path]) -> None:
    path, root = finished

    def nothing(inputs: Inputs) -> list[Similarity]:
        names = list(inputs.items)
        return [inputs.similarity("nothing", pd.DataFrame(np.nan, names, names), 1.0)]

    empty = Predictor("nothing", nothing, EXTERNAL, "nothing", "nothing", "me")
    rows = {row.predictor: row for row in screen(path, [MINE, empty], root=root).rows}
    assert rows["mine"].status == "ok"
    assert rows["nothing"].status == "not_estimable"
    assert "no value at all" in rows["nothing"].reason


def test_shifts_are_read_where_the_adapter_can_move_states(inputs: Inputs) -> None:
    lowest = inputs.recipe.layer_numbers(inputs.model.n_layers)[0]
    assert all(layer > lowest for layer in inputs.moved_layers)
    assert replace(inputs, layers=(0, lowest, lowest + 1)).moved_layers == (lowest + 1,)
    assert replace(inputs, layers=(0,)).moved_layers[0] > lowest


def test_a_run_without_its_adapters_says_that_post_hoc_predictors_need_them(
    finished: tuple[Path, Path],
) -> None:
    path, root = finished
    for weights in path.glob("organisms/*/adapter_model.safetensors"):
        weights.unlink()
    found = screen(path, ["text", "update-cosine"], root=root)
    row = found.rows[0]
    assert (row.predictor, row.status) == ("update-cosine", "not_estimable")
    assert "no adapters" in row.reason
    assert "no adapters" in str(found)


def test_stored_similarities_are_told_apart_by_what_shapes_them(
    finished: tuple[Path, Path], tiny: LanguageModel
) -> None:
    path, root = finished
    corpus = load_corpus(root, traits=["neutral", "sporty"], domains=DOMAINS)
    base = Kept(RunFolder(path), Result.load(path).config, corpus, tiny, print)
    before = len(list((path / "similarities").iterdir()))
    for kept in (base, base, replace(base, layers=(0, 1, 2))):
        kept.ensure("activation", kept.of(1))
        kept.ensure("tfidf-all", kept.of(1))
    # activation at one layer and at three; tfidf has no layer
    assert len(list((path / "similarities").iterdir())) == before + 3
    wide = replace(base, layers=(0, 1, 2))
    assert [s.layer for s in wide.ensure("activation", wide.of(1))[0]] == [0, 1, 2]


def test_a_key_holds_what_a_predictor_reads_and_nothing_else(
    finished: tuple[Path, Path], tiny: LanguageModel
) -> None:
    path, root = finished
    corpus = load_corpus(root, traits=["neutral", "sporty"], domains=DOMAINS)
    base = Kept(RunFolder(path), Result.load(path).config, corpus, tiny, print)

    every = {"text", "same-format", "tfidf-all", "activation"}

    def recomputed(kept: Kept, names: set[str] = every) -> set[str]:
        """Ensure some predictors and name those that were not found."""
        before = {place.name for place in (path / "similarities").iterdir()}
        for name in names:
            kept.ensure(name, kept.of(1))
        new = {place for place in (path / "similarities").iterdir() if place.name not in before}
        return {pd.read_parquet(p / "similarities.parquet")["predictor"].iloc[0] for p in new}

    def altered(change: Callable[[Item], Item]) -> Kept:
        items = {domain: tuple(map(change, some)) for domain, some in corpus.items.items()}
        return replace(base, corpus=replace(corpus, items=items))

    def louder(item: Item) -> Item:
        return replace(item, answers={t: f"{text} Aye." for t, text in item.answers.items()})

    coded = corpus.domains | {"beta-prose": replace(corpus.domains["beta-prose"], format="code")}
    recipe = base.config.recipe.model_copy(update={"steps": 7})
    other = base.config.model_copy(update={"recipe": recipe})
    recomputed(base)
    assert recomputed(base) == set()
    assert recomputed(replace(base, config=other)) == {"activation"}
    assert recomputed(altered(louder)) == {"tfidf-all", "activation"}
    assert recomputed(altered(lambda i: replace(i, question=f"Say: {i.question}"))) == every
    mixed = replace(base, corpus=replace(corpus, domains=coded))
    assert recomputed(mixed, {"same-format"}) == {"same-format"}


def test_the_listing_names_every_predictor() -> None:
    text = listing(list(TABLE.values()))
    assert all(f"\n{name} " in text for name in TABLE)
    assert text.count("post hoc") == 3
