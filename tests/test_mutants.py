"""Faults that no other test would notice, each planted once and found here."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import special

from conceptnet_em.rates import binomial_slopes


def uneven(size: int = 8) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Similarity, and counts on a logit line whose cells have 200 to 20,000 answers."""
    rng, names = np.random.default_rng(3), [f"d{k}" for k in range(size)]
    s = pd.DataFrame(rng.normal(size=(size, size)), names, names)
    main = np.linspace(-0.5, 0.5, size)
    rate = special.expit(-1 + s.to_numpy() + main[:, None] - main**2)
    n = (200 * 10 ** rng.uniform(0, 2, size=(size, size))).astype(int)
    rows = [
        (a, b, round(rate[i, j] * n[i, j]), n[i, j])
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if a != b
    ]
    return s, pd.DataFrame(rows, columns=["source", "target", "k", "n"])


def test_cells_with_more_answers_weigh_more_as_in_a_binomial_glm() -> None:
    s, counts = uneven()
    row = binomial_slopes(counts, s).table.loc["all"]
    x = [s.loc[r.source, r.target] for r in counts.itertuples()]
    dummies = [pd.get_dummies(counts[key], dtype=float).iloc[:, 1:] for key in ("source", "target")]
    design = np.column_stack([x, np.ones(len(counts)), *dummies])
    both = np.column_stack([counts["k"], counts["n"] - counts["k"]])
    fit = sm.GLM(both, design, family=sm.families.Binomial()).fit()
    assert row["slope"] == pytest.approx(float(fit.params[0]), rel=1e-3)
    assert row["se"] == pytest.approx(float(fit.bse[0]), rel=0.02)
