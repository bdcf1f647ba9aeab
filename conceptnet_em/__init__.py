"""Measure how far a narrow fine-tune generalizes, and test whether similarity explains it.

Public names are loaded on first use, because importing torch and peft takes seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conceptnet_em.ceiling import noise_ceiling
    from conceptnet_em.comparison import Comparison
    from conceptnet_em.corpus import Corpus, load_corpus, load_dataset, load_messages
    from conceptnet_em.equivalence import compare_traits
    from conceptnet_em.forecast import calibrate
    from conceptnet_em.forecast import forecast as forecast_transfer
    from conceptnet_em.generation import Sampled, generate
    from conceptnet_em.graph import concept_graph
    from conceptnet_em.imported import read_similarity, read_transfer
    from conceptnet_em.layers import layer_profile
    from conceptnet_em.maps import embed_map
    from conceptnet_em.mixed import mixed_slopes, reml
    from conceptnet_em.models import LanguageModel, load_model
    from conceptnet_em.multiplicity import holm, max_stat
    from conceptnet_em.multiverse import multiverse as multiverse_table
    from conceptnet_em.pilot import estimate_components
    from conceptnet_em.power import power as power_table
    from conceptnet_em.predictors import Predictor
    from conceptnet_em.rates import (
        base_rates,
        binomial_slopes,
        cell_logits,
        clustered_rate,
        rate_table,
    )
    from conceptnet_em.records import Similarity, TransferMatrix
    from conceptnet_em.registration import Registration, preregister
    from conceptnet_em.regression import Regression, regress
    from conceptnet_em.report import write_report
    from conceptnet_em.screening import screen
    from conceptnet_em.study import Result, Study, run
    from conceptnet_em.transfer import transfer_table
    from conceptnet_em.verdicts import Verdict
    from conceptnet_em.verification import verify

_HOMES = {
    "Comparison": "comparison",
    "Corpus": "corpus",
    "LanguageModel": "models",
    "Predictor": "predictors",
    "Registration": "registration",
    "Regression": "regression",
    "Result": "study",
    "Sampled": "generation",
    "Similarity": "records",
    "Study": "study",
    "TransferMatrix": "records",
    "Verdict": "verdicts",
    "base_rates": "rates",
    "binomial_slopes": "rates",
    "calibrate": "forecast",
    "cell_logits": "rates",
    "clustered_rate": "rates",
    "compare_traits": "equivalence",
    "concept_graph": "graph",
    "embed_map": "maps",
    "estimate_components": "pilot",
    "forecast_transfer": "forecast.forecast",
    "generate": "generation",
    "holm": "multiplicity",
    "layer_profile": "layers",
    "load_corpus": "corpus",
    "load_dataset": "corpus",
    "load_messages": "corpus",
    "load_model": "models",
    "max_stat": "multiplicity",
    "mixed_slopes": "mixed",
    "multiverse_table": "multiverse.multiverse",
    "noise_ceiling": "ceiling",
    "power_table": "power.power",
    "preregister": "registration",
    "rate_table": "rates",
    "read_similarity": "imported",
    "read_transfer": "imported",
    "regress": "regression",
    "reml": "mixed",
    "run": "study",
    "screen": "screening",
    "transfer_table": "transfer",
    "verify": "verification",
    "write_report": "report",
}
"""Public name to its module, with the name there where the public one would hide a module."""
__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "Corpus",
    "LanguageModel",
    "Predictor",
    "Registration",
    "Regression",
    "Result",
    "Sampled",
    "Similarity",
    "Study",
    "TransferMatrix",
    "Verdict",
    "base_rates",
    "binomial_slopes",
    "calibrate",
    "cell_logits",
    "clustered_rate",
    "compare_traits",
    "concept_graph",
    "embed_map",
    "estimate_components",
    "forecast_transfer",
    "generate",
    "holm",
    "layer_profile",
    "load_corpus",
    "load_dataset",
    "load_messages",
    "load_model",
    "max_stat",
    "mixed_slopes",
    "multiverse_table",
    "noise_ceiling",
    "power_table",
    "preregister",
    "rate_table",
    "read_similarity",
    "read_transfer",
    "regress",
    "reml",
    "run",
    "screen",
    "transfer_table",
    "verify",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module the first time it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'conceptnet_em' has no attribute '{name}'")
    home, _, own = _HOMES[name].partition(".")
    return getattr(importlib.import_module(f"conceptnet_em.{home}"), own or name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*__all__, "__version__"])
