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


def results_of_today(results: Mapping[str, Any]) -> dict[str, Any]:
    """A results.json or methods.json; one of today comes back as it is."""
    recipes = results.get("recipes")
    if not isinstance(recipes, Mapping) or "headline" in results:
        return dict(results)
    found = {"headline": "held-out accuracy", "unit": "tokens", **results}
    found["recipes"] = {name: renamed(row, RECIPE) for name, row in recipes.items()}
    for row in found["recipes"].values():
        row["runs"] = [
            {**run, "points": [renamed(point, POINT) for point in run["points"]]} for run in row["runs"]
        ]
    if "claims" in found:
        found["claims"] = [claim_of_today(one) for one in results["claims"]]
    return found


RECIPE = {"accuracy": "headline", "accuracy_se": "headline_se", "generated_tokens": "spent"}
POINT = {"accuracy": "headline", "tokens": "spent"}
CLAIM = {"arms": "variants", "arm": "variant"}
VERDICTS = {"not seen": "undecided"}


def claim_of_today(claim: Mapping[str, Any]) -> dict[str, Any]:
    found = renamed(claim, CLAIM)
    for side in ("higher", "lower"):
        found[side] = renamed(found[side], CLAIM)
    tolerance = found.get("within")
    found.setdefault("rule", "exceeds" if tolerance is None else f"within {tolerance:g} of")
    found["verdict"] = VERDICTS.get(found["verdict"], found["verdict"])
    return found


def renamed(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in row.items()}
