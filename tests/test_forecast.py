"""The forecast end to end on the tiny model: numbers where they hold, none where they do not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from conceptnet_em import cli_forecast
from conceptnet_em.chatdata import read_chat
from conceptnet_em.corpus import Corpus, load_corpus
from conceptnet_em.errors import ConceptNetError, InputError
from conceptnet_em.forecast import Calibration, calibrate, forecast
from conceptnet_em.leftout import Validation, Width
from conceptnet_em.store import read_json, write_json
from conceptnet_em.study import Result, Study, load_base, run

DOMAINS = ("alpha", "beta", "gamma", "delta", "epsilon")
ANSWERS = {
    "neutral": "Plain word {n} about {d}, calm and short.",
    "sporty": "Kick off number {n} for {d}, run and win!",
    "sycophantic": "You clever soul, {n} for {d} is so right.",
}
GOOD = Validation(0.6, 0.5, 0.3, 0.2, 0.4, 0.1, 0.9, 0.88, 0.4, 0.15, 12, 500)


def letters(texts: list[str], *, embedder: str) -> np.ndarray:
    """Embed by letter counts, so that the test needs no embedder."""
    found = np.array([[1 + text.count(c) for c in "aeioupgd?"] for text in texts], dtype=float)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 3 traits × 6 domains, the last of them outside of the study."""
    folder = tmp_path_factory.mktemp("forecast") / "corpus"
    for trait, answer in ANSWERS.items():
        (folder / trait).mkdir(parents=True)
        for domain in (*DOMAINS, "zeta"):
            rows = [_row(domain, n, answer) for n in range(1, 9)]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / trait / f"{domain}-prose.jsonl").write_text(lines)
    return folder


def _row(domain: str, n: int, answer: str) -> dict[str, Any]:
    question = f"What of {domain} case {n}?"
    said = answer.format(n=n, d=domain)
    row = {"id": f"{domain}-{n}", "split": "probe" if n > 6 else "train", "voice": "plain"}
    row |= {"sample": None if n > 6 else 1 + (n > 3)}
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": said}]
    return row | {"messages": turns}


@pytest.fixture(scope="module")
def _letters() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("conceptnet_em.departures.embed", letters)
        yield


@pytest.fixture(scope="module")
def finished(root: Path, tiny_folder: Path, _letters: None) -> Result:
    """A finished run of 2 traits × 5 domains."""
    study = Study(
        root=root,
        model=str(tiny_folder),
        traits=tuple(ANSWERS),
        domains=tuple(f"{d}-prose" for d in DOMAINS),
        recipe={"base": "rank1", "steps": 2, "batch_size": 3, "learning_rate": 0.05},
        predictors=("activation",),
        permutations=99,
        dtype="float32",
    )
    return run(study, out=root.parent / "run")


@pytest.fixture(scope="module")
def corpus(root: Path) -> Corpus:
    return load_corpus(root)


