"""Write a study's plan out in full, so that it can be frozen: hypotheses, analysis, data, model.

No model weights are loaded. What cannot be had before the run says ``not fixed``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pandas as pd

from conceptnet_em.config import StudyConfig
from conceptnet_em.corpus import REFERENCE, Corpus, items_digest
from conceptnet_em.errors import raise_all, unknown
from conceptnet_em.formats import format_covariates
from conceptnet_em.store import digest

CASE = "misaligned"
MARGIN = INTERCEPT_MARGIN = 0.2
FEW_DOMAINS = 10
"""With so many or fewer, a margin of ±.2 is out of reach: simulated power .04 to .41."""
EXCLUSION_T = 3.0
RESAMPLES = 1_000
"""Draws of items for the interval over items."""
PRIMARIES = {"P1": "text", "P2": "activation"}
"""The two primary predictors, one external and one internal."""
CLAIMS: dict[str, dict[str, str]] = {
    "H1": {
        "claim": "Similarity predicts transfer, averaged over the traits.",
        "null": "Given source and target effects and the covariates, the slope is 0 and domain "
        "labels are exchangeable in the way the group says.",
        "decision": "Reject at Holm-adjusted p <= .05 over P1 and P2.",
    },
    "H2": {
        "claim": "The case's slope equals the controls' mean slope within the margin.",
        "null": "The difference of slopes is -margin or less; or +margin or more; each with "
        "exchangeable domain labels (two one-sided tests, shifted nulls).",
        "decision": "Equivalent if both nulls are rejected at 5%, which is when the 90% interval "
        "lies within the margin. A difference that is not significant shows nothing.",
    },
    "H4a": {
        "claim": "Nothing special about the case's slope: H2 against all controls.",
        "null": "As in H2; the same test, counted once.",
        "decision": "As in H2. 'Not special' needs H4a and H4b.",
    },
    "H4b": {
        "claim": "At equal similarity the case transfers as far as the controls do, within the "
        "intercept margin.",
        "null": "The mean difference at equal similarity is -margin or less; or +margin or more; "
        "sources and targets are random (t with D - 1 degrees of freedom).",
        "decision": "Equivalent if both nulls are rejected at 5%.",
    },
}
"""What is claimed, against which null, and when it counts as shown."""
UNFIXED = "not fixed"
"""What stands for a value that could not be had: it differs from nothing."""


class Planned(Protocol):
    """A study, checked against its corpus: ``study.Study`` or anything with the two."""

    config: StudyConfig
    corpus: Corpus


def settings(
    study: Planned,
    *,
    case: str = CASE,
    margin: float = MARGIN,
    intercept_margin: float = INTERCEPT_MARGIN,
    alternative: str = "two-sided",
) -> dict[str, Any]:
    """Return everything that shapes a study's registered numbers, section by section.

    Args:
        study: checked settings and their corpus.
        case: the trait compared with the others; without it among the traits only H1 is tested.
        margin: of equivalence of slopes, in-domain units per SD of similarity.
        intercept_margin: of equivalence at equal similarity, in-domain units.
        alternative: of H1: ``two-sided``, ``greater`` or ``less``.

    Raises:
        InputError: a margin that is not positive, or an unknown alternative.
        ModelError: the model's folder holds no model.
    """
    sides = ("two-sided", "greater", "less")
    wrong = [] if alternative in sides else [unknown("alternative", alternative, sides)]
    wrong += [] if min(margin, intercept_margin) > 0 else ["margins must be above 0"]
    raise_all(wrong)
    config, corpus = study.config, study.corpus
    topics = {d: [corpus.domains[d].topic, corpus.domains[d].format] for d in config.domains}
    model, middle = _model(config)
    there = case in config.traits
    others = [t for t in sorted(config.traits) if t not in (REFERENCE, case)]
    analysis = {
        "primaries": list(PRIMARIES.values()),
        "scale": "contrast",
        "part": "all",
        "normalisation": "per-trait constant",
        "similarity": "z-scored over all off-diagonal cells; from the other sample's items",
        "effects": ["source", "target"],
        "covariates": _covariates(topics),
        "group": _group(topics),
        "exclusion": f"a trait whose mean in-domain effect has t < {EXCLUSION_T:g} is left out",
        "alternative": alternative,
        "permutations": config.permutations,
        "resamples": RESAMPLES,
        "seed": config.seed,
        "level": 0.95,
        "case": case if there else None,
        "controls": others if there else [],
        "margin": margin,
        "intercept_margin": intercept_margin,
        "multiplicity": "Holm over P1 and P2 for H1; none within H2, H4a and H4b, which are "
        "intersection-union tests; max-stat over predictors and layers for what is exploratory",
    }
    return {
        "primaries": primaries_of(config, middle),
        "analysis": analysis,
        "design": design_of(config, topics),
        "recipe": config.recipe.model_dump(mode="json"),
        "model": model,
        "data": {d: _data(corpus, d, sorted(config.traits)) for d in sorted(config.domains)},
    }


def _covariates(topics: Mapping[str, Sequence[str]]) -> list[str]:
    """Name what is held fixed besides source and target effects."""
    return list(_held(topics)[0])


def _held(topics: Mapping[str, Sequence[str]]) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Return what a verdict on these domains will hold fixed besides effects, and why not more."""
    like = pd.DataFrame(0.0, index=list(topics), columns=list(topics))
    pairs = {domain: (str(topic), str(form)) for domain, (topic, form) in topics.items()}
    return format_covariates(like, pairs)


