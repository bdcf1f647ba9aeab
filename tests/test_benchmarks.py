"""The speed benchmark: its statistics, its counts of arithmetic, and that all sides get the same.

No peer of the ``bench`` extra is imported here.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conceptnet_em.config import RECIPES, Recipe
from conceptnet_em.encoding import encode
from conceptnet_em.scoring import PackedAnswers
from conceptnet_em.tuning import answer_loss, batches

SPEED = Path(__file__).resolve().parent.parent / "benchmarks" / "speed"
MODULES = ("measure", "roof", "workload", "ours", "peers", "grid", "machine", "cases", "run")
SMALL = RECIPES["lora8"].model_copy(update={"steps": 3})


@pytest.fixture(scope="module")
def speed() -> Iterator[SimpleNamespace]:
    """The benchmark's modules, importable only here."""
    before = dict(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SPEED))
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    for name in MODULES:
        if name in before:
            sys.modules[name] = before[name]
        else:
            sys.modules.pop(name, None)


@pytest.fixture
def bench(speed: SimpleNamespace, tiny: Any, tmp_path: Path, make_corpus: Callable[..., Path]):
    return speed.workload.Bench(
        tiny,
        speed.workload.QUICK,
        tmp_path / "scratch",
        {"float32": {"440": {"p10": 1.0, "p50": 2.0, "p90": 4.0}}},
        root=make_corpus(),
        domains=("alpha-prose", "beta-prose"),
        traits=("neutral", "sporty", "sycophantic"),
    )


# --- ratios ---


def test_the_ratio_is_the_median_over_repeats_and_not_the_ratio_of_medians(speed):
    assert speed.measure.ratios([1, 10, 2], [4, 10, 20]) == (4.0, 1.0, 10.0)  # medians: 10 / 2


@pytest.mark.parametrize(("ours", "peer"), [([1.0], [1.0, 2.0]), ([], [])])
def test_sides_that_ran_a_different_number_of_times_have_no_ratio(speed, ours, peer):
    with pytest.raises(ValueError, match=rf"ran {len(ours)} times and the peer {len(peer)}"):
        speed.measure.ratios(ours, peer)


def test_the_sides_run_in_turns(speed):
    seen = []

    def side(name: str) -> Callable[[int], float]:
        return lambda repeat: seen.append((name, repeat)) or float(repeat)

    found = speed.measure.alternate({"a": side("a"), "b": side("b")}, 2)
    assert seen == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert found == {"a": [0.0, 1.0], "b": [0.0, 1.0]}


def test_a_row_has_the_documented_fields_and_keeps_every_repeat(speed):
    row = speed.measure.row("c", [1, 2, 3], {"loss": 2.0}, peer="p", theirs=[2, 8, 6]).to_dict()
    assert tuple(row)[: len(speed.measure.FIELDS)] == speed.measure.FIELDS
    assert (row["ours_s"], row["peer_s"]) == (2, 6)
    assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == (2.0, 2.0, 4.0)
    assert row["runs"] == {"ours": [1, 2, 3], "peer": [2, 8, 6]}


def test_a_row_without_a_peer_has_no_ratio_rather_than_one(speed):
    row = speed.measure.row("c", [1.0], {}).to_dict()
    assert [row[name] for name in speed.measure.FIELDS[2:7]] == [None] * 5


def test_the_table_shows_ratio_with_spread_and_quality_but_no_inner_tables(speed):
    with_peer = speed.measure.row("a", [1], {"loss": 2.123456, "t": {"x": 1}}, peer="p", theirs=[3])
    lines = speed.measure.table([with_peer, speed.measure.row("b", [2.0], {})]).splitlines()
    assert lines[2] == "| a | 1 | p | 3 | 3.00 (3.00 – 3.00) | loss 2.123 |"
    assert lines[3] == "| b | 2 | – | – | – |  |"


def test_a_curve_differs_by_its_worst_step(speed):
    assert speed.cases.curve_difference([2.0, 1.1], [2.0, 1.0]) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="zip"):
        speed.cases.curve_difference([2.0], [2.0, 1.0])


# --- the same work ---


def test_trl_is_given_the_batches_of_our_loop_in_their_order(speed, bench):
    cell = bench.cells(1)[0]
    order = speed.peers._order(speed.peers.DEFAULTS, cell, SMALL)
    rows = speed.workload.sft_rows(order, answers_only=True)
    ours = [e for batch in batches(cell.encoded, SMALL, seed=cell.seed) for e in batch]
    assert [row["input_ids"] for row in rows] == [list(e.ids) for e in ours]
    assert len(rows) == SMALL.steps * SMALL.batch_size


