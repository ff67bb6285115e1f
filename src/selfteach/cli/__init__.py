"""The command line: ``selfteach COMMAND …``."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from selfteach.errors import UserError, exhausted, less_memory
from selfteach.wording import shortened

COMMANDS = {
    "train": "train a model with a recipe",
    "score": "a teacher's scores of stored answers, once, for train --teacher-cache",
    "eval": "how well a model answers benchmarks, or what its run held out",
    "chat": "talk to a model, a run or a checkpoint",
    "show": "what a run wrote, in the terminal; its metrics as CSV",
    "export": "a run or checkpoint as a Hugging Face folder, merged or not",
    "compare": "several recipes, several seeds, one table and plot",
    "study": "what papers claim, put to the test: runs, then verdicts",
    "recipes": "the methods: list, or one in full",
    "doctor": "the checks before step 1, without training",
    "probe": "where a loss helps, which teacher tokens and which view to trust, without training",
    "report": "a run folder as one HTML page",
    "watch": "the report of a run that goes on, served on this machine",
    "fetch": "a real small model without a hub",
    "arena": "rebuild or measure a world's pretrained model",
    "demo": "OPSD on the arena, from start to report",
}

PRINTING = ("recipes", "report", "watch", "probe", "eval", "chat", "show", "export")
"""Commands whose work is what they print."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 is success, 2 a user's mistake, 130 an interrupt."""
    words = list(sys.argv[1:] if argv is None else argv)
    if said := at_once(words):
        print(said)
        return 0
    return guarded(lambda: dispatch([word for word in words if word != "--debug"]), words)


def guarded(act: Callable[[], int], words: Sequence[str]) -> int:
    """The exit code of what ``act`` does for these words: a user's mistake, an interrupt and what the machine refuses
    are said in a line."""
    # Before torch is loaded: threads that spin while they wait slow every other process of a shared CPU many times.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from selfteach.cli.console import fail
    from selfteach.training.interruption import Interrupted

    quiet_libraries()
    debug = "--debug" in words
    try:
        return act()
    except UserError as mistake:
        if debug:
            traceback.print_exc()
        return fail(str(mistake))
    except BrokenPipeError:
        return unheard([word for word in words if word != "--debug"])
    except Interrupted as where:
        print(
            f"selfteach: interrupted; go on with selfteach train --resume --out {where}",
            file=sys.stderr,
        )
        return 130
    except KeyboardInterrupt:
        print("selfteach: interrupted", file=sys.stderr)
        return 130
    except Exception as problem:
        if debug or (told := of_the_machine(problem)) is None:
            raise
        return fail(told)


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a disk says that has no room left."""


def of_the_machine(problem: Exception) -> str | None:
    """In one line, what memory or disk refused where nobody knew more of it; None: the error is the program's."""
    if (said := exhausted(problem)) is not None:
        return f"out of memory ({said}): {less_memory()}"
    if isinstance(problem, OSError):
        where = f"{shortened(str(problem.filename), 200)}: " if problem.filename else ""
        advice = "make room there" if problem.errno in FULL else "choose another file or folder"
        return str(UserError(f"{where}{problem.strerror or problem}: {advice}"))
    return None


def unheard(words: Sequence[str]) -> int:
    """Whoever read has gone. A command that only prints is done then; runs go on without their lines (Lines.say)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if words[:1] and words[0] in PRINTING else 1


def quiet_libraries() -> None:
    """Our own lines say what matters; a bar for every loaded shard, and what a library says to another, do not."""
    import warnings

    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub.utils.tqdm import disable_progress_bars
    from transformers.utils import logging

    disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    for library in ("transformers", "peft"):
        warnings.filterwarnings("ignore", module=library)


def at_once(words: list[str]) -> str:
    """What is answered without loading a library; empty: nothing."""
    if not words or words[0] in ("-h", "--help", "help"):
        return usage()
    if words[0] == "--version":
        from selfteach import __version__

        return f"selfteach {__version__}"
    return ""


def dispatch(words: list[str]) -> int:
    if words[0].startswith(("--tyro-print-completion", "--tyro-write-completion")):
        from selfteach.cli.completion import command

        return command(words)
    return command_named(words[0])(words[1:])


def command_named(name: str) -> Callable[[list[str]], int]:
    """The function of a command, imported only when it is called: ``--help`` stays quick."""
    from importlib import import_module

    from selfteach.checks import nearest

    if name not in COMMANDS:
        raise UserError(f"there is no command {name!r}{nearest(name, COMMANDS)}")
    module = import_module(f"selfteach.cli.{'evaluate' if name == 'eval' else name}")
    function: Callable[[list[str]], int] = module.command
    return function


def usage() -> str:
    rows = "\n".join(f"  {name:<9} {what}" for name, what in COMMANDS.items())
    return (
        "selfteach: on-policy self-distillation for language models\n\n"
        f"usage: selfteach COMMAND …   (selfteach COMMAND --help; --debug shows tracebacks)\n\n{rows}"
    )
