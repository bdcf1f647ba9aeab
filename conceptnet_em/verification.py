"""Make every table of a run folder again from what lies beneath it, and say what does not agree.

Stored scores give the scores table, scores give transfer, stored similarities give similarities,
tables give the verdict's slopes and the multiverse; committed folders are held against their
manifests, organisms against the corpus, the registration against its digest. Nothing is written
and no model loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from conceptnet_em.cells import organisms
from conceptnet_em.config import StudyConfig, read_toml, study_faults
from conceptnet_em.corpus import FORMATS, Corpus, load_corpus
from conceptnet_em.errors import ConceptNetError, InputError, StoreError, raise_all
from conceptnet_em.gridchecks import FAIL, NOT_ESTIMABLE, PASS, Check, Material, acceptance
from conceptnet_em.multiverse import multiverse, slope_of
from conceptnet_em.registration import FILE, Registration, compare
from conceptnet_em.relabelling import Topics
from conceptnet_em.replicates import Key, measured, predictors
from conceptnet_em.similarity import from_table
from conceptnet_em.slopes import OTHER_TOPICS
from conceptnet_em.store import RunFolder, damage, digest, read_json
from conceptnet_em.transfer import transfer_table
from conceptnet_em.verdicts import WORDS

SAME = 1e-9
"""Two numbers differ when they are further apart than this, absolutely or of the larger one."""
WAYS = "multiverse.parquet"
SHOWN = 3
"""Faults of one kind that are named; the rest are counted."""
CELL = ["trait", "source", "replicate", "target", "answer_trait", "part", "scale"]
_USUAL = {"scale": "contrast", "part": "all"}
SCORED = ["organism", "target", "item", "answer_trait", "part"]
WAY = ["predictor", "layer", "scale", "without", "normalisation", "part"]
BLOCK = ["predictor", "layer", "trait", "replicate"]


@dataclass(frozen=True)
class Verification:
    """What was found in a run folder."""

    path: str
    checks: tuple[Check, ...]

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.status == FAIL]

    def __getitem__(self, name: str) -> Check:
        """Return the check whose name begins so."""
        for check in self.checks:
            if check.name.startswith(name):
                return check
        raise InputError(f"no check '{name}'; there is {', '.join(c.name for c in self.checks)}")

    def to_json(self) -> str:
        """Return the checks as JSON."""
        rows = [asdict(check) for check in self.checks]
        whole = {"path": self.path, "passed": not self.failed, "checks": rows}
        return json.dumps(whole, indent=2, ensure_ascii=False)

    def __str__(self) -> str:
        """Return one line a check, and a count."""
        count = {s: sum(c.status == s for c in self.checks) for s in (PASS, FAIL, NOT_ESTIMABLE)}
        told = ", ".join(f"{number} {status}" for status, number in count.items() if number)
        return "\n".join([*map(str, self.checks), f"{self.path}: {told}"])


@dataclass(frozen=True)
class _Run:
    """A run folder as it was read."""

    folder: RunFolder
    config: StudyConfig
    record: Mapping[str, Any]
    scores: pd.DataFrame
    table: pd.DataFrame
    alike: pd.DataFrame
    verdict: Mapping[str, Any]
    corpus: Corpus | None
    """The corpus that the run may have been made from; none when it lacks its domains."""
    lack: str
    """Why there is no such corpus."""

    @property
    def topics(self) -> Topics:
        """Topic and format of every domain, from the corpus, else from its name."""
        if self.corpus is None:
            return {domain: _named(domain) for domain in self.config.domains}
        return self.corpus.topics


def _named(domain: str) -> tuple[str, str]:
    """Read topic and format out of a name such as ``medical-code``."""
    topic, _, form = domain.rpartition("-")
    return (topic, form) if topic and form in FORMATS else (domain, "prose")


def verify(
    folder: str | Path,
    *,
    root: str | Path | None = None,
    shuffles: int = 200,
    permutations: int = 199,
    seed: int = 0,
) -> Verification:
    """Check a finished run from the ground up.

    Args:
        folder: the run folder.
        root: the corpus it was made from; the shipped one when none.
        shuffles: renamings of the domains in A13 and A15.
        permutations: relabellings of each of their tests.
        seed: of both.

    Returns:
        One check each for the committed folders, the organisms, the five tables, the registration,
        and A13, A15 and A16 of the acceptance list: ``pass``, ``fail`` or ``not_estimable``.

    Raises:
        StoreError: a file is missing or cannot be read, so that nothing can be checked.
        InputError: the study file or the corpus is wrong.
    """
    run = _read(RunFolder(folder), root)
    used = run.verdict.get("settings", {})
    scale, part = (str(used.get(key, usual)) for key, usual in _USUAL.items())
    found = measured(run.table, scale=scale, part=part)
    known = predictors(from_table(run.alike), found)
    given = Material(
        run.scores, run.table, found, known, run.topics, permutations, shuffles, seed, scale, part
    )
    parts: dict[str, Callable[[], str]] = {
        "committed folders": partial(_whole, run),
        "organisms": partial(_planned, run),
        "scores.parquet": partial(_scores, run),
        "transfer.parquet": partial(_transfer, run),
        "similarities.parquet": partial(_similarities, run),
        "verdict.json": partial(_verdict, run, given),
        WAYS: partial(_multiverse, run, given),
        FILE: partial(_registration, run),
    }
    checks = [_checked(name, make) for name, make in parts.items()]
    return Verification(str(run.folder.path), (*checks, *acceptance(given)))


class _Unknown(Exception):
    """It cannot be told."""


def _checked(name: str, make: Callable[[], str]) -> Check:
    """Turn what a check says, refuses or cannot tell into its result."""
    try:
        return Check(name, PASS, make())
    except _Unknown as reason:
        return Check(name, NOT_ESTIMABLE, str(reason))
    except ConceptNetError as error:
        return Check(name, FAIL, " ".join(str(error).split()))


def _refuse(faults: Sequence[str], of: str) -> None:
    """Raise some of the faults, counted."""
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise InputError(f"{len(faults)} {of}: {'; '.join(faults[:SHOWN])}{more}")


def _read(folder: RunFolder, root: str | Path | None) -> _Run:
    config, faults = study_faults(read_toml(folder.file("study.toml")))
    raise_all(faults)
    assert config is not None
    corpus, lack = None, ""
    try:
        corpus = load_corpus(root, traits=config.traits, domains=config.domains)
    except InputError as error:
        lack = f"{' '.join(str(error).split())}; give the run's corpus with --root"
    return _Run(
        folder,
        config,
        read_json(folder.file("provenance.json")),
        _parquet(folder.file("scores.parquet")),
        _parquet(folder.file("transfer.parquet")),
        _parquet(folder.file("similarities.parquet")),
        read_json(folder.file("verdict.json")),
        corpus,
        lack,
    )


def _parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None)
        raise StoreError(number, f"cannot read {path}: {' '.join(str(error).split())}") from error


# --- the folder ---------------------------------------------------------------------------------


def _places(folder: RunFolder) -> Iterator[Path]:
    """Yield every committed object, those set aside left out."""
    for pattern in ("organisms/*", "scores/*/*", "similarities/*"):
        for place in sorted(folder.path.glob(pattern)):
            if not place.name.startswith(".") and ".damaged-" not in place.name:
                yield place


def _whole(run: _Run) -> str:
    places = list(_places(run.folder))
    faults = [
        f"{place.relative_to(run.folder.path)}: {fault}"
        for place in places
        if (fault := damage(place)) is not None
    ]
    _refuse(faults, f"of {len(places)} damaged")
    return f"{len(places)} of {len(places)} match their manifests"


def _planned(run: _Run) -> str:
    """Compare the organisms' keys with those that corpus, recipe and model give."""
    listed = list(run.record["organisms"])
    missing = [key for key in listed if not (run.folder.organism(key) / "training.json").is_file()]
    _refuse(missing, f"of {len(listed)} organisms are not in the folder")
    if run.corpus is None:
        raise _Unknown(f"{len(listed)} are there; their items cannot be compared: {run.lack}")
    keys = {o.key: o.name for o in organisms(run.config, run.corpus, run.record["model"])}
    strange = [name for key, name in keys.items() if key not in listed]
    _refuse(strange, f"of {len(keys)} organisms were made from other items, or by another version")
    return f"{len(keys)} made from the items, the recipe and the model that the folder names"


