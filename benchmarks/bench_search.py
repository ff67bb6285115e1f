"""What an index of a corpus costs to make, to find again and to search: docs/search.md.

    python benchmarks/bench_search.py --documents 200000

Documents of a hundred words drawn by Zipf's law from 50,000 made-up ones; the index lies in a folder of its own, which
is deleted.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tyro

from selfteach.task.corpus import Index

WORDS, LENGTH, QUERIES = 50_000, 100, 50


def timed(what: Callable[[], object]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def write_corpus(path: Path, documents: int, words: Sequence[str], rng: np.random.Generator) -> None:
    chances = 1 / np.arange(1, WORDS + 1)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(documents):
            text = " ".join(words[i] for i in rng.choice(WORDS, LENGTH, p=chances / chances.sum()))
            file.write(json.dumps({"text": text}) + "\n")


def main(documents: int = 50_000) -> None:
    rng = np.random.default_rng(0)
    words = [f"w{i}x" for i in range(WORDS)]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        corpus = Path(folder) / "corpus.jsonl"
        write_corpus(corpus, documents, words, rng)
        made = timed(lambda: Index.of(corpus))
        again = timed(lambda: Index.of(corpus))
        index = Index.of(corpus)
        sizes = [Path(path).stat().st_size / 1e6 for path in (corpus, index.path)]
        print(
            f"{documents} documents, {sizes[0]:.0f} MB: index {made:.0f} s, {sizes[1]:.0f} MB; again {again:.2f} s"
        )
        for name, count, first, last in (
            ("8 rare words", 8, WORDS // 2, WORDS),
            ("8 words as common as a text's", 8, 0, 0),
            ("the 32 commonest words", 32, 0, 32),
        ):
            seconds = []
            for _ in range(QUERIES):
                if last == 0:
                    chances = 1 / np.arange(1, WORDS + 1)
                    chosen = rng.choice(WORDS, count, p=chances / chances.sum())
                else:
                    chosen = rng.choice(np.arange(first, last), count, replace=False)
                query = " ".join(words[i] for i in chosen)
                seconds.append(timed(lambda query=query: index.search(query, 3, 600)))
            print(f"  {name}: {statistics.median(seconds):.4f} s (median of {QUERIES})")


if __name__ == "__main__":
    tyro.cli(main)
