"""Rows of a JSONL file, a Parquet file, a folder or a Hugging Face dataset, with every row's place in it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from selfteach.errors import UserError

BATCH_ROWS = 512
HEAD_ROWS = 1000

Row = tuple[int, Mapping[str, Any]]


class JsonNumber(float):
    """A number with a point or an exponent as it is ``written`` in the file: 0.10 is not 0.1 there."""

    written: str

    def __new__(cls, written: str) -> JsonNumber:
        number = super().__new__(cls, written)
        number.written = written
        return number


@dataclass(frozen=True)
class Source:
    """``label`` names it in messages, ``name`` in the keys of examples (without the machine's folders).

    ``rows(columns)`` gives (1-based row number, the named columns).
    """

    label: str
    name: str
    columns: Sequence[str]
    rows: Callable[[Sequence[str]], Iterator[Row]]


def open_file(path: str | Path, *, split: str = "train") -> Source:
    """A ``.jsonl`` or ``.parquet`` file, or a folder that ``datasets`` can read."""
    path = Path(path)
    if not os.path.exists(path):
        raise UserError(f"{path}: there is no such file or folder")
    if path.is_dir():
        return _folder(path, split)
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty")
    if path.suffix == ".jsonl":
        return _jsonl(path)
    if path.suffix == ".parquet":
        return _parquet(path)
    raise UserError(
        f"{path}: cannot read {path.suffix or 'a file without ending'}; give a .jsonl or .parquet file"
    )


def open_hub(
    name: str, *, split: str = "train", subset: str | None = None, revision: str | None = None
) -> Source:
    """A dataset of the Hugging Face hub, by its id; loading scripts are never run."""
    datasets = _library("datasets", f"hf:{name}")
    label = f"hf:{name} ({split})"
    try:
        data = datasets.load_dataset(name, name=subset, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{label}: cannot be loaded: {_first_line(error)}") from error
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
    with path.open("rb") as file:
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
        row = json.loads(text, parse_float=JsonNumber)
    except json.JSONDecodeError as error:
        what = f"{error.msg}, column {error.colno}"
        raise UserError(f"{path}, row {number}: not valid JSON ({what}); mend the line") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of too many digits
        raise UserError(
            f"{path}, row {number}: not usable JSON ({_first_line(error)}); mend the line"
        ) from error
    if not isinstance(row, dict):
        kind = type(row).__name__
        raise UserError(f'{path}, row {number}: a {kind}, not an object; write {{"problem": …}} on each line')
    return row


def _parquet(path: Path) -> Source:
    pyarrow = _library("pyarrow", str(path))
    parquet = _library("pyarrow.parquet", str(path))
    try:
        names = parquet.ParquetFile(path).schema_arrow.names
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file: {_first_line(error)}") from error
    return Source(str(path), path.name, tuple(names), lambda columns: _parquet_rows(path, columns))


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    pyarrow, parquet = _library("pyarrow", str(path)), _library("pyarrow.parquet", str(path))
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(BATCH_ROWS, columns=list(columns)):
            for i in range(batch.num_rows):
                number += 1
                yield number, {name: _value(path, number, name, batch.column(name)[i]) for name in columns}
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}, after row {number}: not readable: {_first_line(error)}") from error


def _value(path: Path, number: int, name: str, cell: Any) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, row {number}, field {name!r}: not UTF-8; write the file anew as UTF-8"
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
        chosen = data.select_columns(list(columns))
        for start in range(0, data.num_rows, BATCH_ROWS):
            batch = chosen[start : start + BATCH_ROWS]
            for i in range(min(BATCH_ROWS, data.num_rows - start)):
                yield start + i + 1, {name: batch[name][i] for name in columns}

    return Source(label, name, tuple(data.column_names), rows)


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
    return f"{type(error).__name__}: {_first_line(error)}"[:300]  # type: ignore[arg-type]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
