"""How numbers and texts are said in messages and on pages. Any floor may use it."""

from __future__ import annotations


def shortened(text: str, most: int) -> str:
    """``text``; of one longer than ``most`` characters its beginning and its end."""
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]} … {text[-half:]}"


def counted(count: int, one: str, many: str = "") -> str:
    """1 row · 24,800 rows; ``many``: the word for several, where it is not ``one`` and an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def duration(seconds: float) -> str:
    """How long that is: 0.4 s · 47.1 s · 12 min 30 s · 3 h 20 min · 2 days 4 h."""
    if not 100 <= seconds < 1e12:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days = hours // 24
    if days >= 2:
        return f"{days:,} days {hours % 24} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
