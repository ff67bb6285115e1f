"""The pages of methods say what results/methods.json says of their claims."""

from __future__ import annotations

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "scripts" / "verdicts.py"


def test_every_page_has_the_verdicts_of_the_table() -> None:
    pages = runpy.run_path(str(SCRIPT))["pages"]()
    assert len(pages) > 40
    old = [page.name for page, text in pages.items() if page.read_text(encoding="utf-8") != text]
    assert not old, "python scripts/verdicts.py brings them up to date"


def test_a_block_is_replaced_and_one_that_lacks_is_added() -> None:
    script = runpy.run_path(str(SCRIPT))
    once = script["with_block"]("# A page\n", "- one")
    assert once == f"# A page\n\n{script['BEGIN']}\n- one\n{script['END']}\n"
    assert script["with_block"](once, "- \\1 two") == once.replace("- one", "- \\1 two")
