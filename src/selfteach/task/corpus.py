"""A corpus of documents that is searched by words: an index of SQLite (FTS5) in the cache folder, ranked by BM25.

The index is made once for a content, and opened to be read alone. SQLite's own language of queries is out of reach: of
a query its words count, and nothing else of it.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory

from selfteach.errors import UserError
from selfteach.outside import require_file, said_by
from selfteach.task.cached import cache_folder
from selfteach.task.reading import open_file

MOST_BYTES = 8 << 30
"""Of a corpus; its index is of about the same size."""
MOST_CHARS = 1_000_000
"""Of a document."""
MOST_WORDS = 32
"""Different words of a query that are looked for; of the rest nothing is."""
QUERY_CHARS = 2000
"""Of a query that are read."""
FORMAT = 1
"""Of the index; part of its name."""
COMMON = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by did do does for from had has have how if in into is it its of on or that the "
        "their then there these they this to was were what when where which who whom whose why will with",
    )
)
"""Words that a query is not searched for, unless it has no others: nearly every document has them."""
_WORD = re.compile(r"\w+")
_SCHEMA = (
    "CREATE VIRTUAL TABLE documents USING fts5(name UNINDEXED, title, text, "
    "tokenize='porter unicode61 remove_diacritics 2')"
)


@dataclass(frozen=True)
class Passage:
    """What a search found: a document's ``name`` (its id), ``title``, and of its text what is shown."""

    name: str
    title: str
    text: str


@dataclass(frozen=True)
class Index:
    """A corpus, indexed in ``path``."""

    path: str

    @classmethod
    def of(cls, corpus: str | Path) -> Index:
        """The index of a corpus, which is made if there is none of this very content. UserError for a corpus that
        cannot be read, and where nothing can be written."""
        source = require_file(corpus, f"corpus {corpus}")
        size = source.stat().st_size
        if size > MOST_BYTES:
            raise UserError(f"corpus {corpus}: {size:,} bytes, more than {MOST_BYTES:,}: give a part of it")
        path = cache_folder() / "search" / f"{FORMAT}-{content_of(source)}{source.suffix}.sqlite"
        if not path.is_file():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                made(path, source)
            except (OSError, sqlite3.Error) as error:
                raise UserError(
                    f"corpus {corpus}: no index in {path.parent} ({said_by(error)}): set XDG_CACHE_HOME"
                ) from error
        return cls(str(path))

    def search(self, query: str, k: int, chars: int) -> list[Passage]:
        """The ``k`` best documents by BM25 (title and text alike), of each at most ``chars`` characters: its beginning
        if it is no longer, else the part with most of the words. Equal ones come in the corpus's order."""
        words = words_of(query)
        if not words:
            return []
        match = " OR ".join(f'"{word}"' for word in words)
        best = "SELECT rowid FROM documents WHERE documents MATCH ? ORDER BY bm25(documents), rowid LIMIT ?"
        shown = (
            "SELECT name, title, text, snippet(documents, 2, '', '', ' … ', 64) FROM documents "
            "WHERE documents MATCH ? AND rowid = ?"
        )
        with opened(self.path) as index:
            # Texts are read of the best alone, not of all that have one of the words.
            rows = index.execute(best, (match, k)).fetchall()
            found = [index.execute(shown, (match, row)).fetchone() for (row,) in rows]
        return [
            Passage(name, title, text if len(text) <= chars else part[:chars])
            for name, title, text, part in found
        ]

    def holds(self, phrase: str) -> bool:
        """Whether a document has these words, one behind the other, inflected as they may be."""
        words = _WORD.findall(phrase[:QUERY_CHARS])
        if not words:
            return False
        with opened(self.path) as index:
            asked = "SELECT 1 FROM documents WHERE documents MATCH ? LIMIT 1"
            return index.execute(asked, ('"' + " ".join(words) + '"',)).fetchone() is not None

    def __len__(self) -> int:
        with opened(self.path) as index:
            (count,) = index.execute("SELECT count(*) FROM documents_docsize").fetchone()
        return int(count)


def words_of(query: str) -> list[str]:
    """The words of a query that are looked for: letters and digits, so that none of them is an operator's sign."""
    words = list(dict.fromkeys(_WORD.findall(query[:QUERY_CHARS])))
    telling = [word for word in words if word.lower() not in COMMON]
    return (telling or words)[:MOST_WORDS]


@lru_cache(maxsize=8)
def connection(path: str, process: int) -> sqlite3.Connection:
    return sqlite3.connect(f"{Path(path).as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)


@contextmanager
def opened(path: str) -> Iterator[sqlite3.Connection]:
    """The index to be read, opened once a process. UserError where it is gone or damaged."""
    try:
        yield connection(path, os.getpid())
    except sqlite3.Error as error:
        raise UserError(f"{path} is damaged ({said_by(error)}); remove it: it is made anew") from error


def content_of(source: Path) -> str:
    found = blake2b(digest_size=12)
    with source.open("rb") as file:
        while part := file.read(1 << 22):
            found.update(part)
    return found.hexdigest()


def made(path: Path, source: Path) -> None:
    """Write the index whole or not at all: other processes read it."""
    with TemporaryDirectory(prefix=".making-", dir=path.parent) as aside:
        place = Path(aside) / "index"
        with closing(sqlite3.connect(place)) as index, index:
            index.execute("PRAGMA journal_mode = OFF")
            index.execute(_SCHEMA)
            rows = ((one.name, one.title, one.text) for one in documents(source))
            index.executemany("INSERT INTO documents VALUES (?, ?, ?)", rows)
            if not index.execute("SELECT 1 FROM documents LIMIT 1").fetchone():
                raise UserError(f"corpus {source}: there is no document in it")
        with closing(sqlite3.connect(place, isolation_level=None)) as index:
            index.execute("INSERT INTO documents(documents) VALUES ('optimize')")
        os.replace(place, path)


def documents(source: Path) -> Iterator[Passage]:
    """The documents of a corpus: rows with ``text``, and perhaps ``id`` and ``title``; of a ``.txt`` file its
    paragraphs. UserError for a row without text, or with more than MOST_CHARS characters."""
    if source.suffix == ".txt":
        rows = ((number, {"text": text}) for number, text in enumerate(paragraphs(source), start=1))
    else:
        found = open_file(source)
        if "text" not in found.columns:
            raise UserError(f"corpus {source}: it has no column text (but {', '.join(found.columns)})")
        rows = found.rows([one for one in ("id", "title", "text") if one in found.columns])  # type: ignore[assignment]
    for number, row in rows:
        name, title, text = row.get("id"), row.get("title"), row.get("text")
        if not isinstance(text, str) or not text.strip():
            raise UserError(
                f"corpus {source}, row {number}: text is missing or no text: mend or remove the row"
            )
        if len(text) > MOST_CHARS:
            raise UserError(
                f"corpus {source}, row {number}: {len(text):,} characters, more than {MOST_CHARS:,}: cut it in passages"
            )
        fields = (str(number if name is None else name)[:100], str(title or "")[:200], text)
        yield Passage(*(one.replace("\0", " ").encode("utf-8", "replace").decode() for one in fields))


def paragraphs(source: Path) -> Iterator[str]:
    """What stands between blank lines."""
    try:
        with source.open(encoding="utf-8-sig") as file:
            lines: list[str] = []
            for line in file:
                if line.strip():
                    lines.append(line)
                elif lines:
                    yield "".join(lines).strip()
                    lines = []
            if lines:
                yield "".join(lines).strip()
    except UnicodeDecodeError as error:
        raise UserError(f"corpus {source}: {said_by(error)}") from error
