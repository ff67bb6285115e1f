"""Which settings the words of a command line name: one reading of them for every command."""

from __future__ import annotations

import pytest

from selfteach.cli.console import refuse_renamed
from selfteach.cli.evaluate import own_names
from selfteach.cli.train import configured
from selfteach.errors import UserError
from selfteach.recipes.knobs import RENAMED
from selfteach.studies.plan import MEASURED, command
from selfteach.words import gathered, given_names, name_of, option, taken, value_of


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("--max-tokens", "max_tokens"),
        ("--max_tokens=8", "max_tokens"),
        ("--optimization.lr=1e-3", "lr"),
        ("--no-alarms", "alarms"),
        ("--bookkeeping.no-alarms", "alarms"),
        ("--out=runs/a.b", "out"),
        ("--", None),
        ("-1", None),
        ("alarms", None),
    ],
)
def test_a_word_names_a_setting(word: str, name: str | None) -> None:
    assert name_of(word) == name


def test_a_setting_that_is_switched_off_is_given() -> None:
    words = ["opsd", "--max-tokens", "8", "--optimization.lr=1e-3", "-1", "--no-alarms", "--"]
    assert given_names(words) == {"max_tokens", "lr", "alarms"}


def test_the_last_value_counts_and_the_words_without_it_are_left() -> None:
    words = ["--out", "a", "--lr", "1", "--out=b=c", "x"]
    assert taken(words, "out") == (["--lr", "1", "x"], "b=c")
    assert taken(words, "task") == (words, None)
    assert value_of(["--out="], "out") == ""
    assert value_of(["--no-out", "a"], "out") is None


@pytest.mark.parametrize("words", [["--token-budget"], ["--token-budget", "--resume"]])
def test_a_value_that_is_missing_is_said(words: list[str]) -> None:
    with pytest.raises(UserError, match="--token-budget needs a value"):
        taken(words, "token_budget")


def test_a_repeated_setting_is_one_of_several_values() -> None:
    words = ["m", "--task", "a", "b", "--task=c", "--lr", "1"]
    assert gathered(words, "task") == ["m", "--lr", "1", "--task", "a", "b", "c"]
    assert gathered(["--lr", "1"], "task") == ["--lr", "1"]


def test_train_s_names_are_eval_s_own_however_they_are_written() -> None:
    words = ["--eval-samples=2", "--eval_problems", "4", "--no-eval-greedy", "--eval-every", "5"]
    assert own_names(words) == ["--samples=2", "--problems", "4", "--no-greedy", "--eval-every", "5"]


def test_what_a_variant_says_itself_is_not_told_again(tmp_path) -> None:
    told = command(["opsd", "--eval_problems=3", "--no-samples-every"], 0, tmp_path)
    left = [name for name in MEASURED if name not in ("eval_problems", "samples_every")]
    assert told[-2 * len(left) :] == [word for name in left for word in (option(name), MEASURED[name])]
    assert "eval_samples" in left
    assert "256" not in told


def test_an_earlier_name_is_known_in_every_spelling() -> None:
    old, new = next(iter(RENAMED.items()))
    for word in (option(old), f"--{old}=1", f"--no-{old}"):
        with pytest.raises(UserError, match=f"{option(old)} is called {option(new)}"):
            refuse_renamed([word])


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ([], "none"),
        (["--gradient-checkpointing"], "full"),  # a flag, as TRL has it; last, or before another option
        (["--gradient_checkpointing", "--steps", "3"], "full"),
        (["--gradient-checkpointing", "selective", "--steps", "3"], "selective"),
        (["--steps", "3", "--gradient-checkpointing", "none"], "none"),
    ],
)
def test_a_flag_of_other_libraries_may_stand_without_its_value(words: list[str], meant: str) -> None:
    config, _ = configured(["opsd", "--task", "table", *words])
    assert config.loading.gradient_checkpointing == meant
