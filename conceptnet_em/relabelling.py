"""Say which relabellings of the domains a design allows, and list or draw them.

A permutation test is only as good as its group: it may exchange what is exchangeable and nothing
else. Domains of different topics are relabelled freely; a topic × format grid is no set of
exchangeable domains, so whole topics move, and whole formats; formats alone are tested by swapping
them within topics. The design decides, not the user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import permutations as all_orders
from math import factorial, prod
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from conceptnet_em.errors import InputError, raise_all, unknown

Indices = NDArray[np.intp]
Topics = Mapping[str, tuple[str, str]]  # label: (topic, format)
Kind = Literal["free", "joint", "flips", "within"]

ENUMERATE_UP_TO = 50_000  # group members; 8! = 40,320 is the largest free one
CLAIMS = {
    "free": "domain labels are exchangeable",
    "joint": "topics are exchangeable as wholes, and so are formats",
    "flips": "the formats of a topic are exchangeable, topic by topic",
    "within": "domain labels of the same format are exchangeable",
}


@dataclass(frozen=True)
class Relabellings:
    """The relabellings under which the null hypothesis leaves the data exchangeable."""

    orders: Indices
    """(m, D): each row gives, for every label, the position of the label that takes its place."""
    exact: bool
    """True: the whole group, identity in row 0. False: a random sample without the identity."""
    group: str
    """The group in words, for instance "free relabelling of 6 domains (6! = 720)"."""
    size: int
    """Members of the group; may exceed m."""
    labels: tuple[Any, ...] = ()
    """(D,) the labels, in the order that `orders` points to."""
    claim: str = CLAIMS["free"]
    """What the null hypothesis says is exchangeable."""

    @property
    def smallest_p(self) -> float:
        """The least p that can come out: 1/|G| when exact, 1/(1 + m) when sampled."""
        return 1 / (len(self.orders) + (not self.exact))

    def with_identity(self) -> Indices:
        """Return the orders with the identity in row 0, whether listed or drawn."""
        if self.exact:
            return self.orders
        return np.vstack([np.arange(self.orders.shape[1]), self.orders])

    def ordered_as(self, labels: Sequence[Any]) -> Relabellings:
        """Return the same relabellings for the same labels in another order.

        Raises:
            InputError: the labels are others.
        """
        if tuple(labels) == self.labels:
            return self
        if sorted(map(str, labels)) != sorted(map(str, self.labels)):
            known, wanted = (", ".join(map(str, some)) for some in (self.labels, labels))
            raise InputError(f"these relabellings are for {known}, not for {wanted}")
        place = {label: k for k, label in enumerate(self.labels)}
        mine = np.array([place[label] for label in labels], np.intp)
        return replace(self, orders=np.argsort(mine)[self.orders[:, mine]], labels=tuple(labels))


def relabellings(
    labels: Sequence[Any],
    *,
    topics: Topics | None = None,
    group: Kind | None = None,
    roles: Sequence[Indices] | None = None,
    permutations: int = 9_999,
    seed: int = 0,
    enumerate_up_to: int | None = None,
) -> Relabellings:
    """List or draw the relabelling group that the design allows.

    Args:
        labels: D distinct domain labels, to which the orders point.
        topics: (topic, format) of every label. Distinct topics are relabelled freely; in a complete
            topic × format factorial whole topics move jointly, and so do whole formats.
        group: another group than the implied one. ``flips`` permutes the formats of each topic on
            its own: the test of a format mismatch, which no joint relabelling changes. ``within``
            relabels within formats, for domains whose formats differ by design. ``joint`` asks for
            the factorial's group by name; ``free`` ignores topics, which is wrong in a factorial.
        roles: positions of labels that may take each other's place, where some domains are only
            sources or only targets; all of them when none.
        permutations: sample size where the group has too many members to list.
        seed: of that sample.
        enumerate_up_to: the largest group that is listed; 50,000 when none.

    Raises:
        InputError: repeated labels, labels without a topic, topics that are neither all distinct
            nor a complete factorial, or a group that the design does not have.
    """
    if len(set(labels)) < len(labels):
        raise InputError(f"labels come more than once: {', '.join(map(str, labels))}")
    kind, blocks, words = _plan(labels, topics, group, roles)
    limit = ENUMERATE_UP_TO if enumerate_up_to is None else enumerate_up_to
    draw = (permutations, seed, limit)
    if kind == "joint":
        assert topics is not None
        orders, exact, sizes = _jointly(_factorial(labels, topics), draw)
    else:
        orders, exact, sizes = _in_blocks(blocks, len(labels), draw)
    size = prod(map(factorial, sizes))
    text = f"{words} ({_product(sizes)} = {size:,})"
    return Relabellings(orders, exact, text, size, tuple(labels), CLAIMS[kind])


def _plan(
    labels: Sequence[Any], topics: Topics | None, group: str | None, roles: Sequence[Indices] | None
) -> tuple[str, list[Indices], str]:
    """Choose the kind of group, the blocks within which labels move, and the words for it."""
    kind = group or _implied(labels, topics)
    raise_all(_faults(labels, topics, kind, roles))
    count = f"{len(labels)} domains"
    if kind == "free" and roles is not None and len(roles) > 1:
        words = f"relabelling of {count}, each kept as source, target or both"
        return kind, list(roles), words
    if kind == "free" or topics is None:
        return "free", [np.arange(len(labels))], f"free relabelling of {count}"
    if kind == "joint":
        shape = _factorial(labels, topics).shape
        return kind, [], f"joint relabelling of {shape[0]} topics × {shape[1]} formats"
    blocks = _alike(labels, topics, axis=0 if kind == "flips" else 1)
    if kind == "flips":
        several = [block for block in blocks if len(block) > 1]
        return kind, several, f"flips of the formats within {len(several)} topics"
    return kind, blocks, f"relabelling of {count} within each of {len(blocks)} formats"


def _implied(labels: Sequence[Any], topics: Topics | None) -> str:
    if topics is None:
        return "free"
    raise_all(_lost(labels, topics))
    return "free" if len({topics[label][0] for label in labels}) == len(labels) else "joint"


def _faults(
    labels: Sequence[Any], topics: Topics | None, kind: str, roles: Sequence[Indices] | None
) -> list[str]:
    """Say why this design has no such group."""
    if kind not in get_args(Kind):
        return [unknown("group of relabellings", kind, get_args(Kind))]
    if kind == "free":
        return []
    if topics is None:
        return [f"the group '{kind}' needs topics: the (topic, format) of every domain"]
    if lost := _lost(labels, topics):
        return lost
    if roles is not None and len(roles) > 1:
        return [f"the group '{kind}' needs the same domains as sources and targets"]
    if kind == "joint":
        return _unfactorial(labels, topics)
    twice = [
        str(label) for label in labels if list(map(topics.get, labels)).count(topics[label]) > 1
    ]
    if kind == "flips" and twice:
        return [f"domains of the same topic and format cannot be told apart: {', '.join(twice)}"]
    if all(len(block) < 2 for block in _alike(labels, topics, axis=0 if kind == "flips" else 1)):
        return [
            f"the group '{kind}' has nothing to exchange: no two domains share a "
            f"{'topic' if kind == 'flips' else 'format'}"
        ]
    return []


def _lost(labels: Sequence[Any], topics: Topics) -> list[str]:
    lost = [str(label) for label in labels if label not in topics]
    return [f"topics names no topic for {', '.join(lost)}"] if lost else []


def _unfactorial(labels: Sequence[Any], topics: Topics) -> list[str]:
    pairs = {tuple(topics[label]) for label in labels}
    names, forms = ({pair[axis] for pair in pairs} for axis in (0, 1))
    if len(forms) > 1 and len(pairs) == len(labels) == len(names) * len(forms):
        return []
    return [
        f"{len(labels)} domains of {len(names)} topics in {len(forms)} formats are neither all of "
        "different topics nor a complete factorial: drop the odd ones or complete it"
    ]


def _factorial(labels: Sequence[Any], topics: Topics) -> Indices:
    """Return label positions as (topics, formats)."""
    place = {tuple(topics[label]): k for k, label in enumerate(labels)}
    names, forms = (list(dict.fromkeys(pair[axis] for pair in place)) for axis in (0, 1))
    return np.array([[place[name, form] for form in forms] for name in names])


def _alike(labels: Sequence[Any], topics: Topics, *, axis: int) -> list[Indices]:
    """Group label positions by topic (axis 0) or by format (axis 1)."""
    keys = [topics[label][axis] for label in labels]
    return [np.flatnonzero([key == other for other in keys]) for key in dict.fromkeys(keys)]


def _jointly(table: Indices, draw: tuple[int, int, int]) -> tuple[Indices, bool, Sequence[int]]:
    (topic, form), exact = _members(table.shape, *draw)
    orders = np.empty((len(topic), table.size), np.intp)
    orders[:, table] = table[topic[:, :, None], form[:, None, :]]
    return orders, exact, table.shape


def _in_blocks(
    blocks: Sequence[Indices], count: int, draw: tuple[int, int, int]
) -> tuple[Indices, bool, Sequence[int]]:
    """Relabel freely within each block of label positions; labels in no block stay."""
    sizes = [len(block) for block in blocks]
    members, exact = _members(sizes, *draw)
    orders = np.tile(np.arange(count), (len(members[0]), 1))
    for block, member in zip(blocks, members, strict=True):
        orders[:, block] = block[member]
    return orders, exact, sizes


def _product(sizes: Sequence[int]) -> str:
    """Write a product of factorials: "6! × 2!", or "2!^6" where one repeats often."""
    if len(sizes) > 2 and len(set(sizes)) == 1:
        return f"{sizes[0]}!^{len(sizes)}"
    return " × ".join(f"{n}!" for n in sizes)


def _members(
    sizes: Sequence[int], permutations: int, seed: int, limit: int
) -> tuple[list[Indices], bool]:
    """List a product of symmetric groups, identity first, or sample it without the identity."""
    if prod(map(factorial, sizes)) <= limit:
        picks = np.indices([factorial(n) for n in sizes]).reshape(len(sizes), -1)
        return [_symmetric(n)[k] for n, k in zip(sizes, picks, strict=True)], True
    if permutations < 1:
        raise InputError(f"permutations must be at least 1; {permutations} came")
    rng, spare = np.random.default_rng(seed), permutations + permutations // 1_000 + 8
    found: list[list[Indices]] = []
    count = 0
    while count < permutations:  # once, but for tiny groups that are not to be listed
        rows = [rng.permuted(np.tile(np.arange(n), (spare, 1)), axis=1) for n in sizes]
        moved = np.any(np.hstack([row != np.arange(row.shape[1]) for row in rows]), axis=1)
        found.append([row[moved] for row in rows])
        count += int(moved.sum())
    return [np.vstack(parts)[:permutations] for parts in zip(*found, strict=True)], False


@lru_cache(maxsize=9)
def _symmetric(n: int) -> Indices:
    return np.array(list(all_orders(range(n))), np.intp)