def test_trl_groups_the_items_of_an_epoch_and_not_copies_of_one_item(speed, bench):
    grouped = speed.peers._with(speed.peers.TUNED, train_sampling_strategy="group_by_length")
    cell = bench.cells(1)[0]
    assert speed.peers._order(grouped, cell, SMALL) == list(cell.encoded)
    assert len({e.ids for e in cell.encoded}) == len(cell.encoded)


def test_trl_supervises_the_tokens_that_our_training_says_it_supervised(speed, bench, tmp_path):
    cells = bench.cells(2)
    logs = speed.ours.ours_train(bench.model, cells, SMALL, out=tmp_path)
    for cell, log in zip(cells, logs, strict=True):
        order = speed.peers._order(speed.peers.TUNED, cell, SMALL)
        rows = speed.workload.sft_rows(order, answers_only=True)
        labels = [label for row in rows for label in row["labels"]]
        assert sum(label != -100 for label in labels) == log.n_tokens
        assert all(len(row["labels"]) == len(row["input_ids"]) for row in rows)


def test_by_default_trl_is_given_no_labels_so_that_it_makes_its_own(speed, bench):
    rows = speed.workload.sft_rows(bench.cells(1)[0].encoded, answers_only=False)
    assert {tuple(row) for row in rows} == {("input_ids",)}


def test_trl_takes_the_numbers_of_the_recipe(speed, bench):
    cell = bench.cells(1)[0]
    same = speed.peers._same(bench.model, SMALL, cell)
    assert same["max_steps"] == SMALL.steps
    assert same["per_device_train_batch_size"] == SMALL.batch_size
    assert same["learning_rate"] == SMALL.learning_rate
    assert same["seed"] == cell.seed
    assert same["train_sampling_strategy"] == "sequential"


def test_the_harness_is_asked_for_the_answers_that_we_score(speed, bench):
    encoded = bench.probes()
    asked = speed.workload.requests(encoded)
    assert [context + answer for context, answer in asked] == [
        list(e.ids[: e.stop]) for e in encoded
    ]
    scores = PackedAnswers(bench.model, encoded, block=0, batch_size=4).score()
    assert [len(answer) for _, answer in asked] == [parts[0].n_tokens for parts in scores]


def test_probes_hold_every_trait_of_every_item(speed, bench):
    assert len(bench.probes()) == speed.workload.QUICK.probe_items * 3
    assert len({e.ids[: e.start] for e in bench.probes()}) == speed.workload.QUICK.probe_items


def test_the_group_s_seconds_are_shared_out_by_tokens(speed, bench, monkeypatch):
    race = speed.cases._Race(bench, bench.recipe("lora8"))
    monkeypatch.setattr(race, "_group", lambda out: None)
    monkeypatch.setattr(speed.cases, "seconds", lambda work: 6.0)
    each = [race.ours(repeat) for repeat in range(len(race.cells))]
    tokens = [cell.tokens(race.recipe) for cell in race.cells]
    assert sum(each) == pytest.approx(6.0)
    assert each[1] / each[0] == pytest.approx(tokens[1] / tokens[0])


def test_the_tuned_peer_takes_the_fastest_of_what_was_tried_and_skips_what_fails(
    speed, bench, monkeypatch
):
    def trial(_model: Any, sft: Any, *_rest: Any) -> float:
        if sft.options.get("padding_free"):
            return float("inf")
        return 9.0 - 2 * (sft.attention == "eager") - (not sft.options["bf16"])

    monkeypatch.setattr(speed.peers, "_trial", trial)
    best, took = speed.peers.tuned(bench.model, bench.cells(1)[0], SMALL, out=bench.scratch)
    assert (best.attention, best.options["bf16"]) == ("eager", False)
    assert "train_sampling_strategy" not in best.options
    assert took[best.label] == min(took.values()) == 6.0
    assert len(took) == 5


def test_the_repository_is_taken_off_the_search_path(speed, monkeypatch):
    monkeypatch.setattr(sys, "path", ["", str(speed.peers.ROOT), "/elsewhere"])
    speed.peers.clean_path()
    assert sys.path == ["/elsewhere"]


def test_a_final_loss_is_that_of_the_adapter_and_not_of_the_base(speed, bench, tmp_path):
    cell = bench.cells(1)[0]
    longer = RECIPES["lora8"].model_copy(update={"steps": 12})
    speed.ours.ours_train(bench.model, [cell], longer, out=tmp_path)
    untrained = speed.ours.loss_now(bench.model, cell)
    assert speed.ours.final_loss(bench.model, cell, tmp_path / cell.name) < untrained - 0.05


# --- arithmetic ---


