"""MkDocs hooks: pages from outside ``docs/`` join the site, and links between the two work here as on GitHub."""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = ("results/*", "examples/*", "examples/launch/*", "CHANGELOG.md", "CONTRIBUTING.md")
"""What the site shows of the repository beside ``docs/``, each under its path in the repository."""
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|[#/])([^)#\s]*[./][^)#\s]*)")
"""The relative target of a Markdown link, without its anchor: a path, and not a formula's ``[…](y_t)``."""

log = logging.getLogger("mkdocs.hooks.docs_hooks")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what matches ``OUTSIDE``."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file():
                uri = path.relative_to(ROOT).as_posix()
                files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn relative links, written for the repository's folders, into the site's; warn of those that GitHub lacks."""
    uri = page.file.src_uri
    in_repository = uri if page.file.generated_by else f"docs/{uri}"

    def on_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(in_repository), link[1]))
        if not (ROOT / target).exists():
            log.warning("%s links to %s, which the repository does not have", in_repository, link[1])
        return posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(uri) or ".")

    return LINK.sub(on_site, markdown)
