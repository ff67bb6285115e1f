"""What servers were asked for, on the disk at once: a run that ends before it is saved has paid all the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from selfteach.outside import blamed
from selfteach.training.rundir import writing

Counts = dict[str, int]


@dataclass(frozen=True)
class Ledger:
    """Counts by model (``chat_server.Account``), of one process of a run, in a JSON file."""

    path: Path

    def with_known(self, model: str, counts: Mapping[str, int]) -> Counts:
        """These counts, or those that were written down where they are larger. UserError for a file that is none of
        ours."""
        if not self.path.is_file():
            return dict(counts)
        with blamed(f"what servers were asked for, {self.path}", "put it back as it was, or start anew"):
            known = json.loads(self.path.read_text(encoding="ascii")).get(model, {})
            return {name: max(counts.get(name, 0), int(known.get(name, 0))) for name in {*counts, *known}}

    def note(self, counts: Mapping[str, Counts]) -> None:
        """Write all models' counts, whole or not at all. A run without a folder keeps none. UserError if the disk
        refuses."""
        if not self.path.parent.parent.is_dir():
            return
        aside = self.path.with_name(f".{self.path.name}.partial")
        with writing(self.path):
            self.path.parent.mkdir(exist_ok=True)
            aside.write_text(json.dumps(counts), encoding="ascii")
            aside.replace(self.path)
