"""The only place where the benchmark calls our engine, so that there is one place to change."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import seconds
from workload import Answered, Cell

from conceptnet_em.activations import question_states
from conceptnet_em.config import Recipe
from conceptnet_em.encoding import Encoded, encode_prompt
from conceptnet_em.generation import generate_stack
from conceptnet_em.gradients import start_gradients
from conceptnet_em.groups import fitting_rows
from conceptnet_em.models import LanguageModel
from conceptnet_em.progress import Watcher
from conceptnet_em.scoring import AnswerScore, PackedAnswers, score
from conceptnet_em.sharing import can_skip
from conceptnet_em.stacking import save_adapter, wearing_all
from conceptnet_em.tuning import TrainingLog, answer_loss, train, train_group


def ours_train(
    model: LanguageModel, cells: Sequence[Cell], recipe: Recipe, *, out: Path
) -> list[TrainingLog]:
    """Train the organisms of one group together and save each adapter into ``out/<name>``."""
    encoded, seeds = [cell.encoded for cell in cells], [cell.seed for cell in cells]
    found = train_group(model, encoded, recipe, seeds=seeds)
    for cell, trained in zip(cells, found, strict=True):
        save_adapter(trained.tensors, recipe, model, _made(out / cell.name))
    return [trained.log for trained in found]


def group_size(model: LanguageModel, cells: Sequence[Cell], recipe: Recipe) -> int:
    """Return how many of these organisms a run would train together on this machine."""
    longest = max(len(e.ids) for cell in cells for e in cell.encoded)
    return max(1, min(fitting_rows(model, recipe, longest) // recipe.batch_size, len(cells)))


def plain_train(model: LanguageModel, cell: Cell, recipe: Recipe, *, out: Path) -> TrainingLog:
    """Train one organism alone by the plain path, the reference."""
    return train(model, cell.encoded, recipe, out=_made(out / cell.name), seed=cell.seed)


def shares_frozen(model: LanguageModel, recipe: Recipe) -> bool:
    """Say whether our training runs the blocks below the lowest adapted one only once."""
    return can_skip(model, recipe.layer_numbers(model.n_layers)[0])


def final_loss(model: LanguageModel, cell: Cell, adapter: Path) -> float:
    """Return the mean loss of all the cell's answer and stop tokens under a saved adapter.

    The adapter may come from anybody; the loss is always this one, nats/token.
    """
    with model.wearing(adapter):
        return loss_now(model, cell)


def loss_now(model: LanguageModel, cell: Cell) -> float:
    """Return the same under what the model wears now."""
    with torch.inference_mode():
        return float(answer_loss(model, cell.encoded)[0])


def ours_score(
    model: LanguageModel, recipe: Recipe, adapters: Sequence[Path], encoded: Sequence[Encoded]
) -> tuple[float, np.ndarray]:
    """Score answers under several adapters in one pass, packed behind their questions.

    Returns:
        Seconds with the adapters on the model already, and ``(adapters, n)`` summed
        log-probabilities of the answers, nats.
    """
    found: list[list[list[AnswerScore]]] = []

    def work() -> None:
        packed = PackedAnswers(model, encoded, block=0, batch_size=16)
        found.extend(packed.score_stack(len(adapters)))

    with wearing_all(model, recipe, adapters):
        took = seconds(work)
    return took, np.array([_sums(own) for own in found])


def abreast(model: LanguageModel) -> int:
    """Return how many organisms a run scores in one pass here; 8 stand for many on a GPU."""
    return 1 if model.device.type == "cpu" else 8


def plain_score(
    model: LanguageModel, encoded: Sequence[Encoded], adapter: Path | None = None
) -> np.ndarray:
    """Return ``(n,)`` sums of answers scored one at a time, under one adapter or none."""
    with model.wearing(adapter) if adapter else nullcontext():
        return _sums(score(model, encoded, batch_size=1))


def _sums(found: Sequence[Sequence[AnswerScore]]) -> np.ndarray:
    return np.array([next(s.logprob for s in parts if s.part == "all") for parts in found])


def ours_generate(
    model: LanguageModel,
    recipe: Recipe,
    adapters: Sequence[Path],
    questions: Sequence[str],
    new_tokens: int,
) -> tuple[float, list[list[Answered]]]:
    """Answer questions greedily under several adapters in one pass.

    Returns:
        Seconds with the adapters on the model already (tokenising included), and the answers,
        organism by organism.
    """
    found: list[Any] = []

    def work() -> None:
        how = {"temperature": 0.0, "max_tokens": new_tokens}
        found.extend(generate_stack(model, questions, len(adapters), **how))

    with wearing_all(model, recipe, adapters):
        took = seconds(work)
    return took, [[Answered(a.ids, a.ended == "stop") for (a,) in own] for own in found]


def likeliest(
    model: LanguageModel, adapter: Path, questions: Sequence[str], answers: Sequence[Answered]
) -> float:
    """Return the share of tokens that a plain pass over prompt and answer finds the likeliest.

    No cache, one conversation at a time, the same weights under the same adapter; the stop token
    counts where the answer ended by one.
    """
    same = []
    with model.wearing(adapter), torch.inference_mode():
        for question, answer in zip(questions, answers, strict=True):
            prompt = encode_prompt(model, question)[0]
            ids = torch.tensor([[*prompt, *answer.ids]], device=model.device)
            at = torch.arange(len(prompt) - 1, len(prompt) - 1 + answer.count, device=model.device)
            inputs = model.inputs(ids, torch.ones_like(ids))
            best = model.answer_logits(inputs, torch.zeros_like(at), at).argmax(dim=-1).tolist()
            same += [a == b for a, b in zip(best, answer.ids, strict=False)]
            same += [best[-1] in model.stop_ids] * answer.stopped
    return float(np.mean(same))


def ours_states(model: LanguageModel, questions: Sequence[str]) -> np.ndarray:
    """Return ``(n, layers + 1, d)``, the mean hidden states of questions in all layers."""
    return question_states(model, questions, range(model.n_layers + 1))


class _Trained(Exception):
    """Ends a run once its training stage is over."""


class _UntilTrained(Watcher):
    """Lets a run go on until its organisms are trained, and keeps how long that took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float | None] = {}
        self._stage = ""

    def stage(self, name: str, total: int) -> None:
        if self._stage.startswith("train"):
            raise _Trained
        self._stage = name

    def end(self, seconds: float | None) -> None:
        self.seconds[self._stage] = seconds


def run_training(out: Path, **settings: Any) -> float:
    """Run a study with ``conceptnet_em.run`` until all organisms are trained and committed.

    Returns:
        Seconds of its training stage: from loaded model and encoded corpus to committed folders.
    """
    from conceptnet_em.study import Study, run

    watcher = _UntilTrained()
    try:
        run(Study(predictors=(), **settings), out=out, watcher=watcher)
    except _Trained:
        found = [s for name, s in watcher.seconds.items() if name.startswith("train") and s]
        return float(found[0])
    raise RuntimeError(f"the run has no training stage; its stages are {list(watcher.seconds)}")


def ours_gradients(
    model: LanguageModel, cells: Sequence[Cell], recipe: Recipe, seeds: Sequence[int]
) -> list[np.ndarray]:
    """Return every cell's gradients, loss and answers by seed: ``(2 * n_seeds, n_parameters)``."""
    loss, answers = start_gradients(model, recipe, [c.encoded for c in cells], seeds=seeds)
    return [torch.cat([loss[:, k], answers[:, k]]).numpy() for k in range(len(cells))]


def _made(place: Path) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    return place
