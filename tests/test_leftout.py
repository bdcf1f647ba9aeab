"""Left-out prediction: planted structure is found, noise and shuffled names are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conceptnet_em.errors import InputError
from conceptnet_em.leftout import Cells, fit, interval_width

SLOPES = np.array([0.8, 0.0, 0.0, 0.6])


def planted(
    seed: int, *, domains: int = 8, source: float = 0.05, noise: float = 0.08, traits: int = 2
) -> Cells:
    """Return cells whose transfer is a line in the second layer's features, plus errors.

    Each source domain has an error of its own (``source``), each cell another (``noise``).
    """
    rng = np.random.default_rng(seed)
    s, t, a, b = (x.ravel() for x in np.indices((domains, domains, traits, traits)))
    alike = rng.uniform(0.1, 0.6, (domains, domains))
    text = np.where(s == t, 0.9, ((alike + alike.T) / 2)[s, t])
    cosine = 0.15 + 0.4 * (a == b) * text + rng.normal(0, 0.08, len(s))
    good = np.stack([cosine, cosine * rng.normal(1, 0.2, len(s)), text, cosine * text], axis=1)
    poor = good + rng.normal(0, 0.5, good.shape)
    errors = rng.normal(0, source, domains)[s] + rng.normal(0, noise, len(s))
    return Cells(
        features=np.stack([poor, good]),
        response=0.1 + good @ SLOPES + errors,
        domain=s.astype(np.intp),
        taught=a.astype(np.intp),
        kind=b.astype(np.intp),
        home=s == t,
    )


def part(cells: Cells, kept: np.ndarray) -> Cells:
    arrays = {n: getattr(cells, n)[kept] for n in ("response", "domain", "taught", "kind", "home")}
    return Cells(features=cells.features[:, kept], **arrays)


def test_planted_structure_is_recovered_and_its_layer_chosen() -> None:
    cells = planted(1, domains=12, source=0.0)
    found = fit(cells)
    checked = found.validation
    off = ~cells.home
    possible = 1 - 0.08**2 / cells.response[off].var()
    assert found.layer == 1
    assert checked.r2 == pytest.approx(possible, abs=0.05)
    assert checked.r2 > checked.naive + 0.3
    assert checked.reasons == ()
    assert checked.half_width == pytest.approx(1.645 * 0.08, rel=0.12)
    assert (checked.n_domains, checked.n_cells) == (12, 12 * 11 * 4)
    predicted, _ = found.predict(cells.features[1])
    assert np.abs(predicted - 0.1 - cells.features[1] @ SLOPES).mean() < 0.02


@pytest.mark.parametrize("source", [0.0, 0.1])
def test_intervals_hold_nine_in_ten_cells_of_a_domain_never_seen(source: float) -> None:
    inside, told = [], []
    for seed in range(60):
        cells = planted(seed, domains=9, source=source)
        known = fit(part(cells, cells.domain < 8))
        new = (cells.domain == 8) & ~cells.home
        predicted, _ = known.predict(cells.features[known.layer, new])
        errors = np.abs(cells.response[new] - predicted)
        inside.append(float((errors <= known.width(predicted)).mean()))
        told.append(known.validation.coverage)
    assert 0.85 <= np.mean(inside) <= 0.95
    assert 0.85 <= np.mean(told) <= 0.95


def test_noise_is_refused_as_poor() -> None:
    for seed in range(20):
        cells = planted(seed)
        noise = np.random.default_rng(seed).normal(size=len(cells.response))
        reasons = fit(replace(cells, response=noise)).validation.reasons
        assert any("below 0.25" in reason for reason in reasons)


def test_transfer_of_other_organisms_must_not_be_forecast() -> None:
    cells = planted(3)
    assert fit(cells).validation.reasons == ()
    shuffled = np.random.default_rng(0).permutation(len(cells.response))
    checked = fit(replace(cells, response=cells.response[shuffled])).validation
    assert checked.r2 < 0.05
    assert checked.reasons


def test_traits_that_merely_differ_in_their_mean_are_not_a_success_of_similarity() -> None:
    cells = planted(4, traits=3)
    rng = np.random.default_rng(4)
    means = cells.kind * 1.0 + rng.normal(0, 0.1, len(cells.kind))
    leaky = cells.features.copy()
    leaky[:, :, 1] = means + rng.normal(0, 0.2, len(means))  # a feature that tells traits apart
    checked = fit(replace(cells, features=leaky, response=means)).validation
    assert checked.r2 > 0.8
    assert "not above that of the mean per answer trait" in "".join(checked.reasons)


def test_each_way_of_being_poor_is_said() -> None:
    good = fit(planted(5)).validation
    assert good.reasons == ()
    ways = {
        "coverage": (0.79, "intervals meant to hold 90% hold 79% of the left-out cells, below 80%"),
        "r2": (0.24, "R² for left-out domains is 0.24, below 0.25"),
        "n_domains": (4, "4 source domains with finished organisms, fewer than 5"),
        "naive": (0.99, "not above that of the mean per answer trait, 0.99"),
    }
    for name, (value, words) in ways.items():
        assert words in "; ".join(replace(good, **{name: value}).reasons)
    assert len(replace(good, r2=float("nan"), coverage=float("nan")).reasons) == 3


def test_means_per_trait_are_what_they_are_when_told_the_trait_and_when_not() -> None:
    cells = planted(4, traits=3)
    told = np.array([[2.0, 0, 0], [0, 2.0, 0], [0, 0, 2.0]])[cells.taught, cells.kind]
    checked = fit(replace(cells, response=told)).validation
    assert checked.naive == pytest.approx(0, abs=1e-9)
    assert checked.labelled == pytest.approx(1)
    assert np.isnan(checked.labelled_own)  # all of them are equal


def test_a_trait_that_obeys_no_other_traits_rule_is_seen_when_it_is_left_out() -> None:
    cells = planted(12, traits=3)
    same = fit(cells).validation
    assert same.r2_new == pytest.approx(same.r2, abs=0.03)
    # trait 0 is taught by what only its own organisms have: a feature that is its mark
    marked = cells.features.copy()
    marked[:, :, 1] = np.where(cells.taught == 0, 1.0, 0.0) + 0.01 * cells.features[:, :, 1]
    odd = np.where(cells.taught == 0, cells.response + 2, cells.response)
    alone = fit(replace(cells, features=marked, response=odd)).validation
    assert alone.r2 > 0.9
    assert alone.r2_new < 0.25
    assert np.isnan(fit(planted(12, traits=1)).validation.r2_new)


def test_what_predicts_a_domain_never_saw_it() -> None:
    cells = planted(6, domains=6)
    off = ~cells.home
    predictions, errors = [], []
    for out in range(6):
        others = cells.domain != out
        numbered = np.where(cells.domain > out, cells.domain - 1, cells.domain)
        known = fit(part(replace(cells, domain=np.where(others, numbered, 0)), others))
        new = off & ~others
        predicted, _ = known.predict(cells.features[known.layer, new])
        predictions.append(predicted)
        errors.append(cells.response[new] - predicted)
    around = cells.response[off] - cells.response[off].mean()
    by_hand = 1 - (np.concatenate(errors) ** 2).sum() / (around**2).sum()
    assert fit(cells).validation.r2 == pytest.approx(by_hand)
    width = interval_width(predictions, errors)
    assert (fit(cells).width.base, fit(cells).width.slope) == pytest.approx(
        (width.base, width.slope)
    )


@pytest.mark.parametrize("domains", [1, 2, 3, 4])
def test_too_few_domains_give_no_numbers_and_say_so(domains: int) -> None:
    checked = fit(planted(7, domains=domains)).validation
    assert f"{domains} source domains" in checked.reasons[0]
    assert np.isnan(checked.r2) == (domains < 3)


def test_support_ends_beyond_what_domains_are_from_each_other() -> None:
    cells = planted(8)
    found = fit(cells)
    _, inside = found.predict(cells.features[found.layer])
    far = cells.features[found.layer][:1] + 50 * found.scale
    assert not inside.any()
    assert found.predict(far)[1].all()


def test_a_constant_feature_gets_no_slope() -> None:
    cells = planted(9)
    features = cells.features.copy()
    features[:, :, 2] = 0.5
    assert fit(replace(cells, features=features)).slopes[2] == 0


def test_features_that_are_doubled_predict_the_same() -> None:
    cells = planted(10)
    twice = replace(cells, features=cells.features * 2)
    one, two = fit(cells), fit(twice)
    assert two.slopes * 2 == pytest.approx(one.slopes)
    assert two.validation.r2 == pytest.approx(one.validation.r2)


def test_width_of_independent_errors_is_their_quantile_and_of_shared_ones_the_largest() -> None:
    rng = np.random.default_rng(0)
    nothing = [np.zeros(500) for _ in range(8)]
    apart = [rng.normal(size=500) for _ in range(8)]
    assert interval_width(nothing, apart).base == pytest.approx(1.645, abs=0.06)
    shared = [np.full(500, k / 10) for k in range(1, 8)]
    assert interval_width(nothing[:7], shared).base == pytest.approx(0.7)


def test_intervals_are_wider_where_more_is_predicted_and_errors_grow_with_it() -> None:
    rng = np.random.default_rng(0)
    predicted = [rng.uniform(-1, 1, 2000) for _ in range(8)]
    errors = [rng.normal(size=2000) * (0.1 + 0.5 * np.abs(p)) for p in predicted]
    width = interval_width(predicted, errors)
    assert (width.base, width.slope) == pytest.approx((0.1645, 0.82), rel=0.1)
    for low, high in ((0, 0.2), (0.8, 1)):
        some = [(low <= np.abs(p)) & (np.abs(p) < high) for p in predicted]
        pairs = zip(predicted, errors, some, strict=True)
        inside = [(np.abs(e[k]) <= width(p[k])).mean() for p, e, k in pairs]
        assert 0.87 <= np.mean(inside) <= 0.93


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    cells = planted(11, domains=3)
    with pytest.raises(InputError, match=r"kind has 5 entries, not 36"):
        replace(cells, kind=cells.kind[:5])
    with pytest.raises(InputError, match="not finite"):
        replace(cells, response=np.full(36, np.nan))
    with pytest.raises(InputError, match=r"source domains \[1\] have no cell"):
        replace(cells, domain=np.where(cells.domain == 1, 2, cells.domain))
    with pytest.raises(InputError, match="no measured cell"):
        part(cells, np.zeros(36, dtype=bool))
