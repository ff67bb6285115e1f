"""What older run folders call their numbers, in today's names: the only place that knows the old ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED = {"tokens/generated": "spent/tokens"}
FOLLOWED = {"eval/accuracy": "eval/headline", "eval/accuracy_se": "eval/headline_se"}
"""What was followed before there was a headline; it keeps its own name beside."""


def row_of_today(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of metrics.jsonl; one of today comes back as it is."""
    named = {RENAMED.get(name, name): value for name, value in row.items()}
    if "eval/headline" in named:
        return named
    return named | {new: named[old] for old, new in FOLLOWED.items() if old in named}


def summary_of_today(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary.json; one of today comes back as it is."""
    if "generated_tokens" not in summary:
        return dict(summary)
    rest = {name: value for name, value in summary.items() if name != "generated_tokens"}
    return {
        **rest,
        "spent": summary["generated_tokens"],
        "unit": "tokens",
        "headline": summary.get("eval/accuracy"),
    }
