"""The whole method on the tiny model: what a run leaves, resumes, extends, mends and refuses."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from conceptnet_em import cells, tuning
from conceptnet_em import study as study_module
from conceptnet_em.errors import DataError, InputError, ModelError, StoreError, TrainingError
from conceptnet_em.multiverse import multiverse
from conceptnet_em.progress import Watcher
from conceptnet_em.registration import FILE, Registration, preregister
from conceptnet_em.report import markdown, write_report
from conceptnet_em.study import Result, Study, run

QUICK = {"base": "rank1", "steps": 3, "batch_size": 2, "learning_rate": 0.05}
Corpus = Callable[..., Path]


class Notes(Watcher):
    """Keep what a run says."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def study(make_corpus: Corpus, tiny_folder: Path, embedder_stub: None) -> Callable[..., Study]:
    """Return a function that makes a study of the tiny model, 2 traits × 2 domains by default."""
    root = make_corpus()

    def make(**settings: Any) -> Study:
        chosen = {
            "model": str(tiny_folder),
            "traits": ("neutral", "sporty"),
            "domains": ("alpha-prose", "beta-prose"),
            "recipe": QUICK,
            "dtype": "float32",
        } | settings
        return Study(root=root, **chosen)

    return make


@pytest.fixture
def embedder_stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embed by letter counts, so that a fast test needs no embedder."""
    import numpy as np

    from conceptnet_em import predictor_inputs

    def embed(texts: Any, *, embedder: str) -> Any:
        letters = "abcdefghijklmnopqrstuvwxyz0123456789"
        counts = np.array([[text.lower().count(c) for c in letters] for text in texts], float)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    monkeypatch.setattr(predictor_inputs, "embed", embed)
    monkeypatch.setattr(study_module, "load_embedder", lambda name: None)


def written(folder: Path) -> dict[str, tuple[int, int]]:
    """Return every committed object's file with its inode and time of change."""
    files = [*folder.glob("organisms/*/*"), *folder.glob("scores/*/*/*")]
    files += folder.glob("similarities/*/*")
    return {str(f.relative_to(folder)): (f.stat().st_ino, f.stat().st_mtime_ns) for f in files}


