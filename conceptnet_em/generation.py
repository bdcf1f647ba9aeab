"""Sample answers from a base and from organisms, many at once, each as if it were alone.

A question's prompt runs once. Its samples go on from copies of its keys and values, one token a
row and step, and rows that have ended leave the batch. Organisms stacked on the model answer in
the same pass, organism after organism along the batch::

    prompts    (G·q, length)         cache: keys and values, (G·q, heads, length, d) a block
    samples    (G·b, 1) a step       cache: (G·b, heads, length + step, d)

The random numbers of an answer hang on seed, question and sample alone. So an answer does not
depend on what else is asked, on batches or on companions, and all organisms meet the same luck:
where two of them answer differently, it is not because other numbers were drawn.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conceptnet_em.encoding import encode_prompt
from conceptnet_em.errors import raise_all
from conceptnet_em.groups import available_bytes
from conceptnet_em.models import LanguageModel
from conceptnet_em.stacking import StackedLinear
from conceptnet_em.store import digest

CPU_ROWS, GPU_ROWS = 32, 256
"""Answers of each organism that a pass holds, where memory allows."""

Prompt = tuple[int, ...]
Drawn = list[tuple[int, float]]
"""Tokens of an answer and their log-probabilities."""


@dataclass(frozen=True)
class Sampled:
    """One answer."""

    text: str
    """The answer, the stop token and other special tokens left out."""
    ids: tuple[int, ...]
    """Its tokens, stop token excluded."""
    logprob: float
    """Summed log-probability of these tokens, and of the stop token if it ended by one, at
    temperature 1 and without a cut, nats."""
    ended: str
    """``stop`` or ``length``."""


@dataclass(frozen=True)
class _How:
    """What is asked of every answer."""

    samples: int
    max_tokens: int
    temperature: float
    top_p: float
    seed: int


def generate(
    model: LanguageModel,
    questions: Sequence[str],
    *,
    samples: int = 1,
    max_tokens: int = 200,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int | None = None,
) -> list[list[Sampled]]:
    """Return answers, question by question, sample by sample, under what the model now wears.

    In float32 an answer is the same in any company, up to rounding where two tokens are as good as
    equal; in bfloat16 rounding is coarser and may flip a token, after which answers part.

    Args:
        model: the base, or the base wearing an adapter.
        questions: the user's turns.
        samples: answers to each question.
        max_tokens: the longest answer, stop token included.
        temperature: what logits are divided by; 0 takes the likeliest token (greedy).
        top_p: draw from the likeliest tokens that together reach this probability.
        seed: of the random numbers.
        batch_size: answers of each organism that a pass holds; when none, 32 on a CPU and 256 on
            a GPU, fewer where half the free memory holds fewer.

    Raises:
        InputError: a setting is out of range, a question is blank or too long for the model; every
            fault is named at once.
    """
    return generate_stack(
        model,
        questions,
        1,
        samples=samples,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        batch_size=batch_size,
    )[0]


def generate_stack(
    model: LanguageModel,
    questions: Sequence[str],
    n: int,
    *,
    samples: int = 1,
    max_tokens: int = 200,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int | None = None,
) -> list[list[list[Sampled]]]:
    """Return the same for each of the ``n`` organisms stacked on the model, one by one.

    All answer in one pass, with the same random numbers. See :func:`generate`.
    """
    how = _How(samples, max_tokens, temperature, top_p, seed)
    raise_all([*_faults(model, how, n, batch_size), *_blank(questions)])
    prompts = {q: encode_prompt(model, q)[0] for q in dict.fromkeys(questions)}
    raise_all(_too_long(prompts, how, model))
    rows = batch_size or _fitting(model, max(map(len, prompts.values())) + max_tokens, n)
    found: list[dict[str, list[Sampled]]] = [{} for _ in range(n)]
    with _ready(model), torch.inference_mode():
        for part in _batches(prompts, max(1, rows // samples)):
            asked = {question: prompts[question] for question in part}
            for own, answers in zip(found, _answers(model, asked, how, n, rows), strict=True):
                own |= answers
    return [[list(own[question]) for question in questions] for own in found]


def _faults(model: LanguageModel, how: _How, n: int, batch_size: int | None) -> list[str]:
    sizes = {"samples": how.samples, "max_tokens": how.max_tokens, "batch_size": batch_size}
    faults = [
        f"{name} must be at least 1, not {value}"
        for name, value in sizes.items()
        if value is not None and value < 1
    ]
    if not (isfinite(how.temperature) and how.temperature >= 0):
        faults.append(f"temperature must be 0 or more, not {how.temperature}")
    if not 0 < how.top_p <= 1:
        faults.append(f"top_p must be above 0 and at most 1, not {how.top_p}")
    if how.temperature == 0 and how.samples > 1:
        faults.append(
            f"{how.samples} samples at temperature 0 would all be equal: ask for one, or raise "
            "the temperature"
        )
    worn = {len(layer.a[layer.members or slice(None)]) for layer in _stacked(model)} or {1}
    if worn != {n}:
        faults.append(f"n must be the organisms on the model, {max(worn)}, not {n}")
    return faults


def _blank(questions: Sequence[str]) -> list[str]:
    if isinstance(questions, str) or not questions:
        return [f"questions must be a list of at least one text, not {questions!r:.60}"]
    return [f"question {k} is blank" for k, q in enumerate(questions, 1) if not q.strip()]


def _too_long(prompts: dict[str, Prompt], how: _How, model: LanguageModel) -> list[str]:
    return [
        f"{len(ids)} tokens of prompt and max_tokens {how.max_tokens} exceed the "
        f"{model.max_tokens} tokens of {model.name}: ask for fewer, or shorten {question[:60]!r}"
        for question, ids in prompts.items()
        if len(ids) + how.max_tokens > model.max_tokens
    ]


def _stacked(model: LanguageModel) -> list[StackedLinear]:
    return [layer for layer in model.network.modules() if isinstance(layer, StackedLinear)]


@contextmanager
def _ready(model: LanguageModel) -> Iterator[None]:
    """Cast stacked adapters to the base's dtype once instead of at every step."""
    masters = [(weight, weight.data) for layer in _stacked(model) for weight in (layer.a, layer.b)]
    try:
        for weight, master in masters:
            weight.data = master.to(model.dtype)
        yield
    finally:
        for weight, master in masters:
            weight.data = master


