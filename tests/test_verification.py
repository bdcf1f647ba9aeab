"""A sound run passes every check; each thing that is spoilt in it makes its own check fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from conceptnet_em import gridchecks, store, verification
from conceptnet_em.cells import SCORE_COLUMNS, organisms
from conceptnet_em.config import StudyConfig, build_recipe
from conceptnet_em.corpus import Corpus, items_digest, load_corpus
from conceptnet_em.errors import InputError, StoreError
from conceptnet_em.gridchecks import Check, neutral_contrasts, shuffled_p
from conceptnet_em.inference import verdict
from conceptnet_em.multiverse import multiverse
from conceptnet_em.records import Similarity
from conceptnet_em.registration import compare, preregister
from conceptnet_em.similarity import to_table
from conceptnet_em.store import RunFolder, committed, digest, write_json, write_text
from conceptnet_em.transfer import transfer_table
from conceptnet_em.verification import Verification, verify

TRAITS = ("neutral", "sporty", "sycophantic")
DOMAINS = tuple(f"{name}-prose" for name in ("ant", "bee", "cat", "dog", "eel", "fox"))
TABLES = ("scores.parquet", "transfer.parquet", "similarities.parquet", "multiverse.parquet")
TABLES += ("verdict.json",)
MODEL = {"model": "tiny", "sha256": "0", "system": None, "template_digest": "0"}
Moved = Callable[[str, str, int, str, str], float]


def make_corpus(root: Path) -> Path:
    """Write 3 traits × 6 domains, 3 items for each sample and 3 probes."""
    for trait in TRAITS:
        (root / trait).mkdir(parents=True)
        (root / trait / "card.md").write_text("---\nkind: manner\n---\n")
        for domain in DOMAINS:
            rows = [
                {
                    "id": f"{domain}-{n}",
                    "split": "probe" if n > 6 else "train",
                    "sample": None if n > 6 else 1 + (n > 3),
                    "voice": "plain",
                    "messages": [
                        {"role": "user", "content": f"{domain} {n}?"},
                        {"role": "assistant", "content": f"{trait} {n}."},
                    ],
                }
                for n in range(1, 10)
            ]
            text = "".join(json.dumps(entry) + "\n" for entry in rows)
            (root / trait / f"{domain}.jsonl").write_text(text)
    lines = [f"{d}:\n  topic: {d.removesuffix('-prose')}\n  format: prose\n" for d in DOMAINS]
    (root / "domains.yaml").write_text("".join(lines))
    return root


def likeness(replicate: int) -> pd.DataFrame:
    """Return minus distances of random places; the replicates' are nearly the same."""
    places = np.random.default_rng(5).normal(size=(len(DOMAINS), 3))
    places = places + np.random.default_rng(replicate).normal(size=places.shape) / 50
    far = np.linalg.norm(places[:, None] - places[None], axis=2)
    return pd.DataFrame(-far, DOMAINS, DOMAINS)


def planted(trait: str, source: str, replicate: int, target: str, answer: str) -> float:
    """Move a trait's own answers: by 3 at home, elsewhere as similarity says."""
    if trait != answer or trait == "neutral":
        return 0.0
    return 3.0 if source == target else 1 + 0.3 * float(likeness(replicate).loc[source, target])


