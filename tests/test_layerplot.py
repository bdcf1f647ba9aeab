"""The picture of a layer profile: what is known is drawn, gaps and single layers too."""

from __future__ import annotations

from dataclasses import replace

import matplotlib.colors
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from conceptnet_em.errors import InputError
from conceptnet_em.layerplot import CASE, LEAD, _panel, draw_layers
from conceptnet_em.layerprofile import LayerProfile, LayerTest, Nested

NAN = float("nan")


def rows(trait: str, ts) -> list[LayerTest]:
    status = ["not_estimable" if t != t else "ok" for t in ts]
    return [
        LayerTest(
            trait, n, 0.1, t, 0.2, 0.4, NAN if t != t else 2.0, NAN if t != t else 3.0, 0.9, s, ""
        )
        for n, (t, s) in enumerate(zip(ts, status, strict=True))
    ]


def profile(ts: dict[str, list[float]], *, layer: int | None = 1) -> LayerProfile:
    count = len(next(iter(ts.values())))
    tests = [row for trait, found in ts.items() for row in rows(trait, found)]
    told = (
        Nested("misaligned", ("sporty",), layer, 0.1, ts["misaligned"][1], 0.01, 0.02)
        if (layer is not None)
        else Nested("misaligned", status="not_estimable", reason="there is none")
    )
    nested = (told, Nested("sporty", ("misaligned",), 0, 0.1, 1.0, 0.3, 0.4))
    return LayerProfile(
        "activation",
        "misaligned",
        "contrast",
        "all",
        "in-domain units",
        tuple(range(count)),
        tuple(tests),
        nested,
        "free relabelling of 6 domains (6! = 720)",
        720,
        True,
        0.05,
        (),
    )


WHOLE = {
    "average": [0.5, 4.0, 1.0],
    "misaligned": [-0.5, 3.5, 0.2],
    "controls": [0.4, 3.8, 1.1],
    "sporty": [0.1, 3.0, 2.0],
    "sycophantic": [0.3, 2.5, 0.5],
}


def share(path, colour: str) -> float:
    """The share of pixels of a colour."""
    pixels = imread(path)[..., :3]
    return float((np.abs(pixels - matplotlib.colors.to_rgb(colour)) < 0.02).all(axis=2).mean())


def drawn(found: LayerProfile, name: str):
    axis = Figure().subplots()
    _panel(axis, found, name)
    return axis


def test_the_average_and_the_case_have_a_panel_each(tmp_path):
    path = draw_layers(profile(WHOLE), tmp_path / "layers.png")
    assert path == tmp_path / "layers.png"
    assert imread(path).shape[1] > 1_300
    assert share(path, LEAD) > 1e-3
    assert share(path, CASE) > 1e-3


def test_lines_are_the_t_values_and_the_star_is_where_the_controls_chose():
    axis = drawn(profile(WHOLE), "misaligned")
    lines = {line.get_label(): line for line in axis.get_lines()}
    for trait in ("misaligned", "sporty", "sycophantic"):
        assert list(lines[trait].get_ydata()) == WHOLE[trait]
    assert "controls" not in lines
    (star,) = (line for label, line in lines.items() if "chosen on controls" in label)
    assert (list(star.get_xdata()), list(star.get_ydata())) == ([1], [3.5])
    assert "p = 0.010\n(0.020 where" in star.get_label()
    assert lines["misaligned"].get_linewidth() > lines["sporty"].get_linewidth()


def test_bands_lie_at_the_thresholds_and_leave_gaps_where_nothing_is_known():
    gap = {**WHOLE, "average": [0.5, NAN, 1.0]}
    axis = drawn(profile(gap), "average")
    dashed = next(line for line in axis.get_lines() if "largest |t|" in str(line.get_label()))
    np.testing.assert_array_equal(dashed.get_ydata(), [3, 3, NAN, NAN, 3, 3])
    np.testing.assert_array_equal(dashed.get_xdata(), [-0.5, 0.5, 0.5, 1.5, 1.5, 2.5])
    (band,) = axis.collections
    corners = np.concatenate([path.vertices for path in band.get_paths()])
    assert (corners[:, 1].min(), corners[:, 1].max()) == (-2, 2)
    assert not ((corners[:, 0] > 0.5) & (corners[:, 0] < 1.5)).any()
    assert "misaligned" not in {line.get_label() for line in axis.get_lines()}


def test_a_choice_that_could_not_be_made_has_no_star():
    labels = [
        str(line.get_label()) for line in drawn(profile(WHOLE, layer=None), "misaligned").lines
    ]
    assert not any("chosen" in label for label in labels)


def test_a_study_without_the_case_has_one_panel(tmp_path):
    found = profile({key: ts for key, ts in WHOLE.items()})
    found = replace(found, case="spiteful", nested=(Nested("spiteful", status="not_estimable"),))
    path = draw_layers(found, tmp_path / "layers.png")
    assert imread(path).shape[1] < 1_300
    assert share(path, CASE) == 0


def test_a_single_layer_and_a_single_trait_can_be_drawn(tmp_path):
    found = profile({"misaligned": [1.0, 2.0]}, layer=None)
    one = replace(found, rows=found.rows[:1], layers=(0,))
    path = draw_layers(one, tmp_path / "layers.png")
    assert share(path, CASE) > 1e-5
    axis = drawn(one, "misaligned")
    assert next(x for x in axis.get_lines() if x.get_label() == "misaligned").get_marker() == "o"


def test_a_threshold_that_nothing_can_pass_is_a_gap(tmp_path):
    found = profile(WHOLE)
    endless = [replace(row, simultaneous=float("inf")) for row in found.rows]
    path = draw_layers(replace(found, rows=tuple(endless)), tmp_path / "layers.png")
    assert share(path, LEAD) > 1e-3


def test_nothing_to_draw_is_refused(tmp_path):
    found = profile(WHOLE)
    lost = [replace(row, status="not_estimable", reason="too few") for row in found.rows]
    with pytest.raises(InputError, match="no layer is estimable \\(too few\\)"):
        draw_layers(replace(found, rows=tuple(lost)), tmp_path / "layers.png")
    assert not (tmp_path / "layers.png").exists()
