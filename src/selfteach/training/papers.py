"""The papers that advice is from: name → where it can be read."""

from __future__ import annotations

from collections.abc import Mapping

PAPERS: Mapping[str, str] = {
    "OPSD": "2601.18734",
    "Vision-OPD": "2605.18740",
    "TRACE": "2605.10194",
    "The Many Faces of On-Policy Distillation": "2605.11182",
    "pi-Distill": "2602.04942",
    "OmniOPD": "2606.01476",
    "VLA-OPD": "2603.26666",
    "SDPO": "2601.20802",
    "MAD-OPD": "2605.01347",
    "Even your Teacher Needs Guidance": "2102.13088",
    "TCOD": "2604.24005",
}


def cited(paper: str) -> str:
    """The paper's name and its address."""
    return f"{paper}, https://arxiv.org/abs/{PAPERS[paper]}"
