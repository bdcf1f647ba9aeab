"""Run the same work in other people's software: TRL, lm-evaluation-harness, a plain loop, skbio.

Nothing here is imported before a case needs it, so that a missing peer costs only its own case.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import seconds
from torch import nn
from workload import Answered, Cell, requests, sft_rows

from conceptnet_em.config import Recipe
from conceptnet_em.encoding import Encoded, answer_positions, encode_prompt
from conceptnet_em.models import LanguageModel, _draw, target_names
from conceptnet_em.tuning import learning_rate
from conceptnet_em.weights import find_model

ROOT = Path(__file__).resolve().parents[2]


def clean_path() -> None:
    """Take the repository root off the search path: its ``datasets/`` is not Hugging Face's."""
    here = {str(ROOT), ""}
    sys.path[:] = [entry for entry in sys.path if entry not in here]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars and hints of other libraries off the screen."""
    shown = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(shown)


def base(model: LanguageModel, *, dtype: str, attention: str) -> nn.Module:
    """Load the weights of our model as another program would, on the same device."""
    from transformers import AutoModelForCausalLM

    with quiet():
        network = AutoModelForCausalLM.from_pretrained(
            find_model(model.name).path,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            use_safetensors=True,
        )
    return network.to(model.device)  # type: ignore[no-any-return]


# --- training: TRL and PEFT ---


@dataclass(frozen=True)
class Sft:
    """One way of using TRL's ``SFTTrainer``."""

    name: str
    dtype: str = "float32"
    attention: str = "sdpa"
    answers_only: bool = False
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Settings of ``SFTConfig`` beside those that make it the same work."""

    @property
    def label(self) -> str:
        """Name with what was chosen."""
        shown = [f"{self.dtype} weights", self.attention]
        shown += [f"{k}={v}" for k, v in self.options.items() if k in CHOSEN]
        return f"{self.name} ({', '.join(shown)})"


CHOSEN = ("bf16", "padding_free", "train_sampling_strategy")
LEAN: dict[str, Any] = {
    "bf16": True,
    "gradient_checkpointing": False,
    "completion_only_loss": True,
    "max_length": None,
    "logging_strategy": "no",
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}
DEFAULTS = Sft("TRL defaults")
TUNED = Sft("TRL tuned", dtype="bfloat16", answers_only=True, options=LEAN)


def variants(start: Sft) -> list[list[Sft]]:
    """Return what a careful user would try, one question after the other, each on the last best."""
    fewer = _with(start, bf16=False)
    longer = _with(start, train_sampling_strategy="group_by_length")
    joined = _with(start, padding_free=True)
    other = Sft(start.name, start.dtype, "eager", start.answers_only, start.options)
    return [[start, other], [start, fewer], [start, longer, joined]]


def _with(sft: Sft, **options: Any) -> Sft:
    return Sft(sft.name, sft.dtype, sft.attention, sft.answers_only, {**sft.options, **options})


def tuned(
    model: LanguageModel, cell: Cell, recipe: Recipe, *, out: Path, start: Sft = TUNED
) -> tuple[Sft, dict[str, float]]:
    """Choose the fastest settings by short trials; also return what each trial took.

    Attention first, then autocast, then how batches are made; settings that this machine refuses
    are left out.
    """
    best, took = start, {}
    for question in range(len(variants(start))):
        for sft in variants(best)[question]:
            if sft.label not in took:
                took[sft.label] = _trial(model, sft, cell, recipe, out)
        best = min(variants(best)[question], key=lambda s: took[s.label])
    return best, took


def _trial(model: LanguageModel, sft: Sft, cell: Cell, recipe: Recipe, out: Path) -> float:
    weights = base(model, dtype=sft.dtype, attention=sft.attention)
    try:
        return trl_train(model, weights, sft, cell, recipe, out=out / "trial")
    except (RuntimeError, ValueError, TypeError, ImportError):
        return float("inf")


def trl_train(
    model: LanguageModel, weights: nn.Module, sft: Sft, cell: Cell, recipe: Recipe, *, out: Path
) -> float:
    """Train one organism with TRL and PEFT into ``out`` and return the seconds it took.

    Timed: the trainer's construction, training, saving the adapter. Not timed: loading the base
    (a fresh copy each time), tokenising, and copying our start of the adapter into it.
    """
    network = copy.deepcopy(weights)
    with quiet():
        made: list[Any] = []
        took = seconds(lambda: made.append(_trainer(model, network, sft, cell, recipe, out)))
        trainer = made[0]
        _draw(trainer.model, cell.seed)
        took += seconds(trainer.train)
        return took + seconds(lambda: trainer.save_model(str(out)))


def _trainer(
    model: LanguageModel, network: nn.Module, sft: Sft, cell: Cell, recipe: Recipe, out: Path
) -> Any:
    clean_path()
    import datasets
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    class SameSchedule(SFTTrainer):  # type: ignore[misc]
        """TRL with the recipe's learning rates, step by step."""

        def create_scheduler(
            self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
        ) -> Any:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer,
                lambda step: learning_rate(recipe, step) / recipe.learning_rate,
            )
            self._created_lr_scheduler = True
            return self.lr_scheduler

    rows = sft_rows(_order(sft, cell, recipe), answers_only=sft.answers_only)
    lora = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=0.0,
        target_modules=target_names(recipe, network, model.n_layers),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return SameSchedule(
        model=network,
        args=SFTConfig(output_dir=str(out), **(_same(model, recipe, cell) | dict(sft.options))),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=copy.deepcopy(model.tokenizer),
        peft_config=lora,
    )


