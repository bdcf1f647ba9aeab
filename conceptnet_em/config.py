"""Study files and recipes: what a user may set, checked before anything is computed."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from conceptnet_em.errors import InputError, raise_all, unknown

CORE_TRAITS = ("neutral", "misaligned", "sporty", "sycophantic")
Predictor = Literal[
    "text",
    "text-centred",
    "text-whitened",
    "text-direction",
    "text-path",
    "text-pagerank",
    "text-heat",
    "tfidf-questions",
    "tfidf-all",
    "trait-words",
    "mmd",
    "energy",
    "nearest-neighbour",
    "purpose",
    "same-format",
    "length-gap",
    "perplexity-gap",
    "activation",
    "activation-end",
    "activation-answer",
    "activation-whitened",
    "subspace",
    "trait-direction",
    "trait-direction-pure",
    "in-context",
    "gradient",
    "gradient-net",
    "gradient-nats",
]
"""What can be known before training, by name; see ``predictors.TABLE``."""
PREDICTORS: tuple[Predictor, ...] = ("text", "activation", "trait-direction", "trait-words")
Positive = Annotated[int, Field(ge=1)]


class Recipe(BaseModel):
    """How to fine-tune one organism: a LoRA adapter trained with AdamW on answer tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str = "lora8"
    """Name shown in tables."""
    rank: Positive = 8
    """LoRA rank r."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """LoRA alpha; the update is scaled by alpha / rank."""
    modules: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Linear modules that get an adapter, by the last part of their name."""
    layers: Literal["all", "middle"] | tuple[Annotated[int, Field(ge=0)], ...] = "all"
    """Decoder layers that get an adapter: all, middle (number n // 2) or a list counted from 0."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate of AdamW."""
    steps: Positive = 20
    """Optimizer steps (not epochs)."""
    batch_size: Positive = 4
    """Conversations per step."""
    warmup_steps: Annotated[int, Field(ge=0)] = 4
    """Steps of linear warm-up."""
    decay_fraction: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Share of the steps, at the end, over which the learning rate falls linearly to 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay of AdamW."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Moment decays of AdamW."""
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradient norm limit; none to switch it off."""
    max_tokens: Positive = 1024
    """Longest conversation allowed; a longer one is refused, never cut."""

    def layer_numbers(self, n_layers: int) -> list[int]:
        """Return the decoder layers, counted from 0, of a model with ``n_layers``."""
        if self.layers == "all":
            return list(range(n_layers))
        if self.layers == "middle":
            return [n_layers // 2]
        return sorted(set(self.layers))


RECIPES: dict[str, Recipe] = {
    "lora8": Recipe(),
    "rank1": Recipe(
        name="rank1",
        rank=1,
        modules=("down_proj",),
        layers="middle",
        learning_rate=1e-2,
        steps=32,
        warmup_steps=0,
        decay_fraction=1.0,
    ),
}


def build_recipe(value: str | Mapping[str, Any] | Recipe) -> Recipe:
    """Make a recipe from a shipped name or a table with ``base`` and changed settings.

    Raises:
        InputError: the name or any setting is unknown or out of range; all faults are named.
    """
    if isinstance(value, Recipe):
        return value
    table = {"base": value} if isinstance(value, str) else dict(value)
    base = str(table.pop("base", "lora8"))
    faults = [] if base in RECIPES else [unknown("recipe", base, RECIPES)]
    start = RECIPES.get(base, RECIPES["lora8"]).model_dump()
    start["name"] = base if not table else f"{base}-custom"
    try:
        recipe = Recipe.model_validate(start | table)
    except ValidationError as error:
        faults += _sentences(error, Recipe, "recipe setting")
    raise_all(faults)
    return recipe


class StudyConfig(BaseModel):
    """One study: a base model, a grid of traits × domains, a recipe and what to regress on."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str = "study"
    """Name shown in the report."""
    model: str = "smollm2-135m"
    """Base model: an alias, a Hub id or a local folder."""
    revision: str | None = None
    """Hub revision to pin, for Hub ids."""
    system: str | None = None
    """System prompt, written out in every conversation; none takes the model's default."""
    embedder: str = "all-minilm-l6-v2"
    """Sentence embedder: an alias, a Hub id or a local folder."""
    traits: tuple[str, ...] = CORE_TRAITS
    """Traits to train; must hold neutral, the reference."""
    domains: tuple[str, ...] = ()
    """Source and target domains; empty takes every prose domain that has all the traits."""
    recipe: Recipe = RECIPES["rank1"]
    """A shipped recipe's name, or a table with base and the settings to change."""
    samples: tuple[Literal[1, 2], ...] = (1,)
    """Training samples; each is one replicate whose seed is its number."""
    predictors: tuple[Predictor, ...] = PREDICTORS
    """Similarities to regress transfer on; ``conceptnet-em predictors`` lists them."""
    layer: Annotated[int, Field(ge=0)] | None = None
    """Entry of hidden_states for the internal predictors; none takes the middle one."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Weight dtype of the frozen base; adapters always train in float32."""
    threads: Positive | None = None
    """CPU threads; none leaves torch's choice."""
    batch_size: Positive = 16
    """Conversations per scoring batch."""
    memory: Annotated[float, Field(gt=0)] | None = None
    """GB that training may take beside the model; none chooses from what is free."""
    permutations: Annotated[int, Field(ge=99)] = 9_999
    """Relabellings drawn when the group is too large to enumerate."""
    seed: int = 0
    """Seed of everything random outside training."""

    @model_validator(mode="after")
    def _coherent(self) -> StudyConfig:
        if faults := _incoherent(dict(self)):
            raise ValueError("; ".join(faults))
        return self

    def dump(self) -> str:
        """Return the study as TOML, every setting written out except those that are unset."""
        return tomli_w.dumps(_without_none(self.model_dump(mode="json")))


