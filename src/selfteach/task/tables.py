"""Rows of a .json file (a list of objects, or an object that holds one) and of a .csv file with a header."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from selfteach.errors import UserError
from selfteach.outside import blamed, parsed_json, read_text, said_by
from selfteach.task.source import JsonNumber, Row, Source

MOST_BYTES = 1 << 30
"""Of a .json file, which has to be read whole."""
MOST_CELL = 1 << 24
"""Characters of a cell of a .csv file."""
HEAD_ROWS = 1000
COLUMNS_SHOWN = 8


def json_source(path: Path) -> Source:
    """Row numbers count the objects of the list, from 1."""
    rows = listed(path, parsed(path))
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UserError(
                f'{path}, row {number}: a {type(row).__name__}, not an object; write {{"problem": …}}'
            )
    columns = tuple(dict.fromkeys(key for row in islice(rows, HEAD_ROWS) for key in row))
    return Source(str(path), path.name, columns, lambda columns: iter(enumerate(rows, start=1)))


def parsed(path: Path) -> Any:
    text = read_text(path, str(path), "write one object a line into a .jsonl file", MOST_BYTES)
    try:
        return parsed_json(text, most=None, parse_float=JsonNumber)
    except json.JSONDecodeError as error:
        more = "; one object a line is .jsonl: rename the file" if error.msg == "Extra data" else ""
        raise UserError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg}, column {error.colno}){more}"
        ) from error
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path}: not usable JSON ({said_by(error)}); mend the file") from error


def listed(path: Path, found: Any) -> Sequence[Any]:
    """The rows: the list itself, or the only list of objects that an object holds."""
    if isinstance(found, dict):
        lists = {key: value for key, value in found.items() if isinstance(value, list)}
        if len(lists) != 1:
            held = (
                f"it holds {len(lists)}: {', '.join(map(repr, islice(lists, COLUMNS_SHOWN)))}"
                if lists
                else "it holds none"
            )
            raise UserError(f"{path}: an object must hold one list of rows, {held}; write a list of objects")
        found = next(iter(lists.values()))
    if not isinstance(found, list):
        raise UserError(f"{path}: a {type(found).__name__}, not a list of objects")
    if not found:
        raise UserError(f"{path}: the file holds no rows")
    return found


def csv_source(path: Path) -> Source:
    """Every cell is text, as it is written; an empty one is none. Row numbers are line numbers."""
    names = header(path)
    if next(csv_rows(path, names, names), None) is None:
        raise UserError(f"{path}: the file holds no rows but its header")
    return Source(str(path), path.name, tuple(names), partial(csv_rows, path, names))


def header(path: Path) -> list[str]:
    """The columns' names. UserError where one is empty or stands twice."""
    _, names = next(records(path), (1, []))
    if not any(names):
        raise UserError(f"{path}: the file has no header; name its columns in the first line")
    refuse_doubled(str(path), names)
    if "" in names:
        raise UserError(f"{path}: column {names.index('') + 1} has no name; name it in the first line")
    return names


def refuse_doubled(label: str, names: Sequence[str]) -> None:
    """UserError for a column that is there twice: which one is meant?"""
    doubled = [name for name, times in Counter(names).items() if times > 1]
    if doubled:
        raise UserError(f"{label}: column {doubled[0]!r} is there twice; rename or drop one")


def csv_rows(path: Path, names: Sequence[str], columns: Sequence[str]) -> Iterator[Row]:
    for number, cells in islice(records(path), 1, None):
        if not cells:
            continue
        if len(cells) != len(names):
            raise UserError(
                f"{path}, row {number}: {len(cells)} cells, the header has {len(names)}; put text with commas in quotes"
            )
        row: Mapping[str, Any] = dict(zip(names, (cell or None for cell in cells), strict=True))
        yield number, {name: row[name] for name in columns}


def records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line it begins in, its cells) of every record; the header is the first."""
    csv.field_size_limit(max(csv.field_size_limit(), MOST_CELL))
    with blamed(str(path)), path.open("rb") as file:
        reader = csv.reader(utf8(path, file), strict=True)
        begins = 1
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise UserError(f"{path}, row {begins}: not valid CSV ({error}); mend the line") from error
            if cells is None:
                return
            yield begins, cells
            begins = reader.line_num + 1


def utf8(path: Path, file: io.BufferedIOBase) -> Iterator[str]:
    """The lines as text, with their ends, so that an error says which one is not UTF-8."""
    for number, line in enumerate(file, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}, row {number}: byte {error.start} of it is not UTF-8; save the file as UTF-8"
            ) from error