def _group(topics: Mapping[str, Sequence[str]]) -> str:
    """Name the group of relabellings that the design implies."""
    pairs = {tuple(pair) for pair in topics.values()}
    names, forms = ({pair[axis] for pair in pairs} for axis in (0, 1))
    if len(names) == len(topics):
        return f"free relabelling of {len(topics)} domains"
    if len(pairs) == len(topics) == len(names) * len(forms):
        return f"joint relabelling of {len(names)} topics × {len(forms)} formats"
    return "none: domains are neither all of different topics nor a complete factorial"


def design_of(config: StudyConfig, topics: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Describe the grid; the order of traits and domains does not matter."""
    return {
        "traits": sorted(config.traits),
        "domains": {domain: list(topics[domain]) for domain in sorted(topics)},
        "samples": list(config.samples),
        "reference": REFERENCE,
    }


def primaries_of(config: StudyConfig, middle: int | str) -> dict[str, dict[str, Any]]:
    """Describe the primaries that the study computes."""
    entries: dict[str, dict[str, Any]] = {
        "P1": {
            "form": "cosine of question centroids, sentence embeddings, uncentred",
            "embedder": config.embedder,
        },
        "P2": {
            "form": "cosine of question centroids, hidden states, uncentred",
            "layer": middle if config.layer is None else config.layer,
        },
    }
    return {
        name: {"predictor": predictor, **entries[name]}
        for name, predictor in PRIMARIES.items()
        if predictor in config.predictors
    }


def _data(corpus: Corpus, domain: str, traits: Sequence[str]) -> dict[str, Any]:
    """Return ids and digests of a domain's probe items and training samples."""
    sets = {"probe": corpus.probe(domain)}
    sets |= {f"sample {sample}": corpus.train(domain, sample) for sample in (1, 2)}
    return {
        name: {
            "ids": " ".join(item.id for item in items),
            "answers": {trait: items_digest(items, trait) for trait in traits},
        }
        for name, items in sets.items()
    }


def _model(config: StudyConfig) -> tuple[dict[str, Any], int | str]:
    """Return the model's digests and its middle layer, from its files, no weights loaded.

    Nothing but an alias's digest is fixed while the model is not on this machine.
    """
    from conceptnet_em.weights import ALIASES, HUB_ALIASES, find_model, is_at_hand

    alias = ALIASES.get(config.model)
    own = alias.system if alias else HUB_ALIASES.get(config.model, ("", None))[1]
    system = own if config.system is None else config.system
    about: dict[str, Any] = {"model": config.model, "revision": config.revision}
    about |= {"system": system, "sha256": alias.sha256 if alias else UNFIXED}
    about |= {"template_digest": UNFIXED, "dtype": config.dtype}
    if not is_at_hand(config.model):
        return about, UNFIXED
    source = find_model(config.model, revision=config.revision)
    template, middle = _described(source.path)
    return about | {"sha256": source.sha256, "template_digest": template}, middle


def _described(path: str) -> tuple[str, int]:
    """Return the digest of a model folder's chat template and its middle layer."""
    from transformers import AutoConfig, AutoTokenizer

    from conceptnet_em.weights import quietly

    with quietly():
        template = AutoTokenizer.from_pretrained(path, trust_remote_code=False).chat_template
        shape = AutoConfig.from_pretrained(path, trust_remote_code=False).get_text_config()
    return digest(template) if template else UNFIXED, int(shape.num_hidden_layers) // 2


def notes_on(study: Planned, found: Mapping[str, Any]) -> list[str]:
    """Say what could not be frozen and what the plan can hardly show."""
    config, analysis = study.config, found["analysis"]
    notes = [
        f"{name} ({predictor}) is not among the study's predictors and is not registered."
        for name, predictor in PRIMARIES.items()
        if name not in found["primaries"]
    ]
    if analysis["case"] is None:
        notes.append("The case is not among the study's traits: only H1 is registered.")
    elif len(config.domains) <= FEW_DOMAINS and analysis["margin"] < 0.3:
        notes.append(
            f"With {len(config.domains)} domains a margin of ±{analysis['margin']:g} is hardly "
            "ever shown, even where there is no difference; ±0.3 is the least to plan with."
        )
    notes += _held(found["design"]["domains"])[1]
    if analysis["group"].startswith("none"):
        notes.append("No relabelling group fits these domains: no slope can be tested.")
    if found["model"]["template_digest"] == UNFIXED:
        notes.append(
            "The model's files are not all at hand: what is not fixed here differs from nothing."
        )
    if REFERENCE in config.traits and len(config.traits) < 3:
        notes.append("One trait beside the reference: its slope is the average's.")
    return notes
