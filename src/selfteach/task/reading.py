"""Rows of a data file, a folder or a Hugging Face dataset, with every row's place in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from selfteach.errors import UserError
from selfteach.hub import hub_at_hand
from selfteach.outside import blamed, parsed_json, require_file, said_by, with_type
from selfteach.task.source import JsonNumber, Row, Source
from selfteach.task.tables import csv_source, json_source, refuse_doubled

__all__ = ["ENDINGS", "SAID", "JsonNumber", "Row", "Source", "dataset_source", "open_file", "open_hub"]

ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
"""Of the files that are read."""
SAID = f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"

BATCH_ROWS = 512
HEAD_ROWS = 1000


def open_file(path: str | Path, *, split: str = "train") -> Source:
    """A ``.jsonl``, ``.json``, ``.csv`` or ``.parquet`` file, or a folder that ``datasets`` can read."""
    path = Path(path)
    if not os.path.exists(path):
        raise UserError(f"{path}: there is no such file or folder")
    if path.is_dir():
        return _folder(path, split)
    require_file(path, str(path))
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty")
    readers = dict(zip(ENDINGS, (_jsonl, json_source, csv_source, _parquet), strict=True))
    if path.suffix not in readers:
        raise UserError(f"{path}: cannot read {path.suffix or 'a file without ending'}; give a {SAID} file")
    return readers[path.suffix](path)


def open_hub(
    name: str, *, split: str = "train", subset: str | None = None, revision: str | None = None
) -> Source:
    """A dataset of the Hugging Face hub, by its id; loading scripts are never run."""
    datasets = _library("datasets", f"hf:{name}")
    label, silent = f"hf:{name} ({split})", None
    try:
        with hub_at_hand() as silent:
            data = datasets.load_dataset(name, name=subset, split=split, revision=revision)
    except MemoryError:
        raise
    except Exception as error:  # of an unreachable or a broken one the library raises nearly anything
        raise UserError(f"{label}: cannot be loaded: {silent or said_by(error)}") from error
    return dataset_source(label, name, data)


def _jsonl(path: Path) -> Source:
    """Its columns are the keys of the first HEAD_ROWS rows: a row need not have them all."""
    head = [row for _, row in islice(_json_rows(path), HEAD_ROWS)]
    if not head:
        raise UserError(f"{path}: the file holds no rows")
    columns = tuple(dict.fromkeys(key for row in head for key in row))
    return Source(str(path), path.name, columns, lambda columns: _json_rows(path))


def _json_rows(path: Path) -> Iterator[Row]:
    """Blank lines are passed over; row numbers are line numbers."""
    offset = 0
    with blamed(str(path)), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}, row {number}: byte {offset + error.start} is not UTF-8; save the file as UTF-8"
                ) from error
            offset += len(line)
            if text.strip():
                yield number, _json_object(path, number, text)


def _json_object(path: Path, number: int, text: str) -> Mapping[str, Any]:
    try:
        row = parsed_json(text, most=None, parse_float=JsonNumber)
    except json.JSONDecodeError as error:
        what = f"{error.msg}, column {error.colno}"
        raise UserError(f"{path}, row {number}: not valid JSON ({what}); mend the line") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of too many digits
        raise UserError(f"{path}, row {number}: not usable JSON ({said_by(error)}); mend the line") from error
    if not isinstance(row, dict):
        kind = type(row).__name__
        raise UserError(f'{path}, row {number}: a {kind}, not an object; write {{"problem": …}} on each line')
    return row


def _parquet(path: Path) -> Source:
    parquet = _library("pyarrow.parquet", str(path))
    try:
        names = parquet.ParquetFile(path).schema_arrow.names
    except Exception as error:  # of a damaged file nearly anything
        raise UserError(f"{path}: not a readable Parquet file: {said_by(error)}") from error
    refuse_doubled(str(path), names)
    return Source(str(path), path.name, tuple(names), lambda columns: _parquet_rows(path, columns))


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    parquet = _library("pyarrow.parquet", str(path))
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(BATCH_ROWS, columns=list(columns)):
            for i in range(batch.num_rows):
                number += 1
                yield number, {name: _value(path, number, name, batch.column(name)[i]) for name in columns}
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}, after row {number}: not readable: {said_by(error)}") from error


def _value(path: Path, number: int, name: str, cell: Any) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, row {number}, field {name!r}: not UTF-8; write the file anew as UTF-8"
        ) from error
    except (ValueError, OverflowError) as error:  # a date beyond Python's
        raise UserError(
            f"{path}, row {number}, field {name!r}: {said_by(error)}; write it as text"
        ) from error


def _folder(path: Path, split: str) -> Source:
    datasets = _library("datasets", str(path))
    label = f"{path} ({split})"
    try:
        if (path / "dataset_dict.json").exists():
            data = datasets.load_from_disk(str(path))
            if split not in data:
                raise UserError(
                    f"{label}: cannot be loaded: there is no split {split!r}, only {', '.join(data)}"
                )
            data = data[split]
        elif (path / "state.json").exists():
            data = datasets.load_from_disk(str(path))
        else:
            data = datasets.load_dataset(str(path), split=split)
    except IndexError as error:  # what load_from_disk raises where nothing was saved
        raise UserError(f"{label}: the dataset holds no rows") from error
    except (MemoryError, UserError):
        raise
    except Exception as error:  # a bad file among good ones makes the library raise nearly anything
        raise UserError(
            f"{label}: cannot be loaded ({_cause(error)}): mend or take out the file that it names, or give the files "
            "one by one as .jsonl or .parquet"
        ) from error
    return dataset_source(label, path.name, data)


def dataset_source(label: str, name: str, data: Any) -> Source:
    """A ``datasets.Dataset`` that is loaded."""
    if data.num_rows == 0:
        raise UserError(f"{label}: the dataset holds no rows")

    def rows(columns: Sequence[str]) -> Iterator[Row]:
        chosen = undecoded(data.select_columns(list(columns)))
        for start in range(0, data.num_rows, BATCH_ROWS):
            with blamed(f"{label}, after row {start}"):
                batch = chosen[start : start + BATCH_ROWS]
                batch = batch.to_pydict() if hasattr(batch, "to_pydict") else batch
            for i in range(min(BATCH_ROWS, data.num_rows - start)):
                yield start + i + 1, {name: batch[name][i] for name in columns}

    return Source(label, name, tuple(data.column_names), rows)


def undecoded(data: Any) -> Any:
    """The dataset as Arrow holds it: no file that a cell names (a picture's path) is opened. One whose owner formats it
    stays as it is."""
    return data if data.format["type"] is not None else data.with_format("arrow")


def _library(name: str, reader: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        raise UserError(
            f"{reader}: reading it needs the package {package}; pip install 'selfteach[data]'"
        ) from error


def _cause(error: BaseException) -> str:
    """What was at the bottom of it, in one line: a library tells its own trouble first, and that of the file last."""
    while error.__cause__ is not None or (error.__context__ is not None and not error.__suppress_context__):
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return with_type(error)
