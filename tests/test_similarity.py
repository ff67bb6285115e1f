"""Similarities of texts: known distances, and the axioms of a metric."""

from __future__ import annotations

import random

import pytest

from selfteach.task.similarity import edit_distance, edit_similarity, rouge_1


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        ("kitten", "sitting", 3), ("saturday", "sunday", 3), ("", "abc", 3), ("abc", "", 3), ("", "", 0),
        ("flaw", "lawn", 2), ("intention", "execution", 5), ("a", "b", 1), ("ab", "ba", 2), ("αβγ", "αγ", 1),
    ],
)  # fmt: skip
def test_the_distances_of_textbooks(one: str, other: str, distance: int) -> None:
    assert edit_distance(one, other) == distance


def plain(one: str, other: str) -> int:
    """By the recursion that defines it."""
    table = [[i + j if i * j == 0 else 0 for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            table[i][j] = min(
                table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (one[i - 1] != other[j - 1])
            )
    return table[-1][-1]


def test_it_is_what_its_recursion_says() -> None:
    rng = random.Random(0)
    for _ in range(300):
        one, other = ("".join(rng.choices("abc", k=rng.randrange(12))) for _ in range(2))
        assert edit_distance(one, other) == plain(one, other) == edit_distance(other, one)


@pytest.mark.parametrize("alike", [edit_similarity, rouge_1])
def test_a_similarity_lies_between_0_and_1_and_is_1_of_equals(alike: object) -> None:
    assert callable(alike)
    texts = ["", "a b", "b a", "the cat", "x", "the dog sat"]
    for one in texts:
        assert alike(one, one) == 1
        for other in texts:
            assert 0 <= alike(one, other) <= 1
            assert alike(one, other) == pytest.approx(alike(other, one))


def test_rouge_counts_words_as_often_as_they_stand() -> None:
    assert rouge_1("a a b", "a b b") == pytest.approx(4 / 6)
    assert rouge_1("a", "b") == 0
    assert rouge_1("a", "") == 0
    assert edit_similarity("abcd", "abed") == 0.75


def test_tokens_are_compared_as_characters_are() -> None:
    rng = random.Random(1)
    for _ in range(50):
        one, other = ("".join(rng.choices("abc", k=rng.randrange(9))) for _ in range(2))
        ids = [[90_000 + ord(c) for c in text] for text in (one, other)]
        assert edit_distance(*ids) == edit_distance(one, other)
        assert edit_similarity(*ids) == edit_similarity(one, other)