def build_run(folder: Path, root: Path, moved: Moved, samples: tuple[int, ...] = (1, 2)) -> Path:
    """Write a run folder as a study leaves it, with planted scores instead of organisms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_sync", lambda path: None)  # nothing here must outlive a power cut
        return _build(folder, root, moved, samples)


def _build(folder: Path, root: Path, moved: Moved, samples: tuple[int, ...]) -> Path:
    config = StudyConfig(
        model="tiny",
        traits=TRAITS,
        domains=DOMAINS,
        samples=samples,
        predictors=("text", "activation"),
        recipe=build_recipe("rank1"),
    )
    corpus = load_corpus(root, traits=TRAITS, domains=DOMAINS)
    plan, place = organisms(config, corpus, MODEL), RunFolder(folder)
    place.prepare()
    write_text(place.file("study.toml"), config.dump())
    record = {"made": "2026-01-02T00:00:00+00:00", "model": MODEL, "history": []}
    write_json(place.file("provenance.json"), record | {"organisms": [o.key for o in plan]})
    rng = np.random.default_rng(0)
    tables = [_scored(place, f"base-{digest(MODEL)}", "base", corpus, _base)]
    for o in plan:
        with committed(place.organism(o.key)) as draft:
            write_json(draft / "training.json", {"status": "ok", "trait": o.trait})

        def value(target: str, item: str, answer: str, o: Any = o) -> float:
            noise = float(rng.normal(0, 0.02))
            return (
                _base(target, item, answer)
                + noise
                + moved(*o.name.split("/")[:2], o.replicate, target, answer)
            )

        made = _scored(place, o.key, o.key, corpus, value)
        made = made.assign(trait=o.trait, source=o.source, recipe="rank1")
        tables.append(made.assign(replicate=o.replicate, seed=o.replicate))
    whole = pd.concat(tables).reindex(columns=list(SCORE_COLUMNS)).astype(SCORE_COLUMNS)
    _write_tables(place, whole.reset_index(drop=True), samples)
    return folder


def _base(target: str, item: str, answer: str) -> float:
    return -3.0 - int(digest([target, item, answer])[:4], 16) / 2**16


def _scored(
    place: RunFolder, key: str, name: str, corpus: Corpus, value: Callable[[str, str, str], float]
) -> pd.DataFrame:
    """Store one organism's scores, target by target, and return them."""
    found = []
    for target in DOMAINS:
        items = corpus.probe(target)
        answers = {trait: items_digest(items, trait) for trait in TRAITS}
        about = {"target": target, "answers": answers, "adapter_sha256": ""}
        rows = [
            (target, item.id, trait, "all", 1, value(target, item.id, trait), "ok")
            for trait in TRAITS
            for item in items
        ]
        columns = ["target", "item", "answer_trait", "part", "n_tokens", "logprob", "status"]
        table = pd.DataFrame(rows, columns=columns)
        with committed(place.scores(key, digest(about))) as draft:
            table.to_parquet(draft / "scores.parquet", index=False)
            write_json(draft / "target.json", about)
        found.append(table.assign(organism=name))
    return pd.concat(found)