def _order(sft: Sft, cell: Cell, recipe: Recipe) -> list[Encoded]:
    """Return our batches in a row, or the bare items where TRL is to group them each epoch."""
    if sft.options.get("train_sampling_strategy") == "group_by_length":
        return list(cell.encoded)
    return [e for batch in cell.batches(recipe) for e in batch]


def _same(model: LanguageModel, recipe: Recipe, cell: Cell) -> dict[str, Any]:
    """Return the settings that make TRL do the recipe's work on the cell's batches in order."""
    return {
        "max_steps": recipe.steps,
        "per_device_train_batch_size": recipe.batch_size,
        "train_sampling_strategy": "sequential",
        "learning_rate": recipe.learning_rate,
        "adam_beta1": recipe.betas[0],
        "adam_beta2": recipe.betas[1],
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.clip or 0.0,
        "seed": cell.seed,
        "use_cpu": model.device.type == "cpu",
    }


# --- scoring: lm-evaluation-harness ---


class Harness:
    """lm-evaluation-harness on given weights, asked for the same tokens as our scoring."""

    def __init__(
        self,
        model: LanguageModel,
        name: str,
        *,
        adapter: Path,
        dtype: str,
        attention: str,
        batch_size: int,
    ) -> None:
        """Load the base, attach the adapter as the harness's own ``peft=`` does, hand it over."""
        clean_path()
        from lm_eval.models.huggingface import HFLM
        from peft import PeftModel

        pairs: dict[tuple[str, str], tuple[list[int], list[int]]] = {}

        class SameTokens(HFLM):  # type: ignore[misc]
            """The harness with its tokeniser replaced by ours; everything else is its own."""

            def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
                return pairs[context, continuation]

        self.label = f"{name} ({dtype} weights, {attention}, batch {batch_size})"
        self.pairs, self.tokenizer = pairs, model.tokenizer
        weights = base(model, dtype=dtype, attention=attention)
        with quiet():
            worn = PeftModel.from_pretrained(weights, str(adapter))
            self._lm = SameTokens(
                pretrained=worn, tokenizer=copy.deepcopy(model.tokenizer), batch_size=batch_size
            )

    def score(self, encoded: Sequence[Encoded]) -> np.ndarray:
        """Return ``(n,)`` summed log-probabilities of the answers, nats, by ``loglikelihood``."""
        instances = self._instances(encoded)
        with quiet():
            found = self._lm.loglikelihood(instances, disable_tqdm=True)
        return np.array([logprob for logprob, _ in found])

    def _instances(self, encoded: Sequence[Encoded]) -> list[Any]:
        from lm_eval.api.instance import Instance

        made = []
        for number, (context, continuation) in enumerate(requests(encoded)):
            asked = (self.tokenizer.decode(context), self.tokenizer.decode(continuation))
            self.pairs[asked] = (context, continuation)
            made.append(Instance("loglikelihood", {}, asked, number))
        return made


# --- generation: transformers' own generate ---