# --- the tables ---------------------------------------------------------------------------------


def _scores(run: _Run) -> str:
    """Look every scored answer up among the stored ones."""
    stored = _stored_scores(run.folder, [*run.record["organisms"]], run.record["model"])
    mine = run.scores[run.scores["status"] == "ok"]
    numbers = ["n_tokens", "logprob"]
    joined = mine[[*SCORED, *numbers]].merge(stored, on=SCORED, how="left", suffixes=("", "_kept"))
    same = joined["n_tokens"].eq(joined["n_tokens_kept"]).fillna(False).astype(bool)
    joined["same"] = same & _close(joined["logprob"], joined["logprob_kept"])
    found = joined.groupby(SCORED, sort=False)["same"].any()
    wrong = [" → ".join(map(str, key[:3])) for key in found.index[~found.to_numpy()]]
    _refuse(wrong, f"of {len(found)} scores are not as they were stored")
    rest = len(run.scores) - len(mine)
    return f"{len(found):,} as they were stored" + f", {rest:,} not scored" * bool(rest)


def _stored_scores(
    folder: RunFolder, keys: Sequence[str], model: Mapping[str, Any]
) -> pd.DataFrame:
    """Return the stored scores of the base and of the organisms named."""
    base = f"base-{digest(model)}"
    bases = [base] if folder.score_folders(base) else _bases(folder)
    columns = [*SCORED[1:], "n_tokens", "logprob"]
    tables = [
        _arrow(place / "scores.parquet", columns, name)
        for key, name in [*((b, "base") for b in bases), *((key, key) for key in keys)]
        for place in folder.score_folders(key)
        if (place / "scores.parquet").is_file() and ".damaged-" not in place.name
    ]
    if not tables:
        raise InputError(f"{folder.path} holds no stored scores")
    found: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    return found


