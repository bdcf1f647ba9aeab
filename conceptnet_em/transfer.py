"""Measure how far a trait trained on one domain shows in the others.

Scores in, transfer out, on three scales: ``raw`` (margin against the neutral answer, organism minus
base), ``net`` (raw minus the control organism's raw) and ``contrast`` (trait answer minus the mean
over the study's traits, organism minus base, net of the control organism). Units are nats/token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd

from conceptnet_em.errors import InputError
from conceptnet_em.records import Reliability, TransferMatrix

SCALES = ("raw", "net", "contrast")
REFERENCE = "neutral"
ORGANISM = ["trait", "source", "replicate"]
CELL = [*ORGANISM, "target", "answer_trait", "part"]
_REQUIRED = [
    "organism",
    "trait",
    "source",
    "recipe",
    "replicate",
    "target",
    "item",
    "answer_trait",
    "part",
    "n_tokens",
    "logprob",
    "status",
]


def item_effects(scores: pd.DataFrame) -> pd.DataFrame:
    """Return what each organism moved on each item, before any averaging.

    Args:
        scores: the ``scores`` table; rows of the base have ``organism == "base"``.

    Returns:
        One row per organism × target × item × answer trait × part with columns ``raw, net,
        contrast`` (nats/token, NaN where not measured), ``status`` and ``control`` (whether the
        control organism is there).

    Raises:
        InputError: a column is missing, there is no base or no neutral answer, or several recipes
            are mixed.
    """
    _check(scores)
    per_token = _per_token(scores)
    reference = per_token[REFERENCE]
    margin = per_token.sub(reference, axis=0)
    contrast = per_token.sub(per_token.mean(axis=1, skipna=False), axis=0)
    moved = pd.DataFrame(
        {"raw": _minus_base(margin), "contrast": _minus_base(contrast)}
    ).reset_index()
    moved = moved.merge(_identities(scores), on="organism", how="left")
    moved = moved.merge(_statuses(scores), how="left")
    return _minus_control(moved)


def own_items(effects: pd.DataFrame, part: str = "all") -> pd.DataFrame:
    """Keep what each trait moved of its own answers, of what :func:`item_effects` returned."""
    own = (effects["trait"] == effects["answer_trait"]) & (effects["part"] == part)
    return effects[own & (effects["trait"] != REFERENCE)]


def _check(scores: pd.DataFrame) -> None:
    if missing := [column for column in _REQUIRED if column not in scores]:
        raise InputError(f"the scores table lacks {missing}; it has {list(scores.columns)}")
    if not (scores["organism"] == "base").any():
        raise InputError("the scores table has no rows of the base model (organism 'base')")
    if REFERENCE not in set(scores["answer_trait"]):
        raise InputError("the scores table has no neutral answers, the reference of every margin")
    recipes = scores["recipe"].dropna().unique()
    if len(recipes) > 1:
        raise InputError(f"scores of several recipes {sorted(recipes)}; take one at a time")


def _per_token(scores: pd.DataFrame) -> pd.DataFrame:
    counted = scores.assign(
        value=np.where(
            (scores["status"] == "ok") & (scores["n_tokens"] > 0),
            scores["logprob"] / scores["n_tokens"].where(scores["n_tokens"] > 0),
            np.nan,
        )
    )
    return counted.pivot(
        index=["organism", "target", "item", "part"], columns="answer_trait", values="value"
    )


def _minus_base(wide: pd.DataFrame) -> pd.Series:
    """Subtract the base model's row of the same item; the base's own rows are dropped."""
    base = wide.xs("base", level="organism")
    organisms = wide.drop(index="base", level="organism")
    where = cast("pd.MultiIndex", organisms.index).droplevel(["organism"])
    moved = organisms - base.reindex(where).to_numpy()
    return cast("pd.Series", moved.stack(future_stack=True))  # keeps NaN in pandas 2 too


def _identities(scores: pd.DataFrame) -> pd.DataFrame:
    trained = scores.loc[scores["organism"] != "base", ["organism", *ORGANISM]]
    return trained.drop_duplicates()


def _statuses(scores: pd.DataFrame) -> pd.DataFrame:
    keys = ["organism", "target", "item", "answer_trait", "part"]
    return scores.loc[scores["organism"] != "base", [*keys, "status"]]


def _minus_control(moved: pd.DataFrame) -> pd.DataFrame:
    where = ["source", "replicate", "target", "item", "answer_trait", "part"]
    control = moved.loc[moved["trait"] == REFERENCE, [*where, "raw", "contrast"]]
    joined = moved.merge(control, on=where, how="left", suffixes=("", "_control"))
    is_reference = (joined["trait"] == REFERENCE).to_numpy()
    net = (joined["raw"] - joined["raw_control"]).where(~is_reference)
    contrast = (joined["contrast"] - joined["contrast_control"]).where(~is_reference)
    neutral_answer = joined["answer_trait"] == REFERENCE
    return joined.assign(
        raw=joined["raw"].mask(neutral_answer),
        net=net.mask(neutral_answer),
        contrast=contrast,
        control=joined["raw_control"].notna(),
    ).drop(columns=["raw_control", "contrast_control"])


def transfer_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the ``transfer`` table: mean over items, with standard error, on the three scales.

    Returns:
        Columns ``trait, source, replicate, target, answer_trait, part, scale, value, se, n_items,
        trait_set, status``; ``value`` in nats/token, ``se`` over items. A cell that cannot be had
        is NaN with its reason in ``status``.

    Raises:
        InputError: as :func:`item_effects`.
    """
    effects = item_effects(scores)
    traits = ",".join(sorted(set(scores["answer_trait"])))
    long = effects.melt(
        id_vars=[*CELL, "item", "status", "control"],
        value_vars=list(SCALES),
        var_name="scale",
        value_name="moved",
    )
    groups = long.groupby([*CELL, "scale"], sort=True, dropna=False)
    table = groups.agg(
        value=("moved", "mean"),
        sd=("moved", "std"),
        n_items=("moved", "count"),
        worst=("status", _worst),
        control=("control", "any"),
    ).reset_index()
    table["se"] = table["sd"] / np.sqrt(table["n_items"].where(table["n_items"] > 1))
    table["trait_set"] = traits
    table["status"] = _cell_status(table)
    return table[[*CELL, "scale", "value", "se", "n_items", "trait_set", "status"]]


