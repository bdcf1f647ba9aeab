"""The cases: what is timed, beside whom, and which numbers show that the answers are the same."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grid
import numpy as np
import ours
import peers
import roof
import torch
from measure import OURS, Row, Side, alternate, row, seconds
from workload import Answered, Bench, Cell, questions

from conceptnet_em.config import Recipe
from conceptnet_em.encoding import Encoded, encode_prompt
from conceptnet_em.qap import mantel, qap
from conceptnet_em.resources import PACKAGE
from conceptnet_em.tuning import TrainingLog

GOALS = {16: "under 1 s", 50: "under 30 s and 2 GB"}
"""What the inference cases are held against, by number of domains."""


# --- training ---


def training(bench: Bench, name: str) -> list[Row]:
    """Seconds for one organism: ours in a group, TRL with PEFT as it comes and as tuned."""
    race = _Race(bench, bench.recipe(name))
    chosen, trials = peers.tuned(bench.model, race.cells[0], bench.trial(name), out=bench.scratch)
    weights = {
        sft: peers.base(bench.model, dtype=sft.dtype, attention=sft.attention)
        for sft in (peers.DEFAULTS, chosen)
    }
    _warm_trl(bench, weights, race.cells[0], bench.trial(name))
    first = race.ours(0)
    sides = {OURS: race.ours} | {
        sft.label: race.peer(sft, network) for sft, network in weights.items()
    }
    times = alternate(sides, bench.sizes.repeats)
    shared = race.quality(times[OURS]) | {"ours_first_s": first}
    found = []
    for sft in weights:
        quality = shared | {"loss_peer": race.loss_of(sft)}
        if sft is chosen:
            quality["trials_s"] = {label: round(took, 2) for label, took in trials.items()}
        label = f"training {name}"
        found.append(row(label, times[OURS], quality, peer=sft.label, theirs=times[sft.label]))
    return found


def _warm_trl(bench: Bench, weights: Any, cell: Cell, recipe: Recipe) -> None:
    for sft, network in weights.items():
        peers.trl_train(bench.model, network, sft, cell, recipe, out=bench.scratch / "warm")


@dataclass
class _Race:
    """The organisms of one training case, what each side made of them, and how it compares."""

    bench: Bench
    recipe: Recipe
    logs: list[TrainingLog] = field(default_factory=list)
    trained: dict[str, dict[int, Path]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        cells = self.bench.cells(self.bench.sizes.group)
        size = self.bench.sizes.group or ours.group_size(self.bench.model, cells, self.recipe)
        self.cells = cells[:size]
        self.place = self.bench.scratch / self.recipe.name

    def ours(self, repeat: int) -> float:
        """Train the group; return the seconds that fall to the organism the peers train now."""
        out = self.place / OURS
        took = seconds(lambda: self._group(out))
        tokens = [cell.tokens(self.recipe) for cell in self.cells]
        return took * tokens[repeat % len(tokens)] / sum(tokens)

    def _group(self, out: Path) -> None:
        self.logs = ours.ours_train(self.bench.model, self.cells, self.recipe, out=out)

    def peer(self, sft: peers.Sft, network: torch.nn.Module) -> Callable[[int], float]:
        """Return the side on which TRL trains one organism of the group in each repeat."""

        def side(repeat: int) -> float:
            index = repeat % len(self.cells)
            cell = self.cells[index]
            out = self.place / sft.dtype / cell.name
            self.trained.setdefault(sft.label, {})[index] = out
            return peers.trl_train(self.bench.model, network, sft, cell, self.recipe, out=out)

        return side

    def loss_of(self, sft: peers.Sft) -> float:
        """Return the mean final loss of the peer's organisms, by our own measure."""
        return self._mean_loss(self.trained[sft.label])

    def _mean_loss(self, adapters: dict[int, Path]) -> float:
        model = self.bench.model
        return statistics.fmean(
            ours.final_loss(model, self.cells[k], place) for k, place in adapters.items()
        )

    def quality(self, times: Sequence[float]) -> dict[str, Any]:
        """Return our final loss, how far our curve is from the plain path's, and the arithmetic."""
        used = next(iter(self.trained.values()))
        mine = {k: self.place / OURS / self.cells[k].name for k in used}
        model, recipe = self.bench.model, self.recipe
        plain = ours.plain_train(model, self.cells[0], recipe, out=self.place / "plain")
        shared = ours.shares_frozen(model, recipe)
        work = [self.cells[k].flops(recipe, model.config, shared=shared) for k in used]
        return {
            "organisms_together": len(self.cells),
            "loss_base": statistics.fmean(ours.loss_now(model, self.cells[k]) for k in used),
            "loss_ours": self._mean_loss(mine),
            "curve_difference": curve_difference(self.logs[0].losses, plain.losses),
            **self.bench.of_roof(statistics.fmean(work), statistics.median(times)),
        }