def counted(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def recipe(**settings: Any) -> Recipe:
    return RECIPES["lora8"].model_copy(update=settings)


@pytest.mark.parametrize(
    "chosen",
    [recipe(), recipe(rank=1, modules=("down_proj",), layers=(1,)), recipe(modules=("o_proj",))],
    ids=["everywhere", "one module of one layer", "one module of each layer"],
)
def test_a_training_step_s_arithmetic_is_what_torch_counts(speed, tiny, chosen):
    batch = [encode(tiny, "What of it?", "Not much, I would say, but who am I to say so.")] * 3
    with tiny.fitted(chosen, seed=0):
        found = counted(lambda: answer_loss(tiny, batch)[0].backward())
    rows = [(len(e.ids), e.n_answer + 1) for e in batch]
    expected = speed.roof.training_flops(tiny.config, chosen, [rows])
    assert found == pytest.approx(expected, rel=0.02)


def test_a_scoring_pass_s_arithmetic_is_what_torch_counts(speed, tiny):
    encoded = [encode(tiny, "What of it?", answer) for answer in ("Not much.", "Too much.")]
    assert encoded[0].n_answer == encoded[1].n_answer  # so that nothing is padded
    found = counted(lambda: PackedAnswers(tiny, encoded, block=0, batch_size=2).score())
    asked = speed.workload.questions(encoded)
    assert found == pytest.approx(speed.roof.scoring_flops(tiny.config, asked), rel=1e-6)


def test_frozen_blocks_are_counted_once_for_each_conversation_when_shared(speed, tiny):
    chosen = recipe(rank=1, modules=("down_proj",), layers=(1,))
    steps = [[(40, 10), (30, 9)], [(40, 10)], [(30, 9)]]
    plain = speed.roof.training_flops(tiny.config, chosen, steps)
    shared = speed.roof.training_flops(tiny.config, chosen, steps, shared=True)
    assert plain - shared == pytest.approx(speed.roof._forward(tiny.config, 70, 40**2 + 30**2, 1))


def test_the_roof_is_measured_for_both_dtypes_and_every_row_count(speed, tiny):
    found = speed.roof.measure(tiny.config, rows=(4, 8), repeats=3)
    assert {name: list(rates) for name, rates in found.items()} == {
        "bfloat16": ["4", "8"],
        "float32": ["4", "8"],
    }
    rates = found["float32"]["8"]
    assert 0 < rates["p10"] <= rates["p50"] <= rates["p90"]
    assert speed.roof.highest(found, torch.float32) >= rates["p90"]


def test_the_share_of_the_roof_is_of_the_model_s_own_dtype(speed, bench):
    assert bench.of_roof(6e9, 3.0) == {"gflops": 2.0, "of_roof": 0.5}


# --- inference and the command ---


@pytest.mark.parametrize("kind", ["each trait", "traits stacked"])
def test_the_inference_case_finds_the_slope_that_was_put_in_and_not_the_other(speed, kind):
    found = speed.grid.timed(kind, domains=12, traits=2, permutations=200, repeats=2)
    assert len(found["seconds"]) == 2
    assert found["p"]["symmetric"] < 0.05 < found["p"]["directed"]


def test_the_made_up_similarity_that_is_called_symmetric_is(speed):
    for frame in speed.grid.grid(6, 2).similarities["symmetric"].values():
        assert np.array_equal(frame, frame.T)


def test_the_memory_of_the_inference_case_is_not_that_of_the_process_that_started_it(speed):
    ballast = np.ones(60_000_000)  # 480 MB, more than the small grid takes
    found = speed.cases._grid("each trait", 9, 99, 1)
    assert 0.05 < found["peak_gb"] < ballast.nbytes / 1e9


@pytest.fixture
def race(speed: SimpleNamespace, tiny_folder: Path, tmp_path: Path, monkeypatch: Any) -> Any:
    """Return a function that runs the command on the tiny model with made-up cases."""

    def broken(_bench: Any) -> list[Any]:
        raise ModuleNotFoundError("No module named 'trl'")

    cases = {"good": lambda _: [speed.measure.row("good", [1.0], {"x": 1})], "broken": broken}
    for home in (speed.run, speed.cases):
        monkeypatch.setattr(home, "CASES", cases)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def go(*names: str) -> Any:
        out = tmp_path / "results.json"
        arguments = ["--quick", "--model", str(tiny_folder), "--device", "cpu", "--out", str(out)]
        try:
            speed.run.main([*arguments, "--cases", *names])
        finally:
            assert out.is_file()
            go.record = json.loads(out.read_text("utf-8"))
        return go.record

    return go


def test_the_file_says_machine_commit_date_and_results(speed, race, capsys):
    record = race("good")
    assert {"machine", "commit", "date", "results"} <= set(record)
    assert set(speed.measure.FIELDS) <= set(record["results"][0])
    machine = record["machine"]
    assert {"cpu", "cores", "amx", "avx512_bf16", "threads", "gemm_gflops"} <= set(machine)
    assert machine["versions"]["torch"] == torch.__version__
    assert set(machine["gemm_gflops"]["bfloat16"]) == {str(n) for n in speed.roof.ROWS}
    assert "| good | 1 |" in capsys.readouterr().out


def test_a_case_that_fails_is_named_and_the_others_are_kept(race):
    with pytest.raises(SystemExit, match="broken"):
        race("broken", "good")
    assert [row["case"] for row in race.record["results"]] == ["good"]
    assert race.record["failed"] == {"broken": "ModuleNotFoundError: No module named 'trl'"}


def test_a_quick_run_does_not_overwrite_the_record(speed):
    asked = speed.run._asked(["--quick"])
    assert asked.out.parent != SPEED
    assert speed.run._asked([]).out == SPEED / "results.json"


# --- gradients ---


def test_our_gradients_are_those_of_the_peer(speed, bench):
    (row,) = speed.cases.gradients(bench)
    assert row.quality["relative_difference_max"] < 1e-4
    assert row.quality["of_a_training_epoch"] > 0
    assert row.quality["cells"] == 3


# --- generation ---


def test_our_answers_are_those_of_generate_and_the_likeliest(speed, bench):
    rows = speed.cases.generation(bench)
    assert [row.case for row in rows] == [
        *["generation, one adapter"] * 2,
        *["generation, 2 organisms in one pass"] * 2,
    ]
    assert [row.peer.split(" (")[0] for row in rows[:2]] == ["generate defaults", "generate tuned"]
    for row in rows:
        assert row.quality["equal_fp32"] == 1.0  # the tiny model is in float32 too
        assert 0 < row.quality["leading_fp32"] <= bench.sizes.new_tokens
        assert row.quality["likeliest"] == 1.0
        assert row.quality["questions"] == bench.sizes.prompts
    rates = [row.quality["tokens_s_ours"] * row.ours_s for row in rows]
    assert max(rates) <= bench.sizes.prompts * bench.sizes.new_tokens + 1e-6


def test_tokens_that_are_not_the_likeliest_are_found_out(speed, bench):
    adapters = speed.cases._adapters(bench, 1)
    asked, recipe = bench.prompts(), bench.recipe("lora8")
    _, (answers,) = speed.ours.ours_generate(bench.model, recipe, adapters, asked, 4)
    first = answers[0].ids
    wrong = speed.workload.Answered((*first[:-1], (first[-1] + 1) % 200 + 3), answers[0].stopped)
    share = speed.ours.likeliest(bench.model, adapters[0], asked, [wrong, *answers[1:]])
    assert share == 1 - 1 / sum(answer.count for answer in answers)


def test_an_answer_ends_where_its_stop_token_stands(speed):
    stops = frozenset({0, 9})
    assert speed.peers.until_stop([5, 6, 9, 0, 0], stops).ids == (5, 6)
    assert speed.peers.until_stop([5, 6, 9, 0, 0], stops).count == 3
    assert speed.peers.until_stop([5, 6], stops) == speed.workload.Answered((5, 6), False)


def test_answers_part_at_the_first_token_that_differs(speed):
    answered = speed.workload.Answered
    one, other = answered((1, 2, 3), False), answered((1, 2, 4, 5), True)
    assert one.leading(other) == 2
    assert one.leading(answered((1, 2, 3, 7), True)) == 3
    found = speed.cases._alike("peer", [one, one], [one, other])
    assert found == {"equal_peer": 0.5, "leading_peer": 2.5}


def test_the_tuned_generate_merges_or_not_and_then_tries_attention_and_size(
    speed, bench, monkeypatch
):
    made = []

    class Stub:
        def __init__(self, _model: Any, name: str, **how: Any) -> None:
            self.label, self.how = f"{name} {sorted(how.items())}", how

        def answer(self, *_: Any) -> None:
            made.append(self.how)

    monkeypatch.setattr(speed.peers, "Generator", Stub)

    def timed(work: Callable[[], object]) -> float:
        work()
        how = made[-1]
        return (how["attention"] == "sdpa") + how["batch_size"] - 0.5 * how["merged"]

    monkeypatch.setattr(speed.cases, "seconds", timed)
    exact, best, trials = speed.cases._generators(bench, [[1], [2]], Path("adapter"))
    assert (exact.how["dtype"], exact.how["batch_size"], exact.how["merged"]) == (
        "float32",
        None,
        False,
    )
    assert (best.how["attention"], best.how["batch_size"], best.how["merged"]) == ("eager", 1, True)
    assert len(trials) == len(made) == 5  # merged or not, then 2 attentions × 2 sizes less one
