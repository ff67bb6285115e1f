"""Writes what results/methods.json says of each method's claims into its page of docs/methods, and the count into
README.md: ``python scripts/verdicts.py`` after ``selfteach study … --results results``.

It replaces what stands between the two comments; a page without them gets them at its end. ``--check`` writes nothing,
and ends with code 1 where a page is not up to date.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfteach.studies import STUDIES, Claim, Study
from selfteach.studies.results import mean_and_error

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- verdicts: written by scripts/verdicts.py -->", "<!-- end of verdicts -->"
BLOCK = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
VERDICTS = ("reproduced", "refuted", "equal", "undecided", "no verdict")


def line_of(claim: Mapping[str, Any]) -> str:
    """A claim with numbers: verdict, sides, effect."""
    sides = [
        f"{one['variant']} {mean_and_error(one['by_seed'])}" for one in (claim["higher"], claim["lower"])
    ]
    between = "" if claim["interval"] is None else " [{:.3g}, {:.3g}]".format(*claim["interval"])
    why = f"; {claim['caveat']}" if claim["caveat"] else ""
    return (
        f"*{claim['verdict']}*, {claim['seeds']} seeds: {claim['says']}. `{claim['metric']}`: {sides[0]}, {sides[1]}; "
        f"difference {claim['effect']:.3g}{between}{why}"
    )


def block_of(study: Study, claims: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    lines = [
        f"**Claims** (`selfteach study {study.method}`; [rules](../studies.md), [all](../../results/methods.md)):",
        "",
    ]
    for claim in study.claims:
        known = known_of(study, claim, claims)
        if claim.withdrawn:
            lines.append(f"- *withdrawn*: {claim.says}. {claim.withdrawn[0].upper()}{claim.withdrawn[1:]}.")
        elif known is None:
            lines.append(f"- *no number yet*: {claim.says}.")
        else:
            lines.append(f"- {line_of(known)}")
    return "\n".join(lines)


def known_of(
    study: Study, claim: Claim, claims: Mapping[tuple[str, str], Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """What the table has of a claim as it is today: none of its sides has other words, and its metric is the same."""
    known = claims.get((study.method, claim.says))
    words = {label: study.written(claim, label) for label in claim.variants}
    return known if known and known["variants"] == words and known["metric"] == claim.metric else None


def count_of(claims: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    """For README.md: how many claims came to which verdict."""
    every = [(study, claim) for study in STUDIES.values() for claim in study.claims]
    withdrawn = sum(bool(claim.withdrawn) for _, claim in every)
    known = [known_of(study, claim, claims) for study, claim in every if not claim.withdrawn]
    found = Counter(one["verdict"] for one in known if one is not None)
    rest = len(every) - withdrawn - sum(found.values())
    waiting = [f"{rest} without a number yet"] if rest else []
    told = ", ".join([*(f"{found[one]} {one}" for one in VERDICTS if found[one]), *waiting])
    asked = f"Of {len(every)} claims {withdrawn} are withdrawn, as the small worlds cannot answer them"
    return f"{asked}; of the others {told}."


def with_block(text: str, block: str) -> str:
    whole = f"{BEGIN}\n{block}\n{END}"
    if BEGIN in text:
        return BLOCK.sub(lambda _: whole, text)
    return f"{text.rstrip()}\n\n{whole}\n"


def pages() -> dict[Path, str]:
    """Every page and what is to stand in it."""
    results = json.loads((ROOT / "results" / "methods.json").read_text(encoding="utf-8"))
    claims = {(one["method"], one["says"]): one for one in results["claims"]}
    found = {}
    for name, study in STUDIES.items():
        page = page_of(name)
        found[page] = with_block(page.read_text(encoding="utf-8"), block_of(study, claims))
    readme = ROOT / "README.md"
    found[readme] = with_block(readme.read_text(encoding="utf-8"), count_of(claims))
    return found


def page_of(name: str) -> Path:
    """The page of a method, NN-name.md or name.md."""
    every = (ROOT / "docs" / "methods").glob("*.md")
    return next(one for one in every if re.fullmatch(rf"(\d\d-)?{name}", one.stem))


def main() -> int:
    old = {page: text for page, text in pages().items() if page.read_text(encoding="utf-8") != text}
    for page, text in old.items():
        print(page.relative_to(ROOT))
        if "--check" not in sys.argv:
            page.write_text(text, encoding="utf-8")
    return int("--check" in sys.argv and bool(old))


if __name__ == "__main__":
    sys.exit(main())