def curve_difference(found: Sequence[float], reference: Sequence[float]) -> float:
    """Return the greatest relative difference of two loss curves at any step.

    Raises:
        ValueError: the curves differ in length.
    """
    pairs = zip(found, reference, strict=True)
    return max(abs(a - b) / abs(b) for a, b in pairs)


# --- scoring ---


def scoring(bench: Bench) -> list[Row]:
    """Seconds for all probe answers under one adapter: ours and lm-evaluation-harness.

    Ours comes twice where a run would score several organisms in one pass: one adapter alone, and
    several, the seconds divided by their number.
    """
    model, encoded = bench.model, bench.probes()
    adapters = _adapters(bench, bench.sizes.stacked or ours.abreast(model))
    exact, tuned, trials = _harnesses(bench, encoded, adapters[0])
    several = f"{len(adapters)} adapters in one pass"
    mine = {"one adapter": adapters[:1], several: adapters}
    if len(adapters) == 1:
        del mine[several]
    found: dict[str, np.ndarray] = {}

    def our_side(name: str, _repeat: int) -> float:
        worn = mine[name]
        took, found[name] = ours.ours_score(model, bench.recipe("lora8"), worn, encoded)
        return took / len(worn)

    def their_side(harness: peers.Harness, _repeat: int) -> float:
        return seconds(lambda: found.update({harness.label: harness.score(encoded)}))

    sides: dict[str, Side] = {name: partial(our_side, name) for name in mine}
    first = {name: sides[name](0) for name in mine}
    sides |= {h.label: partial(their_side, h) for h in (exact, tuned)}
    times = alternate(sides, bench.sizes.repeats)
    found |= {name: found[name][0] for name in mine}
    found[PLAIN] = ours.plain_score(model, encoded, adapters[0])
    found[BASE] = ours.plain_score(model, encoded)
    work = _scoring_work(bench, encoded)
    rows = []
    for name in mine:
        shared = {
            **bench.of_roof(work, statistics.median(times[name])),
            "answers": len(encoded),
            "ours_first_s": first[name],
        }
        for harness in (exact, tuned):
            apart = _agreement(encoded, found, name, harness.label, exact.label)
            tried = {"trials_s": trials} if harness is tuned else {}
            quality = {**apart, **shared, **tried}
            theirs = times[harness.label]
            rows.append(
                row(f"scoring, {name}", times[name], quality, peer=harness.label, theirs=theirs)
            )
    return rows


PLAIN = "one answer at a time, same weights"
BASE = "the same without the adapter"


def _agreement(
    encoded: Sequence[Encoded], found: Mapping[str, np.ndarray], mine: str, peer: str, exact: str
) -> dict[str, float]:
    """Return how far scores lie apart, and for scale how far the adapter moves them."""
    sizes = np.array([e.n_answer for e in encoded])
    pairs = {
        "ours_plain": (mine, PLAIN),
        "ours_peer": (mine, peer),
        "ours_fp32": (mine, exact),
        "peer_fp32": (peer, exact),
        "adapter_base": (PLAIN, BASE),
    }
    return {
        key: value
        for name, (a, b) in pairs.items()
        for key, value in _apart(name, found[a], found[b], sizes).items()
    }


def _adapters(bench: Bench, count: int) -> list[Path]:
    """Return adapters of so many organisms, fully trained; the peer wears the first."""
    cells, out = bench.cells(count), bench.scratch / f"worn-{count}"
    if not out.is_dir():
        ours.ours_train(bench.model, cells, bench.recipe("lora8"), out=out)
    return [out / cell.name for cell in cells]