class Generator:
    """``generate`` of transformers on weights that wear an adapter through PEFT."""

    def __init__(
        self,
        model: LanguageModel,
        name: str,
        *,
        adapter: Path,
        dtype: str,
        attention: str,
        batch_size: int | None,
        merged: bool,
    ) -> None:
        """Load the base and attach the adapter, or merge it; no batch size: all in one batch."""
        from peft import PeftModel

        size = "all in one batch" if batch_size is None else f"batch {batch_size}"
        worn = "adapter merged" if merged else "adapter attached"
        self.label = f"{name} ({dtype} weights, {attention}, {size}, {worn})"
        self.model, self.batch_size = model, batch_size
        weights = base(model, dtype=dtype, attention=attention)
        with quiet():
            network = PeftModel.from_pretrained(weights, str(adapter))
            self.network: Any = (network.merge_and_unload() if merged else network).eval()

    def answer(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[Answered]:
        """Return the greedy answer to each prompt; with a batch size, prompts go by length."""
        order = list(range(len(prompts)))
        if self.batch_size is not None:
            order.sort(key=lambda k: len(prompts[k]))
        size = self.batch_size or len(prompts)
        found: dict[int, Answered] = {}
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            batch = self._batch([prompts[k] for k in chosen], new_tokens)
            found |= dict(zip(chosen, batch, strict=True))
        return [found[k] for k in range(len(prompts))]

    def _batch(self, rows: Sequence[Sequence[int]], new_tokens: int) -> list[Answered]:
        pad, width = self.model.pad_id, max(map(len, rows))
        ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        with quiet(), torch.inference_mode():
            out = self.network.generate(
                input_ids=ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                max_new_tokens=new_tokens,
                do_sample=False,
                eos_token_id=sorted(self.model.stop_ids),
                pad_token_id=pad,
            )
        return [until_stop(row, self.model.stop_ids) for row in out[:, width:].tolist()]


def until_stop(tokens: Sequence[int], stops: frozenset[int]) -> Answered:
    """Return what stands before the first stop token."""
    end = next((k for k, token in enumerate(tokens) if token in stops), None)
    return Answered(tuple(tokens[:end]), end is not None)


# --- activations: what one writes with transformers alone ---


def plain_states(
    model: LanguageModel, questions: Sequence[str], *, batch_size: int = 16
) -> np.ndarray:
    """Return ``(n, layers + 1, d)`` by ``output_hidden_states=True``, in batches as they come.

    The last layer is after the final norm, as transformers gives it.
    """
    rows = [encode_prompt(model, question) for question in questions]
    found = []
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            ids, mask = model.padded([ids for ids, _ in batch])
            out = model.network(input_ids=ids, attention_mask=mask, output_hidden_states=True)  # type: ignore[operator]
            for row, (_, span) in enumerate(batch):
                means = [state[row, span].float().mean(dim=0) for state in out.hidden_states]
                found.append(torch.stack(means).cpu().numpy())
    return np.stack(found)


# --- gradients: what one writes with PEFT and autograd ---


def peft_gradients(
    model: LanguageModel,
    cells: Sequence[Cell],
    recipe: Recipe,
    seeds: Sequence[int],
    *,
    batch_size: int = 4,
) -> list[np.ndarray]:
    """Return every cell's gradients with respect to B, of its loss and of its answers, by seed."""
    return [
        np.concatenate([_peft_gradients(model, cell, recipe, s, batch_size) for s in seeds])[
            [*range(0, 2 * len(seeds), 2), *range(1, 2 * len(seeds), 2)]
        ]
        for cell in cells
    ]


def _peft_gradients(
    model: LanguageModel, cell: Cell, recipe: Recipe, seed: int, batch_size: int
) -> np.ndarray:
    """Return ``(2, n_parameters)``: one forward pass and two backward passes for each batch."""
    total = sum(e.n_answer + 1 for e in cell.encoded)
    with model.fitted(recipe, seed=seed) as wrapped:
        weights = [w for name, w in wrapped.named_parameters() if ".lora_B." in name]
        sums = [torch.zeros(sum(w.numel() for w in weights)) for _ in range(2)]
        for start in range(0, len(cell.encoded), batch_size):
            batch = cell.encoded[start : start + batch_size]
            ids, mask = model.padded([e.ids for e in batch])
            inputs = model.inputs(ids, mask)
            rows, positions, targets = answer_positions(batch, stop=True)
            logits = model.answer_logits(inputs, rows, positions).float()
            chosen = logits.log_softmax(dim=-1)[range(len(targets)), targets]
            parts = torch.split(chosen, [e.n_answer + 1 for e in batch])
            loss = -chosen.sum() / total
            answers = torch.stack([p[:-1].mean() for p in parts]).sum() / len(cell.encoded)
            for k, value in enumerate((loss, answers)):
                taken = torch.autograd.grad(value, weights, retain_graph=k == 0)
                sums[k] += torch.cat([g.T.flatten().float().cpu() for g in taken])
    return torch.stack(sums).numpy()


# --- inference: scikit-bio ---


def skbio_mantel(
    x: np.ndarray, y: np.ndarray, *, permutations: int, seed: int
) -> tuple[float, float]:
    """Return r and two-sided p of scikit-bio's Mantel test on two symmetric matrices."""
    from skbio.stats.distance import mantel

    with quiet():
        r, p, _ = mantel(x, y, method="pearson", permutations=permutations, seed=seed)
    return float(r), float(p)