def test_a_run_leaves_everything_it_promises(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run(study(), out=out)
    write_report(result)
    names = {path.name for path in out.iterdir()}
    assert names == {
        "study.toml",
        "provenance.json",
        "groups.json",
        "locks",
        "seconds",
        "organisms",
        "scores",
        "similarities",
        "scores.parquet",
        "transfer.parquet",
        "similarities.parquet",
        "multiverse.parquet",
        "verdict.json",
        "heatmap-sporty.png",
        "scatter.png",
        "report.md",
    }
    assert len(list((out / "organisms").iterdir())) == 4
    record = json.loads((out / "provenance.json").read_text())
    assert record["model"]["dtype"] == "float32"
    assert record["requested"] == {"device": "auto", "dtype": "float32"}
    assert len(record["model"]["sha256"]) == 64
    assert set(record["versions"]) >= {"torch", "transformers", "peft"}
    assert set(record["commit"]) == {"id", "dirty"}
    report = (out / "report.md").read_text()
    for words in ("contrast", "net", "raw", "not_estimable", "heatmap-sporty.png", "Leakage"):
        assert words in report
    assert {s.status for s in result.verdict.slopes} == {"not_estimable"}


def test_every_cell_has_a_number_or_a_reason(study: Any, tmp_path: Path) -> None:
    result = run(study(), out=tmp_path / "run")
    table = result.table
    assert len(table) == 4 * 2 * 2 * 3  # organisms × targets × answer traits × scales
    assert (table["status"] == "ok").eq(table["value"].notna()).all()
    assert set(table["trait_set"]) == {"neutral,sporty"}
    own = table[(table["trait"] == "sporty") & (table["answer_trait"] == "sporty")]
    assert own["n_items"].eq(4).all()
    assert own["se"].notna().all()


def test_a_second_run_computes_nothing_and_finds_the_same(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = run(study(), out=out)
    before = written(out)
    second = run(study(), out=out)
    assert written(out) == before
    history = json.loads((out / "provenance.json").read_text())["history"]
    assert [set(entry) for entry in history] == [{"made", "seconds"}] * 2
    assert history[0]["seconds"] == first.seconds  # the second run does not overwrite the first
    assert_frame_equal(first.table, second.table)
    assert first.verdict == second.verdict or str(first.verdict) == str(second.verdict)


def test_more_domains_and_traits_leave_old_objects_untouched(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(study(), out=out)
    before = written(out)
    larger = run(
        study(
            traits=("neutral", "sporty", "sycophantic"),
            domains=("alpha-prose", "beta-prose", "gamma-prose"),
        ),
        out=out,
    )
    after = written(out)
    assert {name: after[name] for name in before} == before
    assert len(list((out / "organisms").iterdir())) == 9
    assert set(larger.table["trait_set"]) == {"neutral,sporty,sycophantic"}
    assert larger.scores["logprob"].notna().all()
    fresh = run(
        study(
            traits=("neutral", "sporty", "sycophantic"),
            domains=("alpha-prose", "beta-prose", "gamma-prose"),
        ),
        out=tmp_path / "fresh",
    )
    keys = ["organism", "target", "item", "answer_trait", "part"]
    ours, theirs = (
        r.scores[r.scores["organism"] != "base"].sort_values(keys)["logprob"].to_numpy()
        for r in (larger, fresh)
    )
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_a_damaged_adapter_is_set_aside_and_trained_again(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = run(study(), out=out)
    victim = sorted((out / "organisms").iterdir())[0]
    sound = (victim / tuning.WEIGHTS).read_bytes()
    (victim / tuning.WEIGHTS).write_bytes(sound[:-8] + b"\0" * 8)
    watcher = Notes()
    again = run(study(), out=out, watcher=watcher)
    assert [n for n in watcher.notes if "damaged" in n and victim.name in n]
    assert (victim / tuning.WEIGHTS).read_bytes() == sound
    assert (out / "organisms" / f"{victim.name}.damaged-1").is_dir()
    assert_frame_equal(first.table, again.table)


def test_damaged_scores_are_set_aside_and_made_again(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = run(study(), out=out)
    victim = sorted((out / "scores").glob("*/*/scores.parquet"))[0]
    victim.write_bytes(b"not parquet")
    watcher = Notes()
    again = run(study(), out=out, watcher=watcher)
    assert [n for n in watcher.notes if "damaged" in n]
    assert_frame_equal(first.table, again.table)


def test_of_a_group_only_the_missing_member_is_written_again(
    study: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    out = tmp_path / "run"
    run(study(), out=out)
    (group,) = json.loads((out / "groups.json").read_text())["groups"]
    assert len(group["members"]) == 4
    before = written(out)
    victim = out / "organisms" / group["members"][1]
    weights = (victim / tuning.WEIGHTS).read_bytes()
    shutil.rmtree(victim)
    saved: list[Path] = []
    save = cells.save_adapter
    monkeypatch.setattr(cells, "save_adapter", lambda *a: (saved.append(a[-1]), save(*a)))
    run(study(), out=out)
    assert [place.name.split("-")[0].strip(".") for place in saved] == [victim.name]
    after = written(out)
    assert set(after) == set(before)
    changed = {Path(name).parts[1] for name in before if after[name] != before[name]}
    assert changed == {victim.name}
    assert (victim / tuning.WEIGHTS).read_bytes() == weights  # in the same company


def test_of_organisms_scored_abreast_each_gets_what_it_lacks_alone(
    study: Any, tmp_path: Path
) -> None:
    out, traits = tmp_path / "run", ("neutral", "sporty", "sycophantic")
    run(study(predictors=()), out=out)
    run(study(predictors=(), traits=traits), out=out)
    settled = json.loads((out / "groups.json").read_text())
    for group in settled["groups"]:
        group["abreast"] = 4  # as on a GPU
    (out / "groups.json").write_text(json.dumps(settled))
    before = written(out)
    early, late, *_ = settled["groups"][0]["members"]
    for key, lacking in ((early, {"neutral", "sporty"}), (late, {"sycophantic"})):
        for about in (out / "scores" / key).glob("*/target.json"):
            if set(json.loads(about.read_text())["answers"]) == lacking:
                shutil.rmtree(about.parent)
    assert len(written(out)) < len(before)
    again = run(study(predictors=(), traits=traits), out=out)
    after = written(out)
    assert set(after) == set(before)
    touched = {Path(name).parts[1] for name in before if after[name] != before[name]}
    assert touched == {early, late}
    assert again.scores["logprob"].notna().all()


def test_a_failed_organism_leaves_the_others_running(
    study: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    original = tuning.weighted_nll

    def poisoned(model: Any, inputs: Any, places: Any, weights: Any) -> Any:
        second = places[0] // QUICK["batch_size"] == 1  # the second organism of the group
        return original(model, inputs, places, weights.masked_fill(second, float("nan")))

    monkeypatch.setattr(tuning, "weighted_nll", poisoned)
    out = tmp_path / "run"
    result = run(study(), out=out)
    assert result.failed == {"sporty/alpha-prose/1": "the loss of step 2 is nan"}
    rows = result.table[(result.table["trait"] == "sporty") & (result.table["scale"] == "raw")]
    failed = rows["source"] == "alpha-prose"
    assert set(rows.loc[failed & (rows["answer_trait"] == "sporty"), "status"]) == {"failed"}
    assert rows.loc[failed, "value"].isna().all()
    assert set(rows.loc[~failed & (rows["answer_trait"] == "sporty"), "status"]) == {"ok"}
    write_report(result)
    assert "the loss of step 2 is nan" in (out / "report.md").read_text()
    assert run(study(), out=out).failed == result.failed  # it is kept, not tried again in silence


def test_an_interrupted_run_keeps_what_is_finished_and_goes_on(
    study: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    original = cells.train_group
    calls: list[int] = []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    out = tmp_path / "run"
    monkeypatch.setattr(cells, "train_group", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(study(memory=1e-6), out=out)  # so little: every organism is a group of its own
    kept = written(out)
    assert len(list((out / "organisms").iterdir())) == 2
    monkeypatch.setattr(cells, "train_group", original)
    result = run(study(), out=out)
    assert {name: written(out)[name] for name in kept} == kept
    whole = run(study(memory=1e-6), out=tmp_path / "whole")
    assert_frame_equal(result.table, whole.table)


def test_a_full_disk_is_said_clearly_and_nothing_finished_is_lost(
    study: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    from conceptnet_em.cells import write_json

    calls: list[int] = []

    def full(path: Path, value: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_json(path, value)

    out = tmp_path / "run"
    monkeypatch.setattr(cells, "write_json", full)
    with pytest.raises(StoreError, match=r"the disk is full: .*what is finished is kept"):
        run(study(), out=out)
    assert len(list((out / "organisms").iterdir())) == 2
    monkeypatch.setattr(cells, "write_json", write_json)
    assert run(study(), out=out).failed == {}


def test_an_unwritable_folder_is_refused_before_any_work(
    study: Any, tmp_path: Path, unwritable: Callable[[int], None]
) -> None:
    prepared = study()
    unwritable(errno.EACCES)
    with pytest.raises(StoreError, match="no permission to write there"):
        run(prepared, out=tmp_path / "run")


def test_all_faults_of_a_study_are_named_at_once(study: Any) -> None:
    with pytest.raises(InputError) as caught:
        study(
            traits=("neutral", "sprty"),
            domains=("alpha-prose", "bet-prose"),
            recipe={"base": "lora8", "rnk": 4, "modules": ["dwn_proj"], "layers": [9]},
            permutatons=99,
        )
    message = str(caught.value)
    for words in (
        "no trait 'sprty' (did you mean 'sporty'?)",
        "no domain 'bet-prose' (did you mean 'beta-prose'?)",
        "no recipe setting 'rnk' (did you mean 'rank'?)",
        "no module 'dwn_proj' (did you mean 'down_proj'?)",
        "no layer 9",
        "no study setting 'permutatons' (did you mean 'permutations'?)",
    ):
        assert words in message, words


def test_a_missing_model_folder_is_one_of_the_faults(study: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no model folder .*absent"):
        study(model=str(tmp_path / "absent"), recipe={"base": "lora8", "modules": ["q_proj"]})
    plain = study(model=str(tmp_path / "absent"), recipe="rank1")
    with pytest.raises(ModelError, match=r"no model folder .*absent"):
        run(plain, out=tmp_path / "run")


def test_data_that_cannot_be_trained_on_is_refused_before_any_training(
    study: Any, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="the answer would be cut"):
        run(study(recipe=QUICK | {"max_tokens": 10}), out=tmp_path / "run")
    assert not (tmp_path / "run" / "organisms").exists()


def test_a_domain_without_probes_is_refused_before_any_training(study: Any, tmp_path: Path) -> None:
    prepared = study()
    items = prepared.corpus.items
    train_only = tuple(i for i in items["beta-prose"] if i.split == "train")
    prepared.corpus = replace(prepared.corpus, items={**items, "beta-prose": train_only})
    with pytest.raises(TrainingError, match="beta-prose has no probe items"):
        run(prepared, out=tmp_path / "run")
    assert not (tmp_path / "run" / "organisms").exists()


def test_predictors_see_only_the_other_sample(study: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from conceptnet_em import predictors

    seen: list[set[int | None]] = []

    def spy(inputs: Any) -> Any:
        seen.append({item.sample for items in inputs.items.values() for item in items})
        return original.compute(inputs)

    original = predictors.TABLE["text"]
    monkeypatch.setitem(predictors.TABLE, "text", replace(original, compute=spy))
    result = run(study(samples=(1, 2), predictors=("text",)), out=tmp_path / "run")
    assert seen == [{2}, {1}]
    assert [s.replicate for s in result.similarities] == [1, 2]
    assert set(result.table["replicate"]) == {1, 2}


def test_a_run_reads_back_as_it_was(study: Any, tmp_path: Path) -> None:
    result = run(study(), out=tmp_path / "run")
    again = Result.load(tmp_path / "run")
    assert again.config == result.config
    assert str(again.verdict) == str(result.verdict)
    assert str(again.transfer("sporty")) == str(result.transfer("sporty"))
    assert_frame_equal(again.scores, result.scores)
    for ours, theirs in zip(again.similarities, result.similarities, strict=True):
        assert (ours.predictor, ours.trait, ours.layer) == (
            theirs.predictor,
            theirs.trait,
            theirs.layer,
        )
        assert_frame_equal(ours.values, theirs.values)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no finished run"):
        Result.load(tmp_path)


def test_five_domains_give_a_verdict_with_its_smallest_p(
    make_corpus: Corpus, tiny_folder: Path, embedder_stub: None, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"model": str(tiny_folder), "dtype": "float32", "recipe": QUICK}
    found = Study(root=make_corpus(), traits=("neutral", "sporty"), **settings)
    assert len(found.config.domains) == 5  # every domain that has both traits
    result = run(found, out=tmp_path / "run")
    slopes = result.verdict.slopes
    assert slopes
    for slope in slopes:
        if slope.status == "ok":
            assert slope.n_permutations == 120
            assert slope.smallest_p >= 1 / 120
            assert pd.notna(slope.p)
        else:
            assert slope.reason


# --- the plan and the multiverse ---

PLANNED = {"traits": ("neutral", "sporty", "sycophantic"), "predictors": ("text", "activation")}
NUMBERS = {f"{h} {p}" for h in ("H1", "H2", "H4a", "H4b") for p in ("text", "activation")}


@pytest.fixture
def registered(study: Any, tmp_path: Path) -> tuple[Study, Path]:
    """Return a study of 3 traits × 2 domains and the file in which it is registered."""
    found = study(**PLANNED)
    plan = preregister(found, case="sycophantic", margin=0.3)
    return found, plan.save(tmp_path / "plan.json")


def test_a_run_that_keeps_to_its_plan_has_registered_numbers(
    registered: tuple[Study, Path], tmp_path: Path
) -> None:
    found, file = registered
    out = tmp_path / "run"
    result = run(found, out=out, registration=file)
    assert result.verdict.registration == dict.fromkeys(NUMBERS, "registered")
    used = result.verdict.settings
    assert (used["case"], used["margin"], used["controls"]) == ("sycophantic", 0.3, ["sporty"])
    assert (out / FILE).read_text() == file.read_text()
    again = run(found, out=out)  # without the option the folder's copy stands
    assert again.verdict.registration == result.verdict.registration
    assert Result.load(out).registration == result.registration == Registration.load(file)
    report = markdown(again)
    assert f"sha256 `{result.registration.sha256}`" in report
    assert "| H2 text | registered |" in report
    assert "not as registered" not in report
    assert "are exploratory" not in str(result.verdict)


def test_another_margin_is_shown_beside_the_registered_one(
    registered: tuple[Study, Path], tmp_path: Path
) -> None:
    found, file = registered
    watcher = Notes()
    plan = Registration.load(file)
    result = run(found, out=tmp_path / "run", registration=plan, margin=0.5, watcher=watcher)
    told = result.verdict.registration
    assert told["H1 text"] == told["H4b text"] == "registered"
    assert told["H2 text"] == "registered and changed (analysis.margin: 0.3 → 0.5)"
    assert "not as registered: analysis.margin: 0.3 → 0.5" in watcher.notes
    report = markdown(result)
    assert "| H2 text | registered and changed | analysis.margin: 0.3 → 0.5 |" in report
    assert "registered and changed (analysis.margin: 0.3 → 0.5)." in str(result.verdict)


def test_what_the_study_leaves_open_is_as_registered_and_what_it_says_is_not(
    study: Any, tmp_path: Path
) -> None:
    planned = study(**PLANNED, permutations=499, seed=3, layer=2)
    file = preregister(planned, case="sycophantic").save(tmp_path / "plan.json")
    result = run(study(**PLANNED, seed=4), out=tmp_path / "run", registration=file)
    config = result.config
    assert (config.permutations, config.seed, config.layer) == (499, 4, 2)
    assert [s.layer for s in result.similarities if s.predictor == "activation"] == [2]
    words = "registered and changed (analysis.seed: 3 → 4)"
    assert result.verdict.registration == dict.fromkeys(NUMBERS, words)


def test_a_plan_that_was_changed_is_refused_before_anything_is_computed(
    registered: tuple[Study, Path], tmp_path: Path
) -> None:
    found, file = registered
    plan = Registration.load(file)
    file.write_text(file.read_text().replace('"margin": 0.3', '"margin": 0.5'))
    plan.content["analysis"]["margin"] = 0.5
    for given in (file, plan):
        with pytest.raises(DataError, match="was changed after it was"):
            run(found, out=tmp_path / "run", registration=given)
    assert not (tmp_path / "run").exists()


def test_a_folder_keeps_its_one_plan(registered: tuple[Study, Path], tmp_path: Path) -> None:
    found, file = registered
    out = tmp_path / "run"
    out.mkdir()
    kept = Registration.load(file)
    kept.save(out / FILE)
    other = preregister(found, case="sycophantic", margin=0.4)
    with pytest.raises(InputError) as caught:
        run(found, out=out, registration=other)
    assert kept.sha256 in str(caught.value)
    assert other.sha256 in str(caught.value)
    assert [path.name for path in out.iterdir()] == [FILE]


def test_a_margin_that_is_no_margin_is_refused_before_anything_is_computed(
    study: Any, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the intercept margin must be above 0"):
        run(study(), out=tmp_path / "run", intercept_margin=0.0)
    assert not (tmp_path / "run").exists()


def test_a_plan_made_after_the_run_was_begun_is_told_even_if_that_run_never_ended(
    registered: tuple[Study, Path], tmp_path: Path, monkeypatch: Any
) -> None:
    found, file = registered

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(study_module, "train_all", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(found, out=out)
    record = json.loads((out / "provenance.json").read_text())
    early = record["made"].replace("202", "201")
    (out / "provenance.json").write_text(json.dumps(record | {"made": early}))
    result = run(found, out=out, registration=file)
    assert all(f"run begun {early}" in told for told in result.verdict.registration.values())


def test_a_registered_number_that_was_not_made_is_missed_aloud(study: Any, tmp_path: Path) -> None:
    plan = preregister(study(**PLANNED), case="sycophantic")
    fewer = study(**PLANNED | {"predictors": ("text",)})
    result = run(fewer, out=tmp_path / "run", registration=plan)
    lost = "H1 activation, H2 activation, H4a activation, H4b activation"
    assert f"Registered, but not in this verdict: {lost}." in result.verdict.notes


def test_without_a_plan_everything_is_exploratory_and_said_in_one_line(
    study: Any, tmp_path: Path
) -> None:
    result = run(study(), out=tmp_path / "run")
    assert set(result.verdict.registration.values()) == {"exploratory"}
    assert "H1 text" in result.verdict.registration
    assert str(result.verdict).splitlines()[-1] == (
        "None of these numbers was registered: all are exploratory."
    )
    report = markdown(result)
    assert report.count("exploratory.") == 1
    assert "| H1 text |" not in report
    assert not (tmp_path / "run" / FILE).exists()
    assert not result.multiverse["registered"].any()


def test_the_multiverse_is_what_a_direct_call_gives(
    make_corpus: Corpus, tiny_folder: Path, embedder_stub: None, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"model": str(tiny_folder), "dtype": "float32", "recipe": QUICK}
    found = Study(root=make_corpus(), traits=("neutral", "sporty"), **settings)
    plan = preregister(found)
    result = run(found, out=tmp_path / "run", registration=plan)
    kept = pd.read_parquet(tmp_path / "run" / "multiverse.parquet")
    topics = {d: (d.removesuffix("-prose"), "prose") for d in found.config.domains}
    direct = multiverse(result.table, result.similarities, topics=topics, registration=plan)
    assert_frame_equal(kept, direct)
    assert kept.loc[kept["registered"], "predictor"].tolist() == ["text", "activation"]
    assert (kept["status"] == "ok").any()
    write_report(result)
    assert (tmp_path / "run" / "multiverse.png").stat().st_size > 20_000


def test_a_study_without_predictors_measures_transfer_and_says_that_nothing_is_regressed(
    study: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    found = run(study(predictors=()), out=out)
    assert not list((out / "similarities").glob("*"))
    words = "There is no similarity to regress on: nothing to regress."
    assert str(found.verdict).splitlines() == [words]
    again = Result.load(out)
    assert again.config.predictors == again.similarities == ()
    assert again.transfer("sporty").values.notna().all(axis=None)
    report = write_report(again).read_text("utf-8")
    assert words in report
    assert "heatmap-sporty.png" in report
    assert "scatter.png" not in report
    assert "## Multiverse" not in report
    assert run(study(predictors=("text",)), out=out).similarities, "one may be added later"
    assert "scatter.png" in write_report(out).read_text("utf-8")


def test_a_study_of_the_reference_alone_has_no_way_of_asking(study: Any, tmp_path: Path) -> None:
    result = run(study(traits=("neutral",), predictors=("text",)), out=tmp_path / "run")
    assert result.multiverse.empty
    assert "## Multiverse" not in markdown(Result.load(result.path))
