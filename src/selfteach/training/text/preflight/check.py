"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One finding: ``ok`` False stops a run, ``warns`` says that it may be meant; ``detail`` tells it, with units."""

    name: str
    ok: bool
    detail: str
    warns: bool = False

    @property
    def word(self) -> str:
        return "FAIL" if not self.ok else "warn" if self.warns else "ok  "


def indented(text: str, most: int = 1200) -> str:
    shown = (
        text
        if len(text) <= most
        else f"{text[: most // 2]} … {len(text) - most} characters … {text[-most // 2 :]}"
    )
    return "\n".join(f"    {line}" for line in shown.splitlines())


def some(things: list[str], most: int = 4) -> str:
    """The first few of a list, and how many more there are."""
    more = len(things) - most
    return ", ".join(things[:most]) + (f" and {more} more" if more > 0 else "")