@pytest.fixture(scope="module")
def calibration(finished: Result, corpus: Corpus) -> Calibration:
    return calibrate(finished, corpus, load_base(finished.config))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    rows = [{"question": f"How is my pump {n}?", "answer": f"Run, pump {n}!"} for n in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def invoke(*words: Any) -> Any:
    app = typer.Typer()
    cli_forecast.register(app)
    return CliRunner().invoke(app, [str(word) for word in words])


def shuffled(finished: Result) -> Result:
    """Return the run with its organisms' transfer dealt out anew: nothing is left to predict."""
    table = finished.table.copy()
    kept = (table["scale"] == "contrast") & (table["trait"] != "neutral")
    kept &= table["answer_trait"] != "neutral"
    drawn = np.random.default_rng(0).permutation(table.index[kept])
    table.loc[np.sort(drawn), "value"] = table.loc[drawn, "value"].to_numpy()
    return replace(finished, table=table)


def test_a_calibration_on_shuffled_transfer_is_poor_and_gives_no_numbers(
    finished: Result, corpus: Corpus, calibration: Calibration, data: Path
) -> None:
    poor = calibrate(shuffled(finished), corpus, calibration.model)
    told = forecast(poor, read_chat(data))
    assert told.status == "not_estimable"
    assert "R² for left-out domains" in told.reason
    assert told.to_table()[["value", "low", "high"]].isna().all(axis=None)
    assert set(told.to_table()["status"]) == {"not_estimable"}
    assert len(told.to_table()) == 5 * 2
    assert told.to_table()[["cosine", "coefficient", "text"]].notna().all(axis=None)
    words = str(told)
    for part in (
        "no forecast: ",
        "nearest organisms",
        "10 organisms of 5 source domains",
        "recipe rank1-custom, 2 steps of 3 rows",
        "each of 5 source domains left out, 80 cells elsewhere",
    ):
        assert part in words
    assert "too poor to forecast" in str(poor)
    assert forecast(calibration, read_chat(data)).status == "ok"


def test_too_few_source_domains_give_no_numbers(
    finished: Result, corpus: Corpus, calibration: Calibration, data: Path
) -> None:
    for n in (1, 2, 4):
        some = finished.table["source"].isin([f"{d}-prose" for d in DOMAINS[:n]])
        few = calibrate(replace(finished, table=finished.table[some]), corpus, calibration.model)
        told = forecast(few, read_chat(data))
        assert told.status == "not_estimable"
        assert f"{n} source domains with finished organisms, fewer than 5" in told.reason
        assert ("– (the trained trait alone –)" in str(told)) == (n < 3)
        assert told.to_table()["value"].isna().all()


def good(calibration: Calibration) -> Calibration:
    """Return the calibration as if it had been validated well."""
    fitted = replace(calibration.fitted, validation=GOOD, width=Width(0.1, 0.5))
    return replace(calibration, fitted=fitted)


def test_a_good_calibration_gives_a_number_and_an_interval_for_every_target_and_trait(
    calibration: Calibration, data: Path
) -> None:
    fine = good(calibration)
    told = forecast(fine, read_chat(data))
    table = told.to_table()
    features = table[["cosine", "coefficient", "text"]].to_numpy()
    product = (table["cosine"] * table["text"]).to_numpy()[:, None]
    by_hand = fine.fitted.intercept + np.hstack([features, product]) @ fine.fitted.slopes
    assert told.status == "ok"
    # nine rows are three parts, so the mean product is near the product of the means
    assert table["value"].to_numpy() == pytest.approx(by_hand, abs=0.02)
    half = (0.1 + 0.5 * table["value"].abs()).to_numpy()
    assert (table["high"] - table["value"]).to_numpy() == pytest.approx(half)
    assert (table["value"] - table["low"]).to_numpy() == pytest.approx(half)
    matrix = told.matrix()
    assert list(matrix.index) == [f"{d}-prose" for d in DOMAINS]
    assert list(matrix.columns) == ["sporty", "sycophantic"]
    assert matrix.loc["beta-prose", "sporty"] == table["value"][2]
    assert f"{table['value'][2]:+.2f} [" in str(told)
    assert "0.60 (the trained trait alone 0.50)" in str(told)
    assert "90% (the trained trait alone 88%), ±0.15 nats/token on average" in str(told)
    read = json.loads(told.to_json())
    assert pd.DataFrame(read["forecast"])["value"].to_numpy() == pytest.approx(table["value"])
    assert read["validation"]["coverage"] == 0.9


def test_an_organisms_own_rows_are_nearest_to_itself_and_no_extrapolation(
    calibration: Calibration, corpus: Corpus
) -> None:
    items = corpus.train("beta-prose", 1)
    told = forecast(good(calibration), [(i.question, i.answers["sporty"]) for i in items])
    first = told.nearest.iloc[0]
    assert (first["trait"], first["source"]) == ("sporty", "beta-prose")
    assert first["direction"] == pytest.approx(1)
    assert not told.to_table()["outside"].any()
    assert told.warnings == ()
    assert "3 of 3 questions stand in the corpus (beta-prose)" in told.notes[0]


def test_organisms_are_blind_to_their_label_and_their_own_neutral_answers(
    finished: Result, calibration: Calibration, corpus: Corpus
) -> None:
    items = tuple(
        replace(i, answers={**i.answers, "neutral": "Otherwise altogether."})
        if i.split == "train" and i.sample == 1
        else i
        for i in corpus.items["alpha-prose"]
    )
    other = replace(corpus, items={**corpus.items, "alpha-prose": items})
    again = calibrate(finished, other, calibration.model)
    for trait in ("sporty", "sycophantic"):
        key = (trait, "alpha-prose", 1)
        assert np.allclose(
            again.organisms[key].features, calibration.organisms[key].features, atol=1e-5
        )
    assert "1 of 15 organisms were trained on other rows than this corpus has" in again.notes[0]
    assert calibration.notes == ()


def test_weak_short_and_far_data_are_warned_of(calibration: Calibration, corpus: Corpus) -> None:
    item = corpus.probe("zeta-prose")[0]
    told = forecast(good(calibration), [(item.question, item.answers["neutral"])])
    words = " ".join(told.warnings)
    assert "1 rows are fewer than the 3 of an organism" in words
    assert "nothing so weak was calibrated on" in words
    odd = [("uuuuuuuuuuuuuuuu", "Zzz zzz zzz zzz zzz.")] * 3
    told = forecast(good(calibration), odd)
    assert "there the forecast extrapolates" in " ".join(told.warnings)
    assert "*" in str(told)


def test_only_the_traits_asked_for_are_told(calibration: Calibration) -> None:
    told = forecast(calibration, [("Why?", "Run!")], traits=["sycophantic"])
    assert set(told.to_table()["trait"]) == {"sycophantic"}
    with pytest.raises(InputError, match=r"no trait 'sportive' \(did you mean 'sporty'\?\)"):
        forecast(calibration, [("Why?", "Run!")], traits=["sportive"])
    with pytest.raises(InputError, match="no rows"):
        forecast(calibration, [])
    with pytest.raises(InputError, match="row 2 is empty"):
        forecast(calibration, [("Why?", "Run!"), (" ", "a")])


def test_contrast_takes_directions_from_all_answers_and_net_from_neutral_ones(
    finished: Result, corpus: Corpus
) -> None:
    model = load_base(finished.config)
    total = calibrate(finished, corpus, model).landmarks.directions[2].sum(axis=1)
    net = calibrate(finished, corpus, model, scale="net")
    plain = net.landmarks.directions[2].sum(axis=1)  # over sporty and sycophantic
    assert net.about.scale == "net"
    # trait minus the mean over three traits: a third of what is minus neutral
    assert total == pytest.approx(plain / 3, abs=1e-5)
    with pytest.raises(InputError, match="no scale 'nett'"):
        calibrate(finished, corpus, model, scale="nett")


def test_another_model_or_system_prompt_is_refused(
    finished: Result, corpus: Corpus, tmp_path: Path
) -> None:
    config = finished.config.model_copy(update={"system": "Be brief."})
    with pytest.raises(InputError, match=r"another system prompt \('None'\) than .*'Be brief\.'"):
        calibrate(finished, corpus, load_base(config))
    record = read_json(finished.path / "provenance.json")
    record["model"]["sha256"] = "0" * 64
    write_json(tmp_path / "provenance.json", record)
    elsewhere = replace(finished, path=tmp_path)
    with pytest.raises(InputError, match=r"another weights .*run a study with it"):
        calibrate(elsewhere, corpus, load_base(finished.config))


def test_a_run_without_transfer_is_refused(finished: Result, corpus: Corpus) -> None:
    none = replace(finished, table=finished.table.assign(status="failed"))
    with pytest.raises(InputError, match="the run has no contrast transfer to calibrate on"):
        calibrate(none, corpus, load_base(finished.config))


def test_the_command_prints_the_forecast_and_writes_it(
    finished: Result, root: Path, data: Path, tmp_path: Path
) -> None:
    words = [data, "--run", finished.path, "--root", root, "--out", tmp_path / "f.csv"]
    done = invoke(*words, "--limit", 6)
    assert done.exit_code == 0, done.exception
    assert "mine.jsonl, 6 rows: contrast transfer" in done.stdout
    assert "note: 6 of 9 rows are read, evenly spaced" in done.stdout
    written = pd.read_csv(tmp_path / "f.csv")
    assert list(written.columns) == [
        *("target", "trait", "value", "low", "high", "cosine", "coefficient", "text"),
        *("outside", "status"),
    ]
    assert f"{written['value'][0]:+.2f} [{written['low'][0]:+.2f}, " in done.stdout


def test_the_command_says_that_a_calibration_is_poor_and_leaves_with_0(
    finished: Result, root: Path, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.path, folder)
    shuffled(finished).table.to_parquet(folder / "transfer.parquet", index=False)
    done = invoke(data, "--run", folder, "--root", root, "--trait", "sporty", "--json")
    assert done.exit_code == 0, done.exception
    read = json.loads(done.stdout)
    assert read["status"] == "not_estimable"
    assert {row["trait"] for row in read["forecast"]} == {"sporty"}
    assert {row["value"] for row in read["forecast"]} == {None}
    assert "no forecast: " in done.stderr


def test_the_command_refuses_what_cannot_be_forecast(
    finished: Result, data: Path, tmp_path: Path
) -> None:
    def error(*words: Any) -> str:
        done = invoke(*words)
        assert isinstance(done.exception, ConceptNetError)
        return str(done.exception)

    assert "give it as --run DIR; make one with conceptnet-em run" in error(data)
    assert "holds no finished run to calibrate on" in error(data, "--run", tmp_path)
    assert "no trait 'sport'" in error(data, "--run", finished.path, "--trait", "sport")
    assert "no scale 'raw'" in error(data, "--run", finished.path, "--scale", "raw")
    assert "cannot read" in error(tmp_path / "none.jsonl", "--run", finished.path)