def _arrow(path: Path, columns: list[str], organism: str) -> Any:
    """Read one of thousands of small files, without pandas' toll on each.

    Raises:
        InputError: it cannot be read.
    """
    try:
        table = pq.ParquetFile(path).read(columns)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    return table.append_column("organism", pa.array([organism] * len(table)))


def _bases(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.path.glob("scores/base-*"))


def _close(one: pd.Series, other: pd.Series) -> pd.Series:
    """Say where two columns hold the same numbers, or both none."""
    a, b = one.to_numpy(np.float64), other.to_numpy(np.float64)
    return pd.Series(np.isclose(a, b, rtol=SAME, atol=SAME, equal_nan=True), one.index)


def _transfer(run: _Run) -> str:
    made = transfer_table(run.scores)
    both = run.table.merge(made, on=CELL, how="outer", suffixes=("", "_made"), indicator=True)
    same = both["_merge"].eq("both") & both["status"].eq(both["status_made"])
    for name in ("value", "se", "n_items"):
        same &= _close(both[name], both[f"{name}_made"])
    wrong = [_cell(row) for _, row in both[~same].head(SHOWN).iterrows()]
    _refuse([*wrong, *[""] * (int((~same).sum()) - len(wrong))], f"of {len(both)} cells differ")
    return f"{len(both):,} cells come out of scores.parquet again"


def _cell(row: pd.Series) -> str:
    where = f"{row['trait']} {row['source']} → {row['target']}, {row['scale']}"
    return f"{where}: {row['value']:.6g}, again {row['value_made']:.6g}"


def _similarities(run: _Run) -> str:
    """Find every matrix of the table among the stored ones."""
    stored = _blocks(
        _parquet(path)
        for path in sorted(run.folder.path.glob("similarities/*/similarities.parquet"))
        if ".damaged-" not in path.parent.name
    )
    faults, count = [], 0
    for name, cells in _blocks([run.alike]):
        count += 1
        kept = [other for key, other in stored if key == name]
        if not any(len(o) == len(cells) and _equal(cells, o) for o in kept):
            faults.append(f"{' '.join(name)} {'differs' if kept else 'is not stored'}")
    _refuse(faults, f"of {count} matrices are not as they were stored")
    return f"{count} matrices as they were stored"


def _blocks(tables: Any) -> list[tuple[tuple[str, ...], pd.Series]]:
    """Split tables into matrices: their name in words, and their cells by source and target."""
    found = []
    for table in tables:
        for _, rows in table.groupby(BLOCK, dropna=False, sort=False):
            first = rows.iloc[0]
            name = tuple(f"{key} {first[key]}" for key in BLOCK if pd.notna(first[key]))
            found.append((name, rows.set_index(["source", "target"])["value"].sort_index()))
    return found


def _equal(one: pd.Series, other: pd.Series) -> bool:
    return one.index.equals(other.index) and bool(_close(one, other).all())


