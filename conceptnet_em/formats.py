"""Hold format fixed where domains come in several: what is mismatched, and what shares a topic."""

from __future__ import annotations

import pandas as pd

from conceptnet_em.grid import Grid
from conceptnet_em.projection import effect_basis, remainder, unusable
from conceptnet_em.relabelling import Topics
from conceptnet_em.verdicts import FORMAT

TOPIC = "same topic"


def format_covariates(
    like: pd.DataFrame, topics: Topics | None
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Return the matrices that a design with several formats holds fixed, and why not others.

    ``format mismatch`` is 1 where source and target differ in format; ``same topic`` is 1 where
    they share their topic. Each is there when domains differ in it at all and source and target
    effects do not hold it fixed already, as they do with a single domain in one of the formats.

    Args:
        like: any (sources, targets) of the study, for its labels.
        topics: (topic, format) of every domain.
    """
    if topics is None:
        words = "No topics and formats were given: domains count as different topics in one format."
        return {}, [words]
    labels = list(dict.fromkeys([*like.index, *like.columns]))
    if any(label not in topics for label in labels):
        return {}, []  # the relabelling says so
    forms = list(dict.fromkeys(topics[label][1] for label in labels))
    several = len({topics[label][0] for label in labels}) < len(labels)
    if len(forms) == 1:
        notes = [f"Every domain is in one format ({forms[0]}): there is no mismatch to hold fixed."]
        return ({TOPIC: _where(like, topics, 0, same=True)} if several else {}), notes
    given = {FORMAT: _where(like, topics, 1, same=False)}
    given |= {TOPIC: _where(like, topics, 0, same=True)} if several else {}
    return _told_apart(given)


def _where(like: pd.DataFrame, topics: Topics, axis: int, *, same: bool) -> pd.DataFrame:
    """Return 1.0 where source and target agree (or differ) in topic (0) or format (1)."""
    rows = [
        [float((topics[s][axis] == topics[t][axis]) is same) for t in like.columns]
        for s in like.index
    ]
    return pd.DataFrame(rows, like.index, like.columns)


def _told_apart(
    given: dict[str, pd.DataFrame],
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Leave out what source and target effects explain."""
    kept, notes = {}, []
    for name, frame in given.items():
        grid = Grid.of(frame)
        cells = grid.cells(frame)[:, None]
        left = remainder(cells, effect_basis(grid.source, grid.target, len(grid.labels)))
        if unusable(name, cells, left, "source and target effects"):
            notes.append(
                f"{name} does not vary beyond source and target effects, which hold it fixed "
                "already: its own effect cannot be told"
                f"{'; it takes several domains of each format' * (name == FORMAT)}."
            )
        else:
            kept[name] = frame
    return kept, notes