def _harnesses(
    bench: Bench, encoded: Sequence[Encoded], adapter: Path
) -> tuple[peers.Harness, peers.Harness, dict[str, float]]:
    """Return the harness as it comes, the fastest bfloat16 one, and what each trial took."""
    made = partial(peers.Harness, bench.model, adapter=adapter)
    exact = made("lm-eval defaults", dtype="float32", attention="sdpa", batch_size=1)
    trials: dict[str, float] = {}
    best = exact
    for attention in ("sdpa", "eager"):
        for size in bench.sizes.batch_sizes:
            harness = made("lm-eval tuned", dtype="bfloat16", attention=attention, batch_size=size)
            trials[harness.label] = seconds(partial(harness.score, encoded))
            if trials[harness.label] == min(trials.values()):
                best = harness
    return exact, best, {label: round(took, 2) for label, took in trials.items()}


def _apart(name: str, a: np.ndarray, b: np.ndarray, sizes: np.ndarray) -> dict[str, float]:
    """Return rms and greatest difference of two sets of scores, nats/token."""
    each = np.abs(a - b) / sizes
    return {f"{name}_rms": float(np.sqrt(np.mean(each**2))), f"{name}_max": float(each.max())}


def _scoring_work(bench: Bench, encoded: Sequence[Encoded]) -> float:
    asked = questions(encoded)
    return roof.scoring_flops(bench.model.config, asked, recipe=bench.recipe("lora8"))


# --- generation ---


def generation(bench: Bench) -> list[Row]:
    """Seconds for greedy answers to the probe questions: ours and transformers' ``generate``.

    Ours comes twice: one adapter alone, and several organisms answering in one pass, the seconds
    divided by their number.
    """
    model, sizes, asked = bench.model, bench.sizes, bench.prompts()
    prompts = [encode_prompt(model, question)[0] for question in asked]
    adapters = _adapters(bench, sizes.answering)
    exact, tuned, trials = _generators(bench, prompts, adapters[0])
    mine = {"one adapter": adapters[:1], f"{len(adapters)} organisms in one pass": adapters}
    found: dict[str, list[list[Answered]]] = {}

    def our_side(name: str, _repeat: int) -> float:
        worn, recipe = mine[name], bench.recipe("lora8")
        took, found[name] = ours.ours_generate(model, recipe, worn, asked, sizes.new_tokens)
        return took / len(worn)

    def their_side(peer: peers.Generator, _repeat: int) -> float:
        work = partial(peer.answer, prompts, sizes.new_tokens)
        return seconds(lambda: found.update({peer.label: [work()]}))

    sides: dict[str, Side] = {name: partial(our_side, name) for name in mine}
    first = {name: sides[name](0) for name in mine}
    sides |= {peer.label: partial(their_side, peer) for peer in (exact, tuned)}
    times = alternate(sides, sizes.repeats)
    rows = []
    for name in mine:
        certain = statistics.fmean(
            ours.likeliest(model, worn, asked, own)
            for worn, own in zip(mine[name], found[name], strict=True)
        )
        shared = {"likeliest": certain, "questions": len(prompts), "ours_first_s": first[name]}
        for peer in (exact, tuned):
            quality = {
                **_alike("peer", found[name][0], found[peer.label][0]),
                **_alike("fp32", found[name][0], found[exact.label][0]),
                "tokens_s_ours": _rate(found[name], times[name]),
                "tokens_s_peer": _rate(found[peer.label], times[peer.label]),
                **shared,
                **({"trials_s": trials} if peer is tuned else {}),
            }
            label, theirs = f"generation, {name}", times[peer.label]
            rows.append(row(label, times[name], quality, peer=peer.label, theirs=theirs))
    return rows