def _verdict(run: _Run, given: Material) -> str:
    """Make the verdict's slopes again from the tables."""
    faults: list[str] = []
    passed: list[str] = []
    for row in run.verdict["slopes"]:
        if row["status"] != "ok":
            continue
        name = f"{row['trait']} on {row['predictor']}"
        name += "" if row["replicate"] is None else f", replicate {row['replicate']}"
        again = _slope_again(run, row, given)
        if again is None:
            passed.append(name)
        elif isinstance(again, str):
            faults.append(f"{name}: {again}")
        else:
            faults += _slope_faults(name, row, again)
    count = sum(row["status"] == "ok" for row in run.verdict["slopes"])
    _refuse(faults, f"of {count} slopes do not come out again (another version made them?)")
    if count == len(passed):
        raise _Unknown("it holds no slope of these tables to make again")
    more = f"; not made again: {', '.join(passed[:SHOWN])}" if passed else ""
    return f"{count - len(passed)} slopes come out of the tables again{more}"


def _slope_again(run: _Run, row: Mapping[str, Any], given: Material) -> Any:
    """Return a slope made again, a reason why it is not estimable, or None where it is not ours."""
    found = given.found
    predictor = next((one for one in given.known if one.name == row["predictor"]), None)
    like = next(iter(found.given.values())).values
    held = given.held(like) if row.get("held") else {}
    words = next((one for one in given.known if one.name == WORDS), None)
    wanted = set(row.get("held", ())) - ({WORDS} if words else set())
    if predictor is None or row["scale"] != given.scale or wanted != set(held):
        return None
    keys: list[Key] = [
        key
        for key in found.scaled
        if not predictor.lacks(key)
        and row["trait"] in ("average", key[0])
        and row["replicate"] in (None, key[1])
    ]
    if not keys:
        return "no such trait or replicate can be regressed"
    covariates: dict[str, Any] = dict(held)
    if words is not None and WORDS in row.get("held", ()):
        covariates[WORDS] = words.stacked(keys)
    options = {"permutations": run.config.permutations, "seed": run.config.seed}
    return slope_of(
        found.scaled,
        predictor,
        keys,
        average=row["trait"] == "average",
        covariates=covariates,
        topics=given.topics,
        same_topic=row.get("cells", "all") != OTHER_TOPICS,
        **options,
    )


def _slope_faults(name: str, row: Mapping[str, Any], again: Any) -> list[str]:
    """Name every number of one slope that differs, in one entry."""
    low, high = again.interval
    made = {"slope": again.slope, "low": low, "high": high, "p": again.p}
    kept = {key: _number(row[key]) for key in made}
    wrong = [
        f"{key} {kept[key]:.6g}, again {value:.6g}"
        for key, value in made.items()
        if not np.isclose(kept[key], value, rtol=1e-6, atol=SAME, equal_nan=True)
    ]
    return [f"{name} ({', '.join(wrong)})"] if wrong else []


def _number(value: Any) -> float:
    """Read a number of a JSON file: null is NaN, "inf" infinity."""
    return float("nan") if value is None else float(value)


def _multiverse(run: _Run, given: Material) -> str:
    """Ask in every way again."""
    if not run.folder.file(WAYS).is_file():
        raise _Unknown(f"there is no {WAYS}: an earlier version made the run")
    kept, path = _parquet(run.folder.file(WAYS)), run.folder.file(FILE)
    if kept.empty:
        raise _Unknown("there was no similarity to ask about")
    made = multiverse(
        run.table,
        from_table(run.alike),
        topics=given.topics,
        registration=Registration.load(path) if path.is_file() else None,
        permutations=run.config.permutations,
        seed=run.config.seed,
    )
    both = kept.merge(made, on=WAY, how="outer", suffixes=("", "_made"), indicator=True)
    same = both["_merge"].eq("both") & both["status"].eq(both["status_made"])
    for name in ("slope", "low", "high", "partial_r", "t", "p"):
        same &= _close(both[name], both[f"{name}_made"])
    wrong = [" ".join(map(str, row)) for row in both.loc[~same, WAY].itertuples(index=False)]
    _refuse(wrong, f"of {len(both)} ways of asking do not come out again")
    return f"{len(both)} ways of asking come out of the tables again"


def _registration(run: _Run) -> str:
    """Look whether the plan is as it was, and say what was done otherwise."""
    path = run.folder.file(FILE)
    if not path.is_file():
        raise _Unknown(f"there is no {FILE}: every number is exploratory")
    plan = Registration.load(path)
    found = list(map(str, compare(plan, run.folder.path)))
    if run.corpus is not None:
        study: Any = SimpleNamespace(config=run.config, corpus=run.corpus)
        found += [d for d in map(str, compare(plan, study)) if d not in found]
    if not found:
        return f"intact, and the run keeps to it (sha256 {plan.sha256[:12]}…)"
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"intact; the run differs in {len(found)} places: {'; '.join(found[:SHOWN])}{more}"
