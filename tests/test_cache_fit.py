"""Runs that ask for other answers than their teacher cache holds: what the cache lacks, and what is never read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from runs import TextRun
from selfteach.cli import main
from selfteach.cli.train import configured
from selfteach.errors import UserError
from test_teacher_cache import TOP, made, words
from tiny import tiny_model_folder


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words of a run with a cache of six prompts."""
    folder = tmp_path_factory.mktemp("fit")
    asked = words("opsd", str(tiny_model_folder(folder / "model")), *TOP)
    made(folder / "cache", asked, top_logprobs=8)
    return [*asked, "--teacher-cache", str(folder / "cache")]


def preflight(words: Sequence[str], out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """(its word, its detail) of the check."""
    capsys.readouterr()
    assert main(["doctor", *words, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    (line,) = [one for one in (printed.out + printed.err).splitlines() if "  cache: " in one]
    word, _, detail = line.strip().partition("  cache: ")
    return word.strip(), detail


def test_a_run_that_reads_all_is_told_so(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preflight(given, tmp_path, capsys) == ("ok", "6 answers to 6 prompts are read")


def test_fewer_prompts_are_the_first_ones_and_the_rest_is_said_to_be_unread(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [*given, "--stored", "3"]
    word, detail = preflight(few, tmp_path, capsys)
    assert (word, detail) == (
        "warn",
        "3 answers to 3 prompts are read; --stored 3 leaves 3 further answers of the cache unread",
    )
    run = TextRun(configured(few)[0])
    for _ in range(3):
        run.stepped()
    assert {one.group for one in run.learner.writing.stores["train"].trajectories} == {0, 1, 2}


def test_more_prompts_than_it_has_are_refused_in_one_line(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *given, "--stored", "10", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.strip().rpartition("selfteach: ")[2]
    assert "was made of 6 prompts, and --stored 10 wants 4 more, which it lacks: set --stored 6" in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_steps_that_do_not_reach_all_answers_are_said(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    word, detail = preflight([*given, "--steps", "1"], tmp_path, capsys)
    assert word == "warn"
    assert detail.endswith("; 1 steps of 3 prompts take 3 of them: the answers to 3 prompts are never read")


def test_answers_to_other_problems_are_said(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    word, detail = preflight([*given, "--seed", "7"], tmp_path, capsys)
    assert word == "warn"
    assert "of the first 6 are other problems than this run draws" in detail


def test_answers_that_were_given_are_as_many_as_they_are(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their number says nothing of how many prompts there were."""
    alone = given[: given.index("--teacher-cache")]
    source = Path(given[-1])
    found = made(tmp_path / "cache", alone, rollouts=source, top_logprobs=8)
    assert found.made.stored is None
    cached = [*alone, "--teacher-cache", str(tmp_path / "cache")]
    assert preflight(cached, tmp_path, capsys)[0] == "ok"
    word, detail = preflight([*cached, "--stored", "10"], tmp_path, capsys)
    assert word == "warn"
    assert detail.endswith("--stored 10 wants more prompts than the answers were given for")
    assert preflight([*cached, "--stored", "2"], tmp_path, capsys) == (
        "warn",
        "2 answers to 2 prompts are read; --stored 2 leaves 4 further answers of the cache unread",
    )


def test_scoring_goes_on_with_the_same_number_alone(given: list[str], tmp_path: Path) -> None:
    alone = given[: given.index("--teacher-cache")]
    found = made(tmp_path / "cache", alone, top_logprobs=8)
    found.manifest.complete = False
    found.manifest.write(tmp_path / "cache")
    with pytest.raises(UserError, match="begun with stored 6"):
        made(tmp_path / "cache", [*alone, "--stored", "9"], top_logprobs=8)