def _fitting(model: LanguageModel, longest: int, n: int) -> int:
    """Return how many answers of each of ``n`` organisms a pass may hold, see ``generate``."""
    config = model.config
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = torch.finfo(model.dtype).bits // 8
    one = 2 * model.n_layers * heads * int(width) * size * longest + 32 * int(config.vocab_size)
    limit = CPU_ROWS if model.device.type == "cpu" else GPU_ROWS
    return int(min(limit, max(1, available_bytes(model.device) // 2 // (one * n))))


def _batches(prompts: dict[str, Prompt], size: int) -> list[list[str]]:
    """Return the questions by length in batches of about equal number, ``size`` at most."""
    order = sorted(prompts, key=lambda question: (len(prompts[question]), prompts[question]))
    count = -(-len(order) // size)
    bounds = [round(k * len(order) / count) for k in range(count + 1)]
    return [order[a:b] for a, b in pairwise(bounds)]


# --- drawing ---


def _uniforms(question: str, sample: int, how: _How) -> np.ndarray:
    """Return ``(max_tokens,)`` numbers in [0, 1), of a counter-based generator (Philox).

    Source: Salmon et al., 2011, doi:10.1145/2063384.2063405.
    """
    key = int(digest({"seed": how.seed, "question": question, "sample": sample}), 16)
    return np.random.Generator(np.random.Philox(key=key)).random(how.max_tokens)


def _draw(logits: Tensor, uniforms: Tensor, how: _How) -> Tensor:
    """Return ``(n,)`` tokens of ``(n, vocabulary)`` logits by inverse CDF over ids, in float64."""
    if how.temperature == 0:
        return logits.argmax(dim=-1)
    chances = (logits.double() / how.temperature).softmax(dim=-1)
    if how.top_p < 1:
        chances = _cut(chances, how.top_p)
    total = chances.cumsum(dim=-1)
    wanted = uniforms[:, None] * total[:, -1:]
    wanted = wanted.minimum(torch.nextafter(total[:, -1:], torch.zeros_like(wanted)))
    return torch.searchsorted(total, wanted, right=True)[:, 0]


def _cut(chances: Tensor, top_p: float) -> Tensor:
    """Return the chances with 0 for all but the likeliest tokens that together reach ``top_p``."""
    ordered, places = chances.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    ordered = ordered.masked_fill(before >= top_p, 0)
    return torch.zeros_like(chances).scatter(-1, places, ordered)


# --- one batch of questions ---


@dataclass
class _Rows:
    """What rows need to go on."""

    cache: Any
    mask: Tensor  # (rows, length + max_tokens): 1 where a token stands or will stand
    positions: Tensor  # (rows,): of the next token
    logits: Tensor  # (rows, vocabulary) float32: of the next token

    def taken(self, index: Tensor, *, keep: bool = False) -> _Rows:
        """Return chosen rows, in that order, some perhaps several times; ``keep``: copy first."""
        cache = copy.deepcopy(self.cache) if keep else self.cache
        cache.batch_select_indices(index)
        return _Rows(cache, self.mask[index], self.positions[index], self.logits[index])


def _answers(
    model: LanguageModel, asked: dict[str, Prompt], how: _How, n: int, rows: int
) -> list[dict[str, list[Sampled]]]:
    """Return every organism's answers to the questions of one batch."""
    prompts = _read(model, list(asked.values()) * n, how)
    jobs = [(q, s) for q in range(len(asked)) for s in range(how.samples)]
    numbers = np.array([_uniforms(q, s, how) for q in asked for s in range(how.samples)])
    found: list[list[Sampled]] = [[] for _ in range(n)]
    for start in range(0, len(jobs), rows):
        part = slice(start, start + rows)
        index = [k * len(asked) + q for k in range(n) for q, _ in jobs[part]]
        more = start + rows < len(jobs)
        begun = prompts.taken(torch.tensor(index, device=model.device), keep=more)
        for own, drafts in zip(found, _go_on(model, begun, numbers[part], how, n), strict=True):
            own += [_sampled(model, drawn) for drawn in drafts]
    step = how.samples
    return [{q: own[k * step : (k + 1) * step] for k, q in enumerate(asked)} for own in found]


def _sampled(model: LanguageModel, drawn: Drawn) -> Sampled:
    stopped = drawn[-1][0] in model.stop_ids
    ids = tuple(token for token, _ in drawn[: len(drawn) - stopped])
    plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    text = str(model.tokenizer.decode(ids, **plain))
    return Sampled(text, ids, sum(value for _, value in drawn), "stop" if stopped else "length")


def _read(model: LanguageModel, prompts: Sequence[Prompt], how: _How) -> _Rows:
    """Run prompts once, left-padded, and return where they stand.

    Under a window of attention columns must be as far apart as positions are, so that rows end
    where the batch ends; else they are shifted by whole ``LANES``.
    """
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    ids, mask = model.padded(prompts, side="left")
    if any(cache.is_sliding):
        turned = model.padded([row[::-1] for row in prompts])
        ids, mask = (tensor.flip(dims=[1]) for tensor in turned)
    inputs = model.inputs(ids, mask) | {"past_key_values": cache, "use_cache": True}
    last = mask.shape[1] - 1 - mask.flip(dims=[1]).argmax(dim=1)
    rows = torch.arange(len(prompts), device=model.device)
    logits = model.answer_logits(inputs, rows, last)
    room = mask.new_ones(len(prompts), how.max_tokens)
    return _Rows(cache, torch.cat([mask, room], dim=1), mask.sum(dim=1), logits)


def _go_on(
    model: LanguageModel, now: _Rows, numbers: np.ndarray, how: _How, n: int
) -> list[list[Drawn]]:
    """Draw until all have ended: ``n * b`` rows now, ``(b, max_tokens)`` numbers, n × b answers."""
    uniforms = torch.from_numpy(numbers).to(model.device)
    drafts: list[list[Drawn]] = [[[] for _ in numbers] for _ in range(n)]
    origin = np.tile(np.arange(len(numbers)), (n, 1))  # whose answer each row is
    live, stops = np.ones_like(origin, dtype=bool), model.stop_ids
    for step in range(how.max_tokens):
        luck = uniforms[torch.from_numpy(origin.ravel()).to(model.device), step]
        tokens = _draw(now.logits, luck, how)
        logprobs = now.logits.gather(1, tokens[:, None])[:, 0] - now.logits.logsumexp(dim=1)
        drawn = tokens.view(n, -1).tolist(), logprobs.view(n, -1).tolist()
        for k, row in zip(*np.nonzero(live), strict=True):
            token, value = drawn[0][k][row], drawn[1][k][row]
            drafts[k][origin[k, row]].append((token, value))
            live[k, row] = token not in stops
        if not live.any() or step == how.max_tokens - 1:
            break
        if (kept := _kept(live)) is not None:
            origin, live = (np.take_along_axis(a, kept, axis=1) for a in (origin, live))
            index = (kept + np.arange(n)[:, None] * (len(tokens) // n)).ravel()
            chosen = torch.from_numpy(index).to(model.device)
            now, tokens = now.taken(chosen), tokens[chosen]
        now = _step(model, now, tokens, step, how)
    return drafts


def _kept(live: np.ndarray) -> np.ndarray | None:
    """Return ``(n, width)`` rows of each organism that go on; none when all do.

    Organisms need the same number of rows. Those with fewer left keep some that have ended.
    """
    width = int(live.sum(axis=1).max())
    if width == live.shape[1]:
        return None
    kept: np.ndarray = np.argsort(~live, axis=1, kind="stable")[:, :width]
    return kept


def _step(model: LanguageModel, now: _Rows, tokens: Tensor, step: int, how: _How) -> _Rows:
    """Return the rows after one more token each."""
    length = now.mask.shape[1] - how.max_tokens + step + 1
    inputs = {
        "input_ids": tokens[:, None],
        "attention_mask": now.mask[:, :length],
        "position_ids": now.positions[:, None],
        "past_key_values": now.cache,
        "use_cache": True,
    }
    rows = torch.arange(len(tokens), device=model.device)
    logits = model.answer_logits(inputs, rows, torch.zeros_like(rows))
    return _Rows(now.cache, now.mask, now.positions + 1, logits)