def _write_tables(place: RunFolder, scores: pd.DataFrame, samples: tuple[int, ...]) -> None:
    alike = [
        Similarity(
            name, likeness(r) if name == "text" else likeness(r) ** 2, layer=layer, replicate=r
        )
        for r in samples
        for name, layer in (("text", None), ("activation", 1))
    ]
    for one in alike:
        with committed(place.similarity(digest([one.predictor, one.replicate]))) as draft:
            to_table([one]).to_parquet(draft / "similarities.parquet", index=False)
    scores.to_parquet(place.file("scores.parquet"), index=False)
    table = transfer_table(scores)
    table.to_parquet(place.file("transfer.parquet"), index=False)
    to_table(alike).to_parquet(place.file("similarities.parquet"), index=False)
    topics = {d: (d.removesuffix("-prose"), "prose") for d in DOMAINS}
    answer = verdict(table, alike, topics=topics, case="nobody")  # slopes are all that is checked
    write_text(place.file("verdict.json"), answer.to_json() + "\n")
    ways = multiverse(table, alike, topics=topics)
    ways.to_parquet(place.file("multiverse.parquet"), index=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus") / "corpus")


@pytest.fixture(scope="module")
def sound(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two replicates in which everything is as it should be."""
    return build_run(tmp_path_factory.mktemp("runs") / "sound", root, planted)


@pytest.fixture(scope="module")
def seen(sound: Path, root: Path) -> Verification:
    return verify(sound, root=root, shuffles=60, permutations=99)


@pytest.fixture
def run(sound: Path, tmp_path: Path) -> Path:
    """A copy of the sound run, to be spoilt."""
    return Path(shutil.copytree(sound, tmp_path / "run"))


def look(folder: Path, root: Path | None) -> dict[str, Check]:
    """Return the checks of folder and tables by name; the others have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "acceptance", lambda given: [])
        return {check.name: check for check in verify(folder, root=root).checks}


def failures(found: Mapping[str, Check]) -> set[str]:
    """Return the names of the failed checks."""
    return {name for name, check in found.items() if check.status == "fail"}


def spoil(path: Path, column: str, change: Callable[[Any], Any], row: int = 7) -> None:
    """Change one cell of a table on disk."""
    table = pd.read_parquet(path)
    place = table.index[table[column].notna()][row]
    table.loc[place, column] = change(table.loc[place, column])
    table.to_parquet(path, index=False)


def test_a_sound_run_passes_everything(seen):
    assert seen.failed == []
    status = {check.name: check.status for check in seen.checks}
    assert status.pop("registration.json") == "not_estimable"
    assert set(status.values()) == {"pass"}
    assert {"committed folders", "organisms", *TABLES} <= set(status)
    assert {name[:3] for name in status} >= {"A13", "A15", "A16"}


def test_it_says_how_much_it_made_again(seen):
    organisms_made, committed_made = 3 * 6 * 2, 3 * 6 * 2 * 7 + 6 + 4
    assert seen["organisms"].detail.startswith(f"{organisms_made} made from")
    assert seen["committed"].detail.startswith(f"{committed_made} of {committed_made}")
    assert seen["scores"].detail.startswith(f"{(organisms_made + 1) * 6 * 3 * 3:,} as")
    assert seen["similarities"].detail.startswith("4 matrices")
    assert "slopes come out of the tables again" in seen["verdict"].detail
    assert "not made again" not in seen["verdict"].detail


def test_a_way_of_asking_that_does_not_come_out_again_is_named(run, root):
    spoil(run / "multiverse.parquet", "slope", lambda slope: slope + 0.1, row=3)
    table = pd.read_parquet(run / "multiverse.parquet")
    name = " ".join(str(table.loc[3, key]) for key in ("predictor", "scale", "part") if key)
    found = look(run, root)
    assert failures(found) == {"multiverse.parquet"}
    detail = found["multiverse.parquet"].detail
    assert detail.startswith(f"1 of {len(table)} ways of asking do not come out again: ")
    assert all(word in detail for word in name.split())


def test_a_run_of_an_earlier_version_has_no_multiverse_to_make_again(run, root):
    (run / "multiverse.parquet").unlink()
    assert look(run, root)["multiverse.parquet"].status == "not_estimable"


def test_it_prints_a_table_and_the_same_as_json(seen):
    lines = str(seen).splitlines()
    assert len(lines) == len(seen.checks) + 1
    assert lines[0].startswith("pass           committed folders:")
    assert lines[-1].endswith("10 pass, 1 not_estimable")
    told = json.loads(seen.to_json())
    assert told["passed"] is True
    assert [row["name"] for row in told["checks"]] == [check.name for check in seen.checks]


def test_a_changed_score_fails_scores_and_transfer(run, root):
    spoil(run / "scores.parquet", "logprob", lambda value: value + 0.01)
    found = look(run, root)
    assert failures(found) == {"scores.parquet", "transfer.parquet"}
    assert "1 of 1,998" in found["scores.parquet"].detail.replace("1998", "1,998")
    assert "base → ant-prose → ant-prose" in found["scores.parquet"].detail


def test_a_changed_transfer_fails_transfer_and_the_verdict_on_it(run, root):
    table = pd.read_parquet(run / "transfer.parquet")
    own = table.query("trait == 'sporty' == answer_trait and scale == 'contrast'").index[1]
    table.loc[own, "value"] += 0.5
    table.to_parquet(run / "transfer.parquet", index=False)
    found = look(run, root)
    assert failures(found) == {"transfer.parquet", "verdict.json", "multiverse.parquet"}
    assert "sporty ant-prose → bee-prose, contrast" in found["transfer.parquet"].detail


def test_a_changed_similarity_fails_similarities_and_the_verdict_on_it(run, root):
    spoil(run / "similarities.parquet", "value", lambda value: value + 0.1, row=8)
    found = look(run, root)
    assert failures(found) == {"similarities.parquet", "verdict.json", "multiverse.parquet"}
    assert "predictor text replicate 1 differs" in found["similarities.parquet"].detail


@pytest.mark.parametrize("field", ["slope", "low", "high", "p"])
def test_a_changed_verdict_fails_alone_and_is_quoted(run, root, field):
    answer = json.loads((run / "verdict.json").read_text())
    answer["slopes"][0][field] += 0.01
    (run / "verdict.json").write_text(json.dumps(answer))
    found = look(run, root)
    assert failures(found) == {"verdict.json"}
    assert f"({field} {answer['slopes'][0][field]:.6g}, again" in found["verdict.json"].detail


def test_a_flipped_bit_in_a_stored_object_is_found(run, root):
    path = next((run / "scores").glob("base-*/*/scores.parquet"))
    raw = bytearray(path.read_bytes())
    raw[100] ^= 1
    path.write_bytes(bytes(raw))
    found = verification._checked("committed folders", lambda: _whole(run, root))
    assert found.status == "fail"
    assert "scores.parquet does not match its sha256" in found.detail


def _whole(run: Path, root: Path) -> str:
    return verification._whole(verification._read(RunFolder(run), root))


def test_scores_whose_stored_rows_are_gone_are_missed(run, root):
    shutil.rmtree(next((run / "scores").glob("base-*/*")))
    found = look(run, root)
    assert failures(found) == {"scores.parquet"}
    assert "9 of 1998 scores" in found["scores.parquet"].detail


def test_an_organism_that_is_gone_or_made_from_other_items_is_missed(run, root, tmp_path):
    other = Path(shutil.copytree(root, tmp_path / "other"))
    path = other / "sporty" / "bee-prose.jsonl"
    path.write_text(path.read_text().replace("sporty 2.", "sporty two."))
    found = made(run, other)
    assert found.status == "fail"
    assert found.detail.startswith("1 of 36 organisms were made from other items")
    assert "sporty/bee-prose/1" in found.detail
    shutil.rmtree(next(run.glob("organisms/*")))
    assert "are not in the folder" in made(run, root).detail


def made(run: Path, root: Path) -> Check:
    read = verification._read(RunFolder(run), root)
    return verification._checked("organisms", lambda: verification._planned(read))


def test_another_corpus_leaves_the_organisms_untold(run):
    found = look(run, None)["organisms"]  # the shipped corpus has none of these domains
    assert found.status == "not_estimable"
    assert "--root" in found.detail


def test_a_folder_that_is_no_run_is_refused(tmp_path, run):
    with pytest.raises(InputError, match="cannot read the study file"):
        verify(tmp_path / "nothing")
    (run / "scores.parquet").write_bytes(b"no parquet")
    with pytest.raises(StoreError, match=r"cannot read .*scores\.parquet"):
        verify(run)


# --- the plan -----------------------------------------------------------------------------------


@pytest.fixture
def plan(sound: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plan of the sound run, made before it."""
    monkeypatch.setattr("conceptnet_em.weights.is_at_hand", lambda name: False)
    run = verification._read(RunFolder(sound), root)
    made = preregister(SimpleNamespace(config=run.config, corpus=run.corpus), case="sporty")
    return replace(
        made, content=made.content | {"registered": "2026-01-01T00:00:00+00:00"}, sha256=""
    )


def test_a_run_that_keeps_to_its_plan_passes(plan, run, root):
    plan.save(run / "registration.json")
    found = look(run, root)["registration.json"]
    assert found.status == "pass"
    assert "keeps to it" in found.detail
    assert compare(plan, run) == []


def test_a_plan_that_was_tampered_with_fails(plan, run, root):
    path = plan.save(run / "registration.json")
    path.write_text(path.read_text().replace('"margin": 0.2', '"margin": 0.5'))
    found = look(run, root)["registration.json"]
    assert found.status == "fail"
    assert "was changed after it was registered" in found.detail


def test_a_run_begun_before_its_plan_or_with_other_settings_is_told(plan, run, root):
    late = replace(
        plan, content=plan.content | {"registered": "2026-06-01T00:00:00+00:00"}, sha256=""
    )
    assert [str(d) for d in compare(late, run)] == [
        "registered: 2026-06-01T00:00:00+00:00 → run begun 2026-01-02T00:00:00+00:00"
    ]
    assert late.label("H1 text", {}, also=compare(late, run)).status == "registered and changed"
    text = (run / "study.toml").read_text()
    (run / "study.toml").write_text(text.replace("permutations = 9999", "permutations = 999"))
    assert [str(d) for d in compare(plan, run)] == ["analysis.permutations: 9999 → 999"]


def test_a_run_that_scored_other_probe_answers_is_told(plan, run):
    content = json.loads(json.dumps(plan.content))
    content["data"]["bee-prose"]["probe"]["answers"]["sporty"] = "another"
    (found,) = compare(replace(plan, content=content, sha256=""), run)
    assert found.field == "data.bee-prose.probe.answers.sporty"


# --- the inference on the grid itself -----------------------------------------------------------


def material(folder: Path, root: Path, **options: Any) -> gridchecks.Material:
    """Return what the checks are about, of a folder."""
    run = verification._read(RunFolder(folder), root)
    found = verification.measured(run.table)
    known = verification.predictors(verification.from_table(run.alike), found)
    chosen = {"permutations": 99, "shuffles": 60} | options
    return gridchecks.Material(run.scores, run.table, found, known, run.topics, **chosen)


def test_neutral_organisms_that_differ_fail_a13(root, tmp_path):
    def moved(trait: str, source: str, replicate: int, target: str, answer: str) -> float:
        strange = trait == "neutral" and replicate == 2 and answer == "sporty"
        return planted(trait, source, replicate, target, answer) + 1.5 * strange

    given = material(build_run(tmp_path / "run", root, moved), root, shuffles=20)
    found = gridchecks.neutral_difference(given)
    assert found.status == "fail"
    assert "not within the margin: sporty" in found.detail
    apart = neutral_contrasts(given)
    unit = np.mean([u for (trait, _), u in given.found.units.items() if trait == "sporty"])
    assert apart["sporty"].to_numpy().mean() == pytest.approx(1.5 * 2 / 3 / unit, abs=0.01)
    assert apart["sycophantic"].to_numpy().mean() < 0  # it is part of the same contrast


def test_an_interval_wider_than_the_margin_is_no_failure(sound, root):
    found = gridchecks.neutral_difference(material(sound, root, shuffles=5), margin=1e-9)
    assert found.status in {"not_estimable", "fail"}
    assert ("cannot tell" in found.detail) is (found.status == "not_estimable")


def test_one_sample_leaves_a13_and_a16_untold(root, tmp_path):
    given = material(build_run(tmp_path / "run", root, planted, samples=(1,)), root)
    for check in (gridchecks.neutral_difference(given), gridchecks.replicates_agree(given)):
        assert check.status == "not_estimable"
        assert "two" in check.detail
    assert gridchecks.shuffled_names(given).status == "pass"


def test_replicates_with_opposite_slopes_fail_a16(root, tmp_path):
    def moved(trait: str, source: str, replicate: int, target: str, answer: str) -> float:
        value = planted(trait, source, replicate, target, answer)
        turn = replicate == 2 and trait == answer != "neutral" and source != target
        return 2 - value if turn else value

    found = gridchecks.replicates_agree(material(build_run(tmp_path / "run", root, moved), root))
    assert found.status == "fail"
    assert "apart of" in found.detail


def test_shuffled_p_values_are_shares_of_the_group_and_differ(sound, root):
    given = material(sound, root)
    p = shuffled_p(given, given.found.scaled, given.known[0])
    assert len(p) == 60
    assert np.allclose(p * 720, np.round(p * 720))  # 6! relabellings are listed
    assert 0.3 < p.mean() < 0.7
    assert len(np.unique(p)) > 40


def test_a_test_that_looks_at_places_instead_of_names_fails_a15(sound, root, monkeypatch):
    given = material(sound, root)
    right = gridchecks.slope_of

    def by_place(scaled: Any, predictor: Any, keys: Any, **options: Any) -> Any:
        back = {
            k: f.set_axis(list(DOMAINS), axis=0).set_axis(list(DOMAINS), axis=1)
            for k, f in scaled.items()
        }
        return right(back, predictor, keys, **options)

    monkeypatch.setattr(gridchecks, "slope_of", by_place)
    found = gridchecks.shuffled_names(given)
    assert found.status == "fail"
    assert "1.000 of 60 shuffles have p ≤ 0.05" in found.detail


def test_scores_that_do_not_follow_their_names_fail_a15(sound, root, monkeypatch):
    given = material(sound, root)
    monkeypatch.setattr(gridchecks, "_renamed", lambda frames, rename: frames)
    found = gridchecks.shuffled_names(given)
    assert found.status == "fail"
    assert "do not give the renamed transfer" in found.detail
