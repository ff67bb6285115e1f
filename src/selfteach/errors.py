"""What any floor may raise: a user's own mistake, numbers that have diverged, memory that is used up."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from selfteach.wording import shortened

LONGEST = 1000
"""Characters of a message: of a longer one the middle is left out."""
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class UserError(Exception):
    """A mistake the user can mend. Its text is one line: what is wrong, where, and what to do.

    What it repeats of a file, a name or a library's words is made fit for a terminal: no control characters, no endless
    values. The command line prints it without a traceback (unless ``--debug``) and exits with code 2.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


def one_line(text: str) -> str:
    r"""``text`` in one line of at most LONGEST characters, with what no terminal shows as an escape (``\x1b``)."""
    text = re.sub(r"\s*[\r\n]\s*", " ", text.strip())
    text = shortened(text, LONGEST)
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class NotFinite(UserError, ArithmeticError):
    """Numbers have diverged: NaN or infinite logits, log-probs or losses. A run keeps the batch aside and stops in one
    line."""


class OutOfMemory(UserError):
    """Nothing is left of the device's or the machine's memory."""


ALLOCATORS = (
    "out of memory",
    "DefaultCPUAllocator",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""What a RuntimeError says that is an allocator's."""


def exhausted(error: BaseException) -> str | None:
    """What an allocator said that had nothing left, in one line; None: the error is another."""
    if isinstance(error, OutOfMemory):
        return None  # it is told already
    text = " ".join(str(error).split())
    runtime = isinstance(error, RuntimeError) and any(said in text for said in ALLOCATORS)
    # torch's own class by its name: this module must not load torch.
    if not runtime and not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":
        return None
    asked = re.search(r"tried to allocate [\d.,]+ ?\w+", text, re.IGNORECASE)
    return f"t{asked[0][1:]}" if asked else text.split(". ")[0][:200] or type(error).__name__


LESS_MEMORY: Mapping[str, str] = {
    "loading the model": "take a smaller model, precision bfloat16 (with lora_rank where it trains), or a machine with "
    "more memory",
    "sampling": "lower sample_batch or max_tokens",
    "answering": "lower sample_batch, max_memory or max_tokens",
    "evaluating": "lower sample_batch or eval_max_tokens",
    "scoring and updating": "lower micro_batch or max_tokens, or set gradient_checkpointing (selective or full)",
    "probing": "lower prompts, micro_batch, sample_batch or max_tokens",
    "": "lower micro_batch, sample_batch, max_tokens or max_memory, set gradient_checkpointing (selective or "
    "full), or take a smaller model",
}
"""What to do where memory was used up, by what was being done; "" for whatever else that was."""


def less_memory(doing: str = "") -> str:
    """What to do where memory was used up while ``doing`` this."""
    return LESS_MEMORY.get(doing, LESS_MEMORY[""])


@contextmanager
def within_memory(doing: str) -> Iterator[None]:
    """Within it an allocator that has nothing left is an ``OutOfMemory``: while ``doing`` what, and what to do."""
    try:
        yield
    except Exception as error:
        if (said := exhausted(error)) is None:
            raise
        told = OutOfMemory(f"out of memory while {doing} ({said}): {less_memory(doing)}")
    else:
        return
    raise told  # outside of the handler: what the frames of the error hold is free by now


OTHER_WEIGHTS = (
    "the model's weights are not finite, or too large for its precision; take another model or float32"
)


@contextmanager
def diverged(where: str) -> Iterator[None]:
    """Within it a ``NotFinite`` of a model that nothing has trained yet says ``where`` it was found, and what to do."""
    try:
        yield
    except NotFinite as problem:
        raise NotFinite(f"{where}: {problem}: {OTHER_WEIGHTS}") from problem
