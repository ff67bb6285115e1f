"""Questions answered by searching a corpus: what is found, what counts as right, and what no query can do."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doors import run_of_recipe
from selfteach.errors import UserError
from selfteach.recipes.grpo import GRPO
from selfteach.recipes.kit import Optimization, Rollouts
from selfteach.task import corpus as corpora
from selfteach.task.corpus import Index, words_of
from selfteach.task.environment import Reply, turns_of
from selfteach.task.exact_match import exact_match, normalized
from selfteach.task.example import Message
from selfteach.task.opening import TaskOptions
from selfteach.task.rows import make_task
from selfteach.training.text.preflight.references import reference_checks
from tiny import CHATML, tiny_model_folder

EXAMPLES = Path(__file__).parents[1] / "examples" / "search"
QUESTIONS, DOCUMENTS = str(EXAMPLES / "questions.jsonl"), str(EXAMPLES / "documents.jsonl")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def task(cache: Path) -> Any:
    return make_task(QUESTIONS, options=TaskOptions(corpus=DOCUMENTS))


def corpus_of(path: Path, *texts: str, title: str = "") -> Path:
    path.write_text("".join(json.dumps({"title": title, "text": one}) + "\n" for one in texts))
    return path


def said(environment: Any, text: str) -> Reply:
    reply: Reply = environment.step(Message(role="assistant", content=text))
    return reply


def begun(task: Any, index: int = 0) -> Any:
    environment, example = task.environment(), task.train(index)
    assert tuple(environment.reset(example)) == example.prompt
    return environment


def called(**arguments: Any) -> str:
    return json.dumps({"name": "search", "arguments": arguments}).join(["<tool_call>", "</tool_call>"])


# --- exact match ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "answer", "right"),
    [
        ("The Great Wall!", "great wall", True),
        ("a  cat's", "cats", True),
        ("Paris", '["Lyon", "Paris, France", "paris"]', True),
        ("Paris", '["Lyon"]', False),
        ("[1, 2]", "[1, 2]", True),
        ("theater", "ater", False),
        ("", "Paris", False),
        ("the", "a", False),
        ("The The", "the the", True),
        ("1,000", "1000", True),
        ("U.S.", "us", True),
        ("Paris, France", "Paris", False),
        ("", '["", "Paris"]', False),
        ("", " ", False),
        ("[]", "[]", False),
    ],
)
def test_an_answer_is_right_if_it_is_the_same_once_normalized(claim: str, answer: str, right: bool) -> None:
    assert exact_match(claim, answer) is right


def test_what_is_normalized_is_lower_case_words_without_articles() -> None:
    assert normalized("The An apple, a day!") == "apple day"
    assert normalized("thethe A-b") == "thethe ab"
    assert normalized(" \n") == ""


# --- the index --------------------------------------------------------------------------------------------------------


def test_the_best_document_comes_first_and_equal_ones_in_their_order(tmp_path: Path) -> None:
    file = corpus_of(tmp_path / "c.jsonl", "red apple", "green apple", "red red rose", "apple", "apple")
    index = Index.of(file)
    assert [one.text for one in index.search("rose red", 2, 100)] == ["red red rose", "red apple"]
    assert [one.name for one in index.search("apple", 9, 100)][:2] == [
        "4",
        "5",
    ]  # the shortest: BM25's length
    assert [one.text for one in index.search("apples", 1, 100)] == ["apple"]  # stems
    assert index.search("pear", 3, 100) == []
    assert len(index) == 5


def test_bm25_is_that_of_the_formula(tmp_path: Path) -> None:
    """idf · tf (k₁ + 1) / (tf + k₁ (1 − b + b · length / mean)), k₁ = 1.2, b = 0.75, negated."""
    from math import log

    texts = ["kiwi plum plum", "plum fig", "fig fig fig fig", "fig date", "date date date", "fig"]
    index = Index.of(corpus_of(tmp_path / "c.jsonl", *texts))
    with corpora.opened(index.path) as open_index:
        found = dict(
            open_index.execute(
                "SELECT text, -bm25(documents) FROM documents WHERE documents MATCH '\"plum\"'"
            ).fetchall()
        )
    mean = sum(len(one.split()) for one in texts) / len(texts)
    idf = log((len(texts) - 2 + 0.5) / (2 + 0.5))
    for text in ("kiwi plum plum", "plum fig"):
        tf, length = text.split().count("plum"), len(text.split())
        expected = idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * length / mean))
        assert found[text] == pytest.approx(expected, rel=1e-9)


def test_a_long_document_is_shown_where_the_words_are(tmp_path: Path) -> None:
    text = "filler " * 2000 + "the zebra sleeps " + "filler " * 2000
    index = Index.of(corpus_of(tmp_path / "c.jsonl", text, title="Zoo"))
    (one,) = index.search("zebra", 3, 300)
    assert "zebra" in one.text
    assert len(one.text) <= 300


def test_an_index_is_made_once_and_anew_for_other_content(tmp_path: Path, monkeypatch: Any) -> None:
    file = corpus_of(tmp_path / "c.jsonl", "one", "two")
    first = Index.of(file)
    monkeypatch.setattr(corpora, "made", lambda path, source: pytest.fail("made again"))
    assert Index.of(file) == first
    monkeypatch.undo()
    corpus_of(file, "one", "three")
    assert Index.of(file) != first
    assert [one.text for one in Index.of(file).search("three", 1, 9)] == ["three"]


def test_what_searches_cannot_write(tmp_path: Path) -> None:
    index = Index.of(corpus_of(tmp_path / "c.jsonl", "one"))
    with corpora.opened(index.path) as found, pytest.raises(sqlite3.OperationalError, match="readonly"):
        found.execute("DELETE FROM documents")


def test_paragraphs_of_a_text_are_documents(tmp_path: Path) -> None:
    file = tmp_path / "c.txt"
    file.write_bytes(b"\xef\xbb\xbf")  # an editor's mark of UTF-8 is no part of the text
    with file.open("a") as more:
        more.write("one\nline two\n\n\n  \nthree\n")
    index = Index.of(file)
    assert len(index) == 2
    assert index.search("two", 1, 99)[0].text == "one\nline two"
    assert index.holds("line TWO")
    assert not index.holds("two line")
    assert not index.holds("\0 ?")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("c.jsonl", '{"body": "x"}\n', "no column text"),
        ("c.jsonl", '{"text": "x"}\n{"text": " "}\n', "row 2: text is missing"),
        ("c.jsonl", '{"text": 5}\n', "row 1: text is missing or no text"),
        ("c.jsonl", json.dumps({"text": "x" * 1_000_001}), "1,000,001 characters"),
        ("c.txt", "\n \n", "no document"),
        ("c.txt", b"\xff\xfe", "not UTF-8"),
        ("c.pdf", "x", "cannot read .pdf"),
    ],
)
def test_a_corpus_that_is_none_is_named(tmp_path: Path, name: str, content: Any, complaint: str) -> None:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=complaint) as error:
        Index.of(file)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError):
        Index.of(tmp_path / "gone.jsonl")


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    index = Index.of(corpus_of(tmp_path / "c.jsonl", "one", "more"))
    Path(index.path).write_bytes(b"nothing" * 1000)
    with pytest.raises(UserError, match=r"is damaged .* made anew"):
        index.search("one", 1, 9)


# --- queries ----------------------------------------------------------------------------------------------------------

HOSTILE = [
    '"', "a NEAR b", "x AND", "NOT NOT", "___", "\0", "a\0b", "'; DROP TABLE documents; --", "title:moon", "(((",
    "^ -", "*", "{moon}", "moon*", "moon " * 250_000, "m" * 1_000_000, "", " ", "ß İ ﬁ 日本", "\n\r\t",
    "\u202e moon",
]  # fmt: skip


@pytest.mark.parametrize("query", HOSTILE, ids=range(len(HOSTILE)))
def test_no_query_raises_or_says_too_much(task: Any, query: str) -> None:
    environment = begun(task)
    reply = said(environment, called(query=query, k=10))
    (message,) = reply.messages
    assert (message["role"], reply.done, reply.failed) == ("tool", False, False)
    assert len(message["content"]) <= 2000
    assert "nothing" in message["content"].lower() or message["content"].startswith("[1] ")


@pytest.mark.parametrize(
    "arguments",
    [{"query": "moon", "k": 0}, {"query": "moon", "k": 11}, {"query": 5}, {"query": "\ud800"}, {}],
)
def test_wrong_arguments_are_told(task: Any, arguments: dict[str, Any]) -> None:
    reply = said(begun(task), called(**arguments))
    assert reply.failed
    assert reply.messages[0]["content"].startswith("error: search: ")


def test_only_words_of_a_query_count() -> None:
    assert words_of('What is the "moon" of MARS? moon') == ["moon", "MARS"]
    assert words_of("what is the") == ["what", "is", "the"]
    assert len(words_of(" ".join(map(str, range(500))))) == corpora.MOST_WORDS
    assert words_of("\"'*:^()") == []


# --- the task ---------------------------------------------------------------------------------------------------------


def test_who_searches_for_the_question_finds_the_answer(task: Any) -> None:
    examples = [*(task.train(i) for i in range(19)), *task.held_out(5)]
    assert len({one.key for one in examples}) == 24
    for one in examples:
        assert one.prompt[0]["role"] == "tools"
        environment = task.environment()
        assert tuple(environment.reset(one)) == one.prompt
        found, graded = (said(environment, turn) for turn in turns_of(one, "solution"))
        right = one.private["answer"]
        first = json.loads(right)[0] if right.startswith("[") else right
        assert first.lower() in found.messages[0]["content"].lower()
        assert (graded.reward, graded.done) == (1.0, True)
    assert task.answers_found(examples) == 24
    assert task.describe()["corpus"].endswith(": 18 documents")


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ("<answer>the galileo</answer>", 1),
        ("<answer>Io</answer>", 0),
        ("Galileo", 0),
        ("<answer></answer>", 0),
    ],
)
def test_an_answer_is_graded_in_the_form_asked_for(task: Any, answer: str, reward: float) -> None:
    index = next(i for i in range(19) if "four large moons" in task.train(i).problem)
    reply = said(begun(task, index), answer)
    assert (reply.reward, reply.done) == (reward, True)


def test_the_form_may_be_another(cache: Path) -> None:
    task: Any = make_task(QUESTIONS, options=TaskOptions(corpus=DOCUMENTS, answer_format="boxed"))
    turns = turns_of(task.train(0), "solution")
    assert turns[-1].startswith("\\boxed{")
    assert said(begun(task), turns[-1]).reward == 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"corpus": "gone.jsonl"}, "gone.jsonl"),
        ({"verifier": "exact"}, "leave verifier out"),
        ({"answer_type": "number"}, "leave answer_type out"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        make_task(QUESTIONS, options=TaskOptions(**{"corpus": DOCUMENTS, **options}))


def test_a_corpus_is_of_rows_alone() -> None:
    with pytest.raises(UserError, match="does not heed corpus"):
        make_task("table", options=TaskOptions(corpus=DOCUMENTS))
    with pytest.raises(UserError, match="graded by exact match: leave the reward function out"):
        make_task(QUESTIONS, reward=lambda completion: 1.0, options=TaskOptions(corpus=DOCUMENTS))


def test_answers_may_be_numbers(cache: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"problem": f"How many? {i}", "answer": i}) + "\n" for i in range(9)))
    task = make_task(str(rows), options=TaskOptions(corpus=DOCUMENTS, held_out_fraction=0.2))
    environment, example = task.environment(), task.train(0)
    environment.reset(example)
    assert said(environment, turns_of(example, "solution")[-1]).reward == 1


@pytest.mark.parametrize("answer", ["[]", '["", " "]'])
def test_a_question_without_an_answer_is_named(cache: Path, tmp_path: Path, answer: str) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"problem": "Who?", "answer": answer}) + "\n")
    with pytest.raises(UserError, match="has a blank answer"):
        make_task(str(rows), options=TaskOptions(corpus=DOCUMENTS)).train(0)


def test_preflight_says_whether_the_answers_can_be_found(tmp_path: Path) -> None:
    model = str(tiny_model_folder(tmp_path / "model", template=CHATML))
    recipe = GRPO(
        rollouts=Rollouts(max_tokens=4, per_prompt=2, max_turns=2), optimization=Optimization(prompts=2)
    )
    other = str(corpus_of(tmp_path / "other.jsonl", "of cabbages and kings"))
    for name, corpus in (("good", DOCUMENTS), ("bad", other)):
        task = make_task(QUESTIONS, options=TaskOptions(corpus=corpus))
        learner = run_of_recipe(recipe, model, tmp_path / name, problems=2, task=task)[1]
        checks = {one.name: one for one in reference_checks(learner)}
        assert all(one.ok for one in checks.values())
        assert not checks["environment: expert"].warns
        count = 16 if name == "good" else 0
        assert f"of {count} of the first 16 questions" in checks["corpus"].detail
        assert checks["corpus"].warns == (name == "bad")


def test_a_search_is_played_in_a_worker_process(cache: Path) -> None:
    options = TaskOptions(corpus=DOCUMENTS, environment_timeout=60.0, environment_workers=1)
    task: Any = make_task(QUESTIONS, options=options)
    replies = [said(environment := begun(task), turns_of(task.train(0), "solution")[0])]
    here: Any = make_task(QUESTIONS, options=TaskOptions(corpus=DOCUMENTS))
    replies.append(said(begun(here), turns_of(here.train(0), "solution")[0]))
    assert replies[0] == replies[1]
    environment.close()
    task.environment.close()
