"""What a comparison says: an answer where there is one, else its status and the reason."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from conceptnet_em.comparison import Comparison, Intercept, OneAgainstMany, SlopeContrast
from conceptnet_em.equivalence import compare_traits

PARTS = ["slopes", "contrasts", "intercepts", "against_many", "hold_out"]


def compared(size: int, controls: int) -> Comparison:
    """The case and its controls on noise, without in-domain cells."""
    rng, names = np.random.default_rng(size), [f"d{k}" for k in range(size)]
    off = ~np.eye(size, dtype=bool)

    def noise() -> pd.DataFrame:
        return pd.DataFrame(rng.normal(size=(size, size)), names, names).where(off)

    given = {trait: noise() for trait in ["misaligned", *(f"c{k}" for k in range(controls))]}
    return compare_traits(given, noise(), permutations=99)


WHOLE = compared(4, 3)
"""Too few domains: nothing can be had."""
PART = compared(7, 2)
"""Too few controls for one of the claims."""


@pytest.mark.parametrize(("found", "lost"), [(WHOLE, 4 + 1 + 1 + 1 + 3), (PART, 1)])
def test_what_could_not_be_estimated_says_so_wherever_it_is_printed(found, lost):
    """Text, table and JSON: the status and its reason, and never an answer."""
    written, counted = json.loads(found.to_json()), 0
    for part, table in zip(PARTS, found.tables().values(), strict=True):
        shown = table.to_dict("records")
        for row, printed, kept in zip(getattr(found, part), shown, written[part], strict=True):
            if row.status == "ok":
                assert printed.get("equivalent", "yes") in {"yes", "no", "cannot tell"}
                continue
            counted += 1
            assert row.reason
            assert printed[""] == row.reason
            assert printed.get("equivalent", "not_estimable") == "not_estimable"
            assert (kept["status"], kept["reason"]) == ("not_estimable", row.reason)
            assert row.reason in str(found)
    assert counted == lost


def test_a_comparison_that_could_not_be_made_has_no_conclusion():
    assert WHOLE.conclusion == WHOLE.primary.equivalent == "not_estimable"
    assert "cannot tell" not in str(WHOLE)
    assert "equivalent within" not in str(WHOLE)
    (told,) = WHOLE.sentences()
    assert "is not_estimable: 4 domains are too few" in told


@pytest.mark.parametrize("kind", [SlopeContrast, Intercept, OneAgainstMany])
def test_a_status_stands_for_the_answer_whatever_the_numbers(kind):
    first = {
        SlopeContrast: {"controls": (), "p_above": 0.01, "p_below": 0.01},
        Intercept: {"p_above": 0.01, "p_below": 0.01},
        OneAgainstMany: {"n_controls": 8, "difference": 0.0, "half_width": 0.1},
    }[kind]
    one = kind("all", margin=0.2, **first)
    assert one.equivalent == "yes"
    lost = replace(one, status="not_estimable", reason="lost")
    assert lost.equivalent == "not_estimable"
    if kind is SlopeContrast:
        assert lost.conclusion == "not_estimable"


@pytest.mark.parametrize(("difference", "word"), [(0.05, "yes"), (0.5, "no"), (0.2, "cannot tell")])
def test_one_against_many_is_equivalent_where_its_interval_is_within_the_margin(difference, word):
    for sign in (1, -1):
        row = OneAgainstMany("all", 8, 0.2, difference=sign * difference, half_width=0.1)
        assert row.equivalent == word


def test_a_level_that_could_not_be_estimated_stands_in_the_paragraph_with_its_reason():
    blank = Intercept("all", 0.2, "not_estimable", "the domains' means do not differ")
    assert replace(PART, intercepts=(blank,)).sentences()[-1] == (
        "At equal similarity the difference is not_estimable: the domains' means do not differ."
    )
    assert "At equal similarity misaligned's transfer differs" in PART.sentences()[-1]
