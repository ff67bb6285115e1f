"""Where in an answer a program stands, and how an answer has one."""

from __future__ import annotations

FENCE = "```"
PYTHON = ("python", "python3", "py")


def program_in(text: str) -> str | None:
    """The last block of code in a text, of Python where one says so; all of it where there is no block; None if that is
    blank. A block that is never closed goes to the end; a single fence with nothing behind it closes what stands before
    it. Indents stay."""
    blocks: list[tuple[bool, list[str]]] = []
    before: list[str] = []
    inside = False
    for line in text.splitlines(keepends=True):
        if line.lstrip().startswith(FENCE):
            inside = not inside
            if inside:
                blocks.append((language(line) in PYTHON, []))
        elif inside:
            blocks[-1][1].append(line)
        elif not blocks:
            before.append(line)
    chosen = [lines for python, lines in blocks if python] or [lines for _, lines in blocks] or [before]
    if inside and len(blocks) == 1 and not "".join(chosen[-1]).strip():
        chosen = [before]
    program = "".join(chosen[-1])
    return program.strip("\n") if program.strip() else None


def language(line: str) -> str:
    """What a fence says of its block: ``python`` of ```python title="a" and of ```{python}."""
    words = line.strip().lstrip("`").strip(" {}").lower().split()
    return words[0].strip("{}") if words else ""


def fenced(program: str) -> str:
    """The program as an answer has it."""
    return f"{FENCE}python\n{program.strip(chr(10))}\n{FENCE}"
