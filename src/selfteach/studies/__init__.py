"""What the methods' papers claim, one file a method, and what runs say to it.

A method's file is called as its recipe's; its ``STUDY`` is found there. A study of one's own is named by its file,
``my.py:STUDY``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from selfteach.checks import nearest
from selfteach.errors import UserError
from selfteach.importing import is_reference, load_object
from selfteach.recipes import METHODS
from selfteach.studies.laptop import beside
from selfteach.studies.study import Claim, Study, Works
from selfteach.studies.verdict import Exceeds, Leaning, Rule, Verdict, Within


def _studies() -> Iterator[tuple[str, Study]]:
    """(method, study) of every recipe whose file here has one."""
    for name, kind in METHODS.items():
        study = getattr(beside(kind), "STUDY", None)
        if study is not None:
            yield name, study


STUDIES: Mapping[str, Study] = dict(_studies())


def study_named(name: str) -> Study:
    """The study of a method, or one's own by reference (FILE.py:NAME, package.module:NAME).

    UserError with the nearest names if there is none, or if what the reference names is none.
    """
    if is_reference(name):
        found = load_object(name)
        if not isinstance(found, Study):
            raise UserError(
                f"{name} is no Study but {type(found).__name__}; write STUDY = Study(method, claims)"
            )
        file = Path(name.rpartition(":")[0])
        return replace(found, home=found.home or str(file.parent) if file.suffix == ".py" else found.home)
    if name not in STUDIES:
        raise UserError(f"there is no study of {name!r}{nearest(name, STUDIES)}")
    return STUDIES[name]


__all__ = [
    "STUDIES",
    "Claim",
    "Exceeds",
    "Leaning",
    "Rule",
    "Study",
    "Verdict",
    "Within",
    "Works",
    "study_named",
]