def _generators(
    bench: Bench, prompts: Sequence[Sequence[int]], adapter: Path
) -> tuple[peers.Generator, peers.Generator, dict[str, float]]:
    """Return ``generate`` as it comes, the fastest bfloat16 one, and what each trial took.

    Whether to merge the adapter is tried first, then attention and batch size on the better.
    """
    made = partial(peers.Generator, bench.model, adapter=adapter)
    exact = made("generate defaults", **_plainly("float32", "sdpa", None, merged=False))
    trials: dict[str, float] = {}
    best: list[tuple[float, peers.Generator]] = []

    def tried(attention: str, size: int, *, merged: bool) -> float:
        peer = made("generate tuned", **_plainly("bfloat16", attention, size, merged=merged))
        if peer.label not in trials:
            work = partial(peer.answer, prompts, bench.sizes.new_tokens)
            trials[peer.label] = seconds(work)
            best[:] = [min([*best, (trials[peer.label], peer)], key=lambda one: one[0])]
        return trials[peer.label]

    sizes = sorted({min(size, len(prompts)) for size in bench.sizes.generate_sizes})
    ways = {merged: tried("sdpa", sizes[-1], merged=merged) for merged in (False, True)}
    for attention in ("sdpa", "eager"):
        for size in sizes:
            tried(attention, size, merged=ways[True] < ways[False])
    return exact, best[0][1], {label: round(took, 2) for label, took in trials.items()}


def _plainly(dtype: str, attention: str, size: int | None, *, merged: bool) -> dict[str, Any]:
    return {"dtype": dtype, "attention": attention, "batch_size": size, "merged": merged}


def _alike(name: str, a: Sequence[Answered], b: Sequence[Answered]) -> dict[str, float]:
    """Return the share of equal answers and the mean number of equal leading tokens."""
    pairs = list(zip(a, b, strict=True))
    return {
        f"equal_{name}": statistics.fmean(x == y for x, y in pairs),
        f"leading_{name}": statistics.fmean(x.leading(y) for x, y in pairs),
    }


def _rate(found: Sequence[Sequence[Answered]], times: Sequence[float]) -> float:
    """Return tokens a second; seconds are those of one organism."""
    tokens = statistics.fmean(sum(answer.count for answer in own) for own in found)
    return tokens / statistics.median(times)


# --- activations ---


def activations(bench: Bench) -> list[Row]:
    """Seconds for the mean states of questions in all layers: ours and a plain loop."""
    model, questions = bench.model, bench.questions()
    found: dict[str, np.ndarray] = {}
    peer = "transformers, output_hidden_states=True, batch 16, same weights"
    sides = {
        OURS: lambda _: seconds(lambda: found.update({OURS: ours.ours_states(model, questions)})),
        peer: lambda _: seconds(lambda: found.update({peer: peers.plain_states(model, questions)})),
    }
    alternate(sides, 1)
    times = alternate(sides, bench.sizes.repeats)
    mine, theirs = found[OURS][:, :-1], found[peer][:, :-1]  # their last is after the final norm
    apart = np.linalg.norm(mine - theirs, axis=-1) / np.linalg.norm(theirs, axis=-1)
    quality = {
        "relative_difference_max": float(apart.max()),
        "difference_max": float(np.abs(mine - theirs).max()),
        "questions": len(questions),
    }
    return [row("activations", times[OURS], quality, peer=peer, theirs=times[peer])]


# --- gradients ---

SEEDS = (1, 2, 3)


