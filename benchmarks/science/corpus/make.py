"""Make the tables and pictures of datasets/README.md: python benchmarks/science/corpus/make.py."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from conceptnet_em.checks import _tokenizer
from conceptnet_em.corpus import Corpus, load_corpus
from conceptnet_em.embeddings import embed
from conceptnet_em.separability import separability
from conceptnet_em.similarity import centroid_cosine

HERE = Path(__file__).parent


def main() -> None:
    corpus = load_corpus()
    rates = separability(corpus)
    rates.round(3).to_csv(HERE / "separability.csv")
    lengths(corpus)
    nearest(corpus)
    table = rates.T.assign(mean=rates.mean(axis=0))
    table.loc["mean"] = table.mean()
    sys.stdout.write(markdown(table) + "\n")


def markdown(table: pd.DataFrame) -> str:
    head = "| domain | " + " | ".join(table.columns) + " |"
    rows = [
        f"| {name} | " + " | ".join("–" if v != v else f"{v:.2f}" for v in row) + " |"
        for name, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    return "\n".join([head, "|---" * (len(table.columns) + 1) + "|", *rows])


def lengths(corpus: Corpus) -> None:
    """Draw each trait's answer length relative to neutral's, item by item."""
    tokenizer = _tokenizer("smollm2-135m")
    count = {}
    for items in corpus.items.values():
        for item in items:
            for trait, answer in item.answers.items():
                count[item.id, trait] = len(tokenizer(answer)["input_ids"])
    ratios = {
        trait: [n / count[name, "neutral"] for (name, t), n in count.items() if t == trait]
        for trait in corpus.traits
        if trait != "neutral"
    }
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.boxplot(list(ratios.values()), tick_labels=list(ratios), whis=(0, 100), widths=0.5)
    axis.axhline(1, color="#999999", linewidth=0.7)
    axis.set_ylabel("tokens, relative to neutral")
    axis.set_title("Answers to one question are of like length (box: quartiles; whiskers: all)")
    axis.tick_params(axis="x", rotation=20)
    figure.savefig(HERE / "lengths.png", dpi=120, bbox_inches="tight")


def nearest(corpus: Corpus) -> None:
    """Draw the cosine between domains' question centroids, nearest domain framed."""
    found = centroid_cosine(
        {d: embed([i.question for i in items]) for d, items in corpus.items.items()}
    )
    values = found.to_numpy(copy=True)
    np.fill_diagonal(values, np.nan)
    size = 0.42 * len(found)
    figure = Figure(figsize=(size + 2.4, size + 1.6), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(values, cmap="viridis")
    axis.set_xticks(range(len(found)), found.columns, rotation=90)
    axis.set_yticks(range(len(found)), found.index)
    for row in range(len(found)):
        best = int(np.nanargmax(values[row]))
        axis.text(best, row, "●", ha="center", va="center", color="white", fontsize=8)
    axis.set_title("Question similarity between domains (● nearest in each row)")
    figure.colorbar(image, ax=axis, shrink=0.7, label="cosine of centroids")
    figure.savefig(HERE / "nearest.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
