"""Where what can be made again is kept: games, indexes of corpora."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """selfteach in XDG_CACHE_HOME, or in ~/.cache."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(chosen) if os.path.isabs(chosen) else Path.home() / ".cache") / "selfteach"