def _worst(statuses: pd.Series) -> str:
    found = set(statuses)
    return next((s for s in ("failed", "missing") if s in found), "ok")


def _cell_status(table: pd.DataFrame) -> np.ndarray:
    neutral_trained = (table["trait"] == REFERENCE) & (table["scale"] != "raw")
    neutral_answer = (table["answer_trait"] == REFERENCE) & (table["scale"] != "contrast")
    empty = table["n_items"] == 0
    return np.select(
        [
            neutral_trained | neutral_answer,
            ~empty,
            table["worst"] != "ok",
            ~table["control"] & (table["scale"] != "raw"),
        ],
        ["reference", "ok", table["worst"], "not_estimable"],
        default="missing",
    )


def matrix(
    table: pd.DataFrame,
    trait: str,
    *,
    answer_trait: str | None = None,
    scale: str = "contrast",
    part: str = "all",
    replicate: int | None = None,
) -> TransferMatrix:
    """Return one labelled source × target matrix of a transfer table.

    Args:
        table: the ``transfer`` table.
        trait: the trait trained.
        answer_trait: the trait measured; the trained one when none. Another one gives leakage.
        scale: ``raw``, ``net`` or ``contrast``.
        part: ``all``, ``code`` or ``remark``.
        replicate: one replicate; their mean when none.

    Raises:
        InputError: nothing in the table matches; says what there is.
    """
    measured = answer_trait or trait
    chosen = table[
        (table["trait"] == trait)
        & (table["answer_trait"] == measured)
        & (table["scale"] == scale)
        & (table["part"] == part)
    ]
    if replicate is not None:
        chosen = chosen[chosen["replicate"] == replicate]
    if chosen.empty:
        raise InputError(_nothing(table, trait, measured, scale, part, replicate))
    values = _frame(chosen, "value", "mean")
    count = chosen["replicate"].nunique()
    se = _frame(chosen.assign(square=chosen["se"] ** 2), "square", "sum") ** 0.5 / count
    n_items = _frame(chosen, "n_items", "sum")
    return TransferMatrix(trait, measured, scale, part, replicate, values, se, n_items)


def _frame(chosen: pd.DataFrame, column: str, how: str) -> pd.DataFrame:
    replicates = chosen["replicate"].nunique()

    def strict(values: pd.Series) -> float:
        whole = len(values) == replicates and values.notna().all()
        return float(values.agg(how)) if whole else float("nan")

    frame = chosen.pivot_table(
        index="source", columns="target", values=column, aggfunc=strict, dropna=False
    )
    shared = [name for name in frame.columns if name in set(frame.index)]
    rows = shared + [name for name in frame.index if name not in shared]
    columns = shared + [name for name in frame.columns if name not in shared]
    return frame.reindex(index=rows, columns=columns)


def _nothing(table: pd.DataFrame, *came: object) -> str:
    fields = ("trait", "answer_trait", "scale", "part", "replicate")
    asked = ", ".join(f"{f} {c}" for f, c in zip(fields, came, strict=True) if c is not None)
    there = "; ".join(f"{f}: {', '.join(map(str, sorted(table[f].unique())))}" for f in fields)
    return f"no transfer for {asked}; there is {there}"


