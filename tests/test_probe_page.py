"""The probe's page: intervals as they are, names of any length, headers for those who listen."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from selfteach.probe.finding import Finding, Table
from selfteach.probe.interval import mean_interval, share_interval
from selfteach.probe.page import write_page

LONG = "x" * 100_000


def page_of(tmp_path: Path) -> str:
    groups = np.arange(8)
    rows = [
        {
            "view": LONG,
            "share": share_interval(np.zeros(8), groups),
            "nats": mean_interval(np.ones(8), groups),
        },
        {"view": "plain", "share": None, "nats": mean_interval(groups, groups)},
    ]
    found = Finding("views", "A title", {"task": LONG, "rollouts": 8}, [Table("Worth", "A note.", rows)])
    return write_page(found, tmp_path).read_text(encoding="utf-8")


def test_what_agrees_is_not_certain_on_the_page(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    assert "0.000 [0.000, 0.312] n=8" in page
    assert "1.000 (no spread, so no interval) n=8" in page
    assert "drawing again shows no spread" in page
    spans = re.findall(r'class="span" x1="([\d.]+)" x2="([\d.]+)"', page)
    assert len(spans) == 2
    assert all(float(left) < float(right) for left, right in spans)


def test_an_endless_name_is_clipped(tmp_path: Path) -> None:
    assert not re.search("x{20001}", page_of(tmp_path))


def test_every_table_has_headers(tmp_path: Path) -> None:
    tables = re.findall(r"<table>.*?</table>", page_of(tmp_path), re.S)
    assert len(tables) == 2
    assert all('<th scope="col">' in table for table in tables)
