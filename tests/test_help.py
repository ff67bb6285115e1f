"""Helps that fit a screen, and completion for shells."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from selfteach.cli import COMMANDS, main
from selfteach.cli.brief import option_lines
from selfteach.recipes import RECIPES
from selfteach.recipes.knobs import knobs
from selfteach.training.config import Bookkeeping

SCREEN = 55


def helped(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help"])
    assert not stopped.value.code
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_fits_a_screen(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = helped(capsys, command)
    assert 5 < len(lines) < SCREEN


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_help_of_a_recipe_fits_a_screen_and_has_its_own_knobs(
    recipe: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = helped(capsys, "train", recipe)
    assert len(lines) < SCREEN
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    own = [name for name, value in vars(RECIPES[recipe]()).items() if name in knobs(RECIPES[recipe]())]
    assert own
    assert all(f"--{name.replace('_', '-')} " in text for name in own)


def test_the_defaults_of_a_short_help_are_those_that_hold(capsys: pytest.CaptureFixture[str]) -> None:
    grpo = "\n".join(helped(capsys, "train", "grpo", "--task", "table"))
    assert "--lr 0.0003 " in grpo
    plain = "\n".join(helped(capsys, "train", "grpo", "--task", "gym:chain_sum"))
    assert "--lr 1e-06 " in plain
    lines = list(option_lines(Bookkeeping(), ("track", "keep")))
    assert [line.split()[:2] for line in lines] == [["--keep", "2"], ["--track", "none"]]


@pytest.mark.slow
def test_bash_completes_commands_recipes_options_and_choices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "selfteach.bash"
    assert main(["--tyro-print-completion", "bash"]) == 0
    script.write_text(capsys.readouterr().out)
    tries = {
        "selfteach ex": "export", "selfteach train gk": "gkd", "selfteach train opsd --lora-r": "--lora-rank",
        "selfteach eval --pass": "--pass-at-k", "selfteach show --out": "--outcome",
        "selfteach train sdpo --weights tr": "trust-region",
    }  # fmt: skip
    for line, wanted in tries.items():
        bash = f"""
            source {script}
            COMP_WORDS=({line}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
            $(complete -p selfteach | sed 's/.*-F \\([^ ]*\\).*/\\1/')
            echo "${{COMPREPLY[@]}}"
        """
        done = subprocess.run(["bash", "-c", bash], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [wanted], line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tyro-print-completion"], "wants a shell: bash"),
        (["--tyro-print-completion", "fish"], "wants a shell: bash"),
        (["--tyro-write-completion", "bash"], "a shell and a file"),
    ],
)
def test_a_shell_that_is_not_known_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err