def split_half(
    effects: pd.DataFrame,
    trait: str,
    *,
    scale: str = "contrast",
    part: str = "all",
    replicate: int | None = None,
    splits: int = 200,
    seed: int = 0,
) -> Reliability:
    """Return the split-half reliability of one trait's off-diagonal cells.

    Items of each target are split at random into halves, the two matrices are correlated over the
    off-diagonal cells, averaged over ``splits`` and stepped up with Spearman-Brown.

    Args:
        effects: what :func:`item_effects` returned.
        trait: the trait, trained and measured.
        scale: ``raw``, ``net`` or ``contrast``.
        part: ``all``, ``code`` or ``remark``.
        replicate: one replicate; their mean when none.
        splits: random splits to average over.
        seed: of the splits.

    Returns:
        Two numbers: of the cells as they are, and after source and target effects are taken out
        (the part that similarity can speak about). NaN when there is too little to split.
    """
    cube, diagonal = _cube(effects, trait, scale, part, replicate)
    if cube.size == 0 or cube.shape[2] < 4 or np.isnan(cube).any() or (~diagonal).sum() < 4:
        return Reliability(float("nan"), float("nan"), splits)
    rng = np.random.default_rng(seed)
    found = np.array([_one_split(cube, diagonal, rng) for _ in range(splits)])
    with np.errstate(invalid="ignore"):
        stepped = 2 * found.mean(axis=0) / (1 + found.mean(axis=0))
    return Reliability(float(stepped[0]), float(stepped[1]), splits)


def _cube(
    effects: pd.DataFrame, trait: str, scale: str, part: str, replicate: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(sources, targets, items)`` values and which cells are in-domain."""
    own = effects[
        (effects["trait"] == trait)
        & (effects["answer_trait"] == trait)
        & (effects["part"] == part)
        & (effects["replicate"].eq(replicate) if replicate is not None else True)
    ]
    mean = own.groupby(["source", "target", "item"], sort=True)[scale].mean().reset_index()
    mean["number"] = mean.groupby(["source", "target"]).cumcount()
    wide = mean.pivot(index="source", columns=["target", "number"], values=scale)
    targets = list(dict.fromkeys(wide.columns.get_level_values(0)))
    items = min((int(n) for n in mean.groupby("target")["number"].max() + 1), default=0)
    layers = [wide[target].iloc[:, :items].to_numpy() for target in targets]
    cube = np.stack(layers, axis=1) if layers else np.empty((0, 0, 0))
    return cube, np.array([[s == t for t in targets] for s in wide.index])


def _one_split(
    cube: np.ndarray, diagonal: np.ndarray, rng: np.random.Generator
) -> tuple[float, float]:
    n_items = cube.shape[2]
    orders = rng.permuted(np.tile(np.arange(n_items), (cube.shape[1], 1)), axis=1)
    shuffled = np.take_along_axis(cube, orders[None, :, :], axis=2)
    halves = [shuffled[:, :, k::2].mean(axis=2) for k in (0, 1)]
    plain = _correlate(*(half[~diagonal] for half in halves))
    centred = _correlate(*(double_centre(half, ~diagonal) for half in halves))
    return plain, centred


def double_centre(values: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Return the kept cells of a matrix, as a vector, without source and target effects."""
    rows, columns = np.nonzero(keep)
    dummies = np.hstack(
        [np.eye(values.shape[0])[rows], np.eye(values.shape[1])[columns]],
    )
    cells = values[keep]
    fitted, *_ = np.linalg.lstsq(dummies, cells, rcond=None)
    return cast("np.ndarray", cells - dummies @ fitted)


def _correlate(first: np.ndarray, second: np.ndarray) -> float:
    if first.std() < 1e-12 or second.std() < 1e-12:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def in_domain_constant(values: pd.DataFrame) -> tuple[float, float]:
    """Return the mean of a matrix's diagonal and its t over domains (NaN with under 2, or all 0).

    The constant turns a trait's transfer into in-domain units. H0 of the t: no effect at home.
    """
    shared = [name for name in values.index if name in values.columns]
    own = np.array([values.loc[name, name] for name in shared], dtype=float)
    own = own[~np.isnan(own)]
    if len(own) < 2:
        return (float(own[0]) if len(own) else float("nan")), float("nan")
    spread = own.std(ddof=1) / np.sqrt(len(own))
    mean = float(own.mean())
    return mean, mean / float(spread) if spread > 0 else mean * float("inf")


def traits_trained(table: pd.DataFrame) -> Sequence[str]:
    """Return the traits with transfer of their own: all but the reference, sorted."""
    return sorted(set(table["trait"]) - {REFERENCE})
