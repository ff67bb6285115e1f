"""What of TextWorld runs in a worker process: its generator, whose search may go on for long, and its compiler.

A game is a function of its settings, its seed and TextWorld's version: the worker's string-hash seed is fixed.
"""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

GAME, OPENING = "game.z8", "opening.json"
"""A game's files: what the interpreter runs (with a game.json of the library beside it), and how it opens."""


def warm_up() -> None:
    import_module("textworld")


def objective(settings: dict[str, int], seed: int) -> dict[str, str]:
    """What is to be done in the game of this seed, which is not compiled for it; or the library's ``complaint``."""
    try:
        return {"objective": str(_drawn(settings, seed)[0].objective)}
    except MemoryError:
        raise
    except Exception as error:  # of the grammar, the map or the quest: the next seed may do
        return {"complaint": " ".join(f"{type(error).__name__}: {error}".split())[:300]}


def build(settings: dict[str, int], seed: int, folder: str) -> None:
    """Compile the game of this seed into ``folder``, which appears when it is complete; one that is there is kept.

    Its opening is written down with the commands of the library's own policy, and whether they win."""
    where = Path(folder)
    with TemporaryDirectory(prefix=".making-", dir=where.parent) as aside:
        made = Path(aside) / "game"
        made.mkdir()
        game, options = _drawn(settings, seed)
        options.path = str(made / GAME)
        import_module("textworld.generator").compile_game(game, options)
        (made / GAME).with_suffix(".ni").unlink()  # the source: nobody reads it again
        (made / OPENING).write_text(json.dumps(_opened(made / GAME), indent=1), encoding="utf-8")
        try:
            os.rename(made, where)
        except OSError:
            if not where.is_dir():  # else another process was faster, and made the same
                raise


def started(path: Path, **infos: bool) -> Any:
    """The library's environment of a compiled game, to be reset; its interpreter draws the same numbers each time."""
    textworld = import_module("textworld")
    found = textworld.start(
        str(path), textworld.EnvInfos(admissible_commands=True, score=True, max_score=True, **infos)
    )
    found.seed(0)
    return found


def _drawn(settings: dict[str, int], seed: int) -> tuple[Any, Any]:
    """The library's game, not yet compiled, and the options that made it."""
    generator = import_module("textworld.generator")
    options = generator.GameOptions()
    options.seeds = seed
    options.nb_rooms, options.nb_objects = settings["rooms"], settings["objects"]
    options.quest_length, options.nb_parallel_quests = settings["quest"], settings["quests"]
    return generator.make_game(options), options


def _opened(path: Path) -> dict[str, Any]:
    env = started(path, policy_commands=True, objective=True)
    try:
        state = env.reset()
        commands, expert = list(state.admissible_commands), list(state.policy_commands)
        return {
            "objective": str(state.objective),
            "feedback": str(state.feedback),
            "commands": commands,
            "expert": expert,
            "won": _wins(env, commands, expert),
        }
    finally:
        env.close()


def _wins(env: Any, commands: list[str], expert: list[str]) -> bool:
    """Whether the expert's commands win, each admissible where it is given and none behind the end."""
    done = False
    for command in expert:
        if done or command not in commands:
            return False
        state, _, done = env.step(command)
        commands = state.admissible_commands
    return done
