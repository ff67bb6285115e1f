"""What the methods' papers claim, one file a method, and what runs say to it.

``REGISTRY`` names the files: a study of a method adds one line. A study of one's own is named by its file,
``my.py:STUDY``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from selfteach.checks import nearest
from selfteach.errors import UserError
from selfteach.importing import is_reference, load_object
from selfteach.studies.study import Claim, Study
from selfteach.studies.verdict import Exceeds, Rule, Verdict, Within

REGISTRY = {
    "pw-opsd": "r02_pw_opsd",
    "trace": "r04_trace",
    "atesd": "r06_atesd",
    "sd-zero": "r10_sd_zero",
    "mixsd": "r11_mixsd",
    "srpo": "r15_srpo",
    "avsd": "r19_avsd",
    "cepo": "r22_cepo",
    "sdpo": "r28_sdpo",
    "vopd": "r32_vopd",
    "exopd": "r33_exopd",
    "scope": "r37_scope",
    "lightning-opd": "r41_lightning_opd",
}


class _Studies(Mapping[str, Study]):
    """Method → study, each imported when it is first asked for."""

    def __getitem__(self, method: str) -> Study:
        study: Study = import_module(f"{__name__}.{REGISTRY[method]}").STUDY
        return study

    def __iter__(self) -> Iterator[str]:
        return iter(REGISTRY)

    def __len__(self) -> int:
        return len(REGISTRY)


STUDIES: Mapping[str, Study] = _Studies()


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
    "REGISTRY",
    "STUDIES",
    "Claim",
    "Exceeds",
    "Rule",
    "Study",
    "Verdict",
    "Within",
    "study_named",
]
