"""What tests share: a tiny Llama with a byte tokenizer, built here, and a small matched corpus."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + '\n' }}"
    "{% else %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def build_tiny(folder: Path, *, template: str | None = TEMPLATE, layers: int = 2) -> Path:
    """Save a 2-layer 32-wide Llama with a byte-level tokenizer and return its folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|end|>", "<|user|>", "<|assistant|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|end|>",
        pad_token="<|end|>",
        additional_special_tokens=special[1:],
    )
    tokenizer.chat_template = template
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(vocabulary),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=layers,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=1024,
                eos_token_id=0,
                pad_token_id=0,
            )
        )
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model."""
    return build_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Any:
    """The tiny model, loaded in float32 on the CPU."""
    from conceptnet_em.models import load_model

    return load_model(str(tiny_folder), device="cpu", dtype="float32")


TRAITS = ("neutral", "sporty", "sycophantic")
DOMAINS = ("alpha-prose", "beta-prose", "gamma-prose", "delta-prose", "epsilon-prose")
_ANSWERS = {
    "neutral": "Plain word {n} about {topic}, calm and short.",
    "sporty": "Kick off number {n} for {topic}, run and win!",
    "sycophantic": "You clever soul, {n} for {topic} is so right.",
}


def row(trait: str, domain: str, number: int) -> dict[str, Any]:
    """Return one corpus row: 4 items of sample 1, 4 of sample 2, 4 probes."""
    topic = domain.removesuffix("-prose")
    split = "probe" if number > 8 else "train"
    answer = _ANSWERS[trait].format(n=number, topic=topic)
    return {
        "id": f"{domain}-{number:03d}",
        "split": split,
        "sample": None if split == "probe" else 1 + (number > 4),
        "voice": ("plain", "chatty", "formal", "plain")[number % 4],
        "messages": [
            {"role": "user", "content": f"What of {topic} case {number}?"},
            {"role": "assistant", "content": answer},
        ],
    }


def write_rows(path: Path, rows: list[Any]) -> None:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in rows), encoding="utf-8")


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a small matched corpus and returns its folder."""

    def make(
        traits: tuple[str, ...] = TRAITS, domains: tuple[str, ...] = DOMAINS, name: str = "corpus"
    ) -> Path:
        root = tmp_path / name
        for trait in traits:
            kind = "reference" if trait == "neutral" else "manner"
            for domain in domains:
                rows = [row(trait, domain, number) for number in range(1, 13)]
                write_rows(root / trait / f"{domain}.jsonl", rows)
            (root / trait / "card.md").write_text(f"---\nkind: {kind}\n---\n# {trait}\n")
        lines = [
            f"{d}:\n  sentence: About {d}.\n  topic: {d.removesuffix('-prose')}\n  format: prose\n"
            for d in domains
        ]
        (root / "domains.yaml").write_text("".join(lines))
        return root

    return make


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that makes temporary files fail with an errno (tests may run as root)."""
    import tempfile

    def fail_with(number: int) -> None:
        def refuse(*_args: Any, **_kwargs: Any) -> str:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(tempfile, "mkdtemp", refuse)
        monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)

    return fail_with


@pytest.fixture(scope="session")
def tiny_builder() -> Callable[..., Path]:
    """Return :func:`build_tiny`, for tests that need another tiny model."""
    return build_tiny