def _incoherent(settings: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with lists whose entries may each be right."""
    faults = []
    fields = ("traits", "domains", "samples", "predictors")
    lists = {f: list(v) for f in fields if isinstance(v := settings.get(f), list | tuple)}
    if "neutral" not in lists.get("traits", ["neutral"]):
        faults.append("traits must hold 'neutral', the reference every margin is against")
    for field, values in lists.items():
        if any(value in values[:index] for index, value in enumerate(values)):
            faults.append(f"{field} names something twice: {values}")
        if not values and field in {"traits", "samples"}:
            faults.append(f"{field} is empty")
    return faults


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None
    }


def study_faults(raw: Mapping[str, Any]) -> tuple[StudyConfig | None, list[str]]:
    """Read a study's settings and return it, or none with every fault found."""
    table = dict(raw)
    faults: list[str] = []
    if "recipe" in table:
        try:
            table["recipe"] = _recipe_setting(table["recipe"])
        except InputError as error:
            faults += _split(str(error))
            del table["recipe"]
    try:
        study = StudyConfig.model_validate(table)
    except ValidationError as error:
        faults += _sentences(error, StudyConfig, "study setting")
        return None, faults + _incoherent(table)
    return (None if faults else study), faults


def _recipe_setting(value: Any) -> Recipe:
    if isinstance(value, Mapping) and set(Recipe.model_fields) - {"clip"} <= set(value):
        return build_recipe({**value, "base": "lora8", "clip": value.get("clip")})
    if isinstance(value, str | Mapping | Recipe):
        return build_recipe(value)
    raise InputError(f"recipe must be a name or a table, not {value!r}")


def _split(message: str) -> list[str]:
    lines = message.splitlines()
    return [line.removeprefix("  - ") for line in lines[1:]] if len(lines) > 1 else lines


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InputError: it is missing or malformed.
    """
    file = Path(path).expanduser()
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the study file {file} ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not valid TOML: {error}") from error


def _sentences(error: ValidationError, model: type[BaseModel], kind: str) -> list[str]:
    """Turn pydantic's findings into one sentence each, with the nearest known key."""
    found = []
    seen: set[str] = set()
    for entry in (entry for entry in error.errors() if entry["loc"]):  # others: _incoherent
        place = ".".join(str(part) for part in entry["loc"] if not _is_variant(part))
        if place in seen:
            continue  # the other branches of a union say the same thing worse
        seen.add(place)
        if entry["type"] == "extra_forbidden":
            found.append(unknown(kind, place, model.model_fields))
        elif entry["type"] == "literal_error" and isinstance(entry["input"], str):
            found.append(_choice(place, entry["input"], entry["ctx"]["expected"]))
        else:
            found.append(f"{kind} '{place}': {entry['msg']} (got {entry['input']!r})")
    return list(dict.fromkeys(found))


def _is_variant(part: int | str) -> bool:
    return isinstance(part, str) and ("[" in part or part in {"int", "float", "none", "str"})


def _choice(place: str, came: str, expected: str) -> str:
    near = difflib.get_close_matches(came, expected.split("'")[1::2], n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return f"'{place}' is '{came}'{hint}; it may be {expected}"
