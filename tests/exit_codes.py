"""``selfteach`` in each of several processes; its exit code goes to a file by the process's number.

python -m torch.distributed.run --standalone --nproc-per-node 2 exit_codes.py FOLDER [--only RANK] [--slow RANK] WORDS…

``--only``: the other processes have nothing to refuse. ``--slow``: that process begins late.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from selfteach.cli import guarded, main
from selfteach.errors import UserError


def refuse(rank: str, only: str) -> int:
    """This process's own refusal, and none of the others."""
    if rank != only:
        time.sleep(1)
        return 0
    raise UserError(f"only process {rank} met this: do something")


if __name__ == "__main__":
    folder, *words = sys.argv[1:]
    rank = os.environ["RANK"]
    if words[:1] == ["--slow"]:
        time.sleep(1.5 if words[1] == rank else 0)
        words = words[2:]
    code = guarded(lambda: refuse(rank, words[1]), []) if words[:1] == ["--only"] else main(words)
    Path(folder, rank).write_text(str(code))
    raise SystemExit(code)