def gradients(bench: Bench) -> list[Row]:
    """Seconds for one cell's gradients at the start, three seeds: ours, and autograd under PEFT."""
    model, recipe, cells = bench.model, bench.recipe("lora8"), bench.cells(len(bench.traits))
    found: dict[str, list[np.ndarray]] = {}
    peer = "PEFT and autograd, one cell and seed after the other, batch 4, same weights"
    sides: dict[str, Side] = {
        OURS: lambda _: seconds(
            lambda: found.update({OURS: ours.ours_gradients(model, cells, recipe, SEEDS)})
        ),
        peer: lambda _: seconds(
            lambda: found.update({peer: peers.peft_gradients(model, cells, recipe, SEEDS)})
        ),
    }
    alternate(sides, 1)
    times = alternate(sides, bench.sizes.repeats)
    steps = max(1, len(cells[0].encoded) // recipe.batch_size)
    epoch = recipe.model_copy(update={"steps": steps})
    trained = seconds(lambda: ours.ours_train(model, cells, epoch, out=bench.scratch / "epoch"))
    per_cell = {name: [one / len(cells) for one in some] for name, some in times.items()}
    quality = {
        "relative_difference_max": max(
            float(np.linalg.norm(a - b) / np.linalg.norm(b))
            for a, b in zip(found[OURS], found[peer], strict=True)
        ),
        "of_a_training_epoch": statistics.median(per_cell[OURS]) / (trained / len(cells)),
        "cells": len(cells),
        "seeds": len(SEEDS),
    }
    return [row("gradients", per_cell[OURS], quality, peer=peer, theirs=per_cell[peer])]


# --- inference ---


def inference(bench: Bench) -> list[Row]:
    """Seconds for a grid's slopes: 10 traits, 2 similarities, 1 covariate; there is no peer."""
    rows = []
    for domains in bench.sizes.grids:
        for kind in grid.KINDS:
            found = _grid(kind, domains, bench.sizes.permutations, bench.sizes.repeats)
            quality = {"peak_gb": found["peak_gb"]}
            quality |= {f"p_{name}": p for name, p in found["p"].items()}
            quality |= {"goal": GOALS[domains]} if domains in GOALS else {}
            rows.append(row(f"inference {domains} × {domains}, {kind}", found["seconds"], quality))
    return rows


def _grid(kind: str, domains: int, permutations: int, repeats: int) -> Any:
    command = [sys.executable, str(Path(grid.__file__)), "--kind", kind]
    command += ["--domains", str(domains), "--permutations", str(permutations)]
    command += ["--repeats", str(repeats)]
    same = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}  # the library that is raced here
    done = subprocess.run(command, capture_output=True, text=True, env=same)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-500:]}")
    return json.loads(done.stdout)


def mantel_test(bench: Bench) -> list[Row]:
    """Seconds for one Mantel test on one symmetric matrix: ours without effects, and skbio's."""
    count = bench.sizes.permutations - 1
    given = grid.grid(bench.sizes.grids[0], 1)
    (x,), (drawn,) = given.similarities["symmetric"].values(), given.transfers.values()
    x, y = x * (1 - np.eye(len(x))), (drawn + drawn.T) / 2 * (1 - np.eye(len(x)))
    found: dict[str, Any] = {}

    def mine(_repeat: int) -> float:
        options: dict[str, Any] = {"effects": False, "interval": None, "permutations": count}
        return seconds(lambda: found.update(p_ours=qap(y, x, **options).p))

    def theirs(repeat: int) -> float:
        a, b = x.to_numpy(), y.to_numpy()
        work = partial(peers.skbio_mantel, a, b, permutations=count, seed=repeat)
        return seconds(lambda: found.update(peer=work()))

    peer = f"scikit-bio mantel, {count} permutations"
    sides = {OURS: mine, peer: theirs}
    alternate(sides, 1)
    times = alternate(sides, bench.sizes.repeats)
    r, p = found["peer"]
    quality = {"r_difference": abs(mantel(x, y) - r), "p_ours": found["p_ours"], "p_peer": p}
    return [row("mantel", times[OURS], quality, peer=peer, theirs=times[peer])]


# --- scaling ---


def scaling(bench: Bench) -> list[Row]:
    """Seconds per organism of the training stage of whole runs with more and more organisms."""
    rows = []
    for traits, domains in bench.sizes.organisms:
        count = traits * domains
        took = ours.run_training(
            bench.scratch / f"run-{count}",
            root=bench.root,
            model=bench.model.name,
            traits=bench.traits[:traits],
            domains=bench.domains[:domains],
            recipe=bench.recipe("lora8"),
        )
        quality = {"organisms": count, "all_s": took}
        name = f"scaling, {count} organism" + "s" * (count > 1)
        rows.append(row(name, [took / count], quality))
    return rows


CASES: dict[str, Callable[[Bench], list[Row]]] = {
    "training-lora8": lambda bench: training(bench, "lora8"),
    "training-rank1": lambda bench: training(bench, "rank1"),
    "scoring": scoring,
    "generation": generation,
    "activations": activations,
    "gradients": gradients,
    "inference": inference,
    "mantel": mantel_test,
    "scaling": scaling,
}
