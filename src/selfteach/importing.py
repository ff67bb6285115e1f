"""Objects of a user's own code by reference: ``path/to/my.py:Name`` or ``package.module:Name``.

To load a reference is to execute the code it names, with all rights of this process: the file is the user's own.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from functools import partial
from hashlib import blake2b
from importlib.machinery import PathFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from selfteach.errors import UserError
from selfteach.outside import with_type

LONGEST = 300
"""Characters of a user's own value that a message repeats."""

_DRIVE = re.compile(r"^[A-Za-z]:(?=[\\/])")
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep

_loaded: dict[Path, tuple[bytes, ModuleType]] = {}
_neighbors: dict[str, str] = {}
"""Top-level modules that came with a loaded file, by name: the folder each was found in."""


def is_reference(text: str) -> bool:
    """Whether a word looks like ``FILE.py:NAME`` or ``package.module:NAME``; nothing is opened or imported.

    A ``.py`` file without ``:NAME`` is one too: ``load_object`` will say what is missing. Not references: ``gym:gcd``,
    ``hf:ID``, ``opsd:v1``, and a module without a dot, which could not be told from these.
    """
    where, name = _parts(text)
    return _is_file(where) or ("." in where and _is_dotted(where) and _is_dotted(name))


def load_object(reference: str) -> Any:
    """The object that ``path/to/my.py:Name`` or ``package.module:Name`` names; ``Name`` may go deeper (``Name.attr``).

    A file is executed as ``python my.py`` would, but for ``__name__``: its folder comes first in ``sys.path`` while it
    loads, so that it may import its neighbors, and last afterwards. It is loaded once, and anew when its text has
    changed. Raises UserError, in one line, where there is no such file, module or name, or where the code raises.
    """
    where, name = _parts(reference)
    if not (_is_file(where) or _is_dotted(where)):
        raise UserError(f"{reference!r} names no object: write path/to/file.py:NAME or package.module:NAME")
    if not name:
        raise UserError(f"{reference}: which object of it? Write {where}:NAME")
    module = _module_of_file(where) if _is_file(where) else _module_named(where)
    return _attribute(module, where, name)


def users_call(what: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``function(*args, **kwargs)``, the user's own. What it raises becomes a UserError: SystemExit too, not Ctrl-C.

    Its line says ``what`` was called, what was raised and where: the deepest line in the function's own file.
    """
    try:
        return function(*args, **kwargs)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        code = code_of(function)
        at = line_of(error, None if code is None else code.co_filename)
        raise UserError(f"{what}: {with_type(error)}" + (f" ({at[0]}:{at[1]})" if at else "")) from error


def code_of(function: Any) -> CodeType | None:
    """What runs when ``function`` is called, behind wrappers and ``partial``; None for what is not Python."""
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(function)
    if callable(function) and not hasattr(function, "__code__"):
        function = type(function).__call__
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None


def in_one_line(value: object, write: Callable[[object], str] = repr) -> str:
    """A value as text in one line, cut to LONGEST characters. What cannot be written is its type's name."""
    try:
        text = " ".join(write(value).split())
    except Exception:
        return type(value).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def line_of(error: BaseException, file: str | None) -> tuple[str, int] | None:
    """(file, line) where an error arose: the deepest line in ``file``, else the deepest outside this package."""
    if isinstance(error, SyntaxError) and error.filename and os.path.isfile(error.filename):
        return error.filename, error.lineno or 1
    lines = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [at for at in lines if at[0] == file]
    outside = [at for at in lines if not at[0].startswith((_PACKAGE, "<frozen "))]
    return own[-1] if own else outside[-1] if outside else None


# --- the parts of a reference -------------------------------------------------------------------------------------


def _parts(reference: str) -> tuple[str, str]:
    """(file or module, name in it); the name is empty where a file stands alone."""
    if reference.endswith(".py"):
        return reference, ""
    where, _, name = reference.rpartition(":")
    return where, name


def _is_file(where: str) -> bool:
    """Whether this is the path of a Python file: a colon stands behind a drive letter only, so ``gym:x.py`` is none."""
    return where.endswith(".py") and ":" not in _DRIVE.sub("", where)


def _is_dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _attribute(module: ModuleType, where: str, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise UserError(f"{where} has no {name!r}; {_nearest(part, found)}") from None
    return found


def _nearest(name: str, owner: object) -> str:
    names = [
        known
        for known in dir(owner)
        if not known.startswith("_")
        and not isinstance(found := inspect.getattr_static(owner, known, None), ModuleType)
        # A class or function that a file imports, by a star perhaps, is not what its user may have meant.
        and (not hasattr(found, "__qualname__") or found.__module__ == getattr(owner, "__name__", None))
    ]
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"it has {', '.join(names[:10])}" if names else "it defines nothing"


# --- modules ------------------------------------------------------------------------------------------------------


def _module_named(where: str) -> ModuleType:
    try:
        return importlib.import_module(where)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        missing = isinstance(error, ModuleNotFoundError) and f"{where}.".startswith(f"{error.name}.")
        advice = "; install it, or give a file: path/to/file.py:NAME" if missing else ""
        at = None if missing else line_of(error, None)
        raise UserError(
            f"{where} cannot be imported: {with_type(error)}{f' ({at[0]}:{at[1]})' if at else ''}{advice}"
        ) from error


def _module_of_file(where: str) -> ModuleType:
    """The file as a module: the one there is while its text stays the same."""
    if not os.path.isfile(where):
        raise UserError(f"{where}: there is no such file")
    path = Path(where).resolve()
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error.strerror}") from error
    program = sys.modules["__main__"]
    # A program that names an object of its own: executed once more, it would name it again, without end.
    if os.path.realpath(getattr(program, "__file__", None) or "") == str(path):
        return program
    known = _loaded.get(path)
    return known[1] if known and known[0] == source else _executed(where, path, source)


def _executed(where: str, path: Path, source: bytes) -> ModuleType:
    """A fresh module of the file, in ``sys.modules`` under a name that depends on its path and fits no other file."""
    name = f"{path.stem}_{blake2b(os.fsencode(path), digest_size=8).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    # Before it runs: dataclasses look their module up, and a file that loads itself finds what there is so far.
    _loaded[path], sys.modules[name] = (source, module), module
    try:
        with _first_in_path(str(path.parent)):
            # Not by the spec's loader: its cached bytecode is told from newer source by seconds and size alone.
            exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        _loaded.pop(path, None)
        sys.modules.pop(name, None)
        if isinstance(error, KeyboardInterrupt):
            raise
        raise UserError(_complaint(where, str(path), error)) from error
    return module


EXTRAS = {"verifiers": "verifiers", "gymnasium": "agents", "minigrid": "babyai", "textworld": "textworld"}
"""Libraries that users' own files import → the extra that brings the version that is known to work."""


def _complaint(where: str, file: str, error: BaseException) -> str:
    at = line_of(error, file)
    line = f", line {at[1]}" if at and at[0] == file else ""
    other = f" ({at[0]}:{at[1]})" if at and at[0] != file else ""
    advice = ""
    if isinstance(error, SystemExit):
        advice = "; what a program does goes under if __name__ == '__main__':"
    elif isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        advice = f"; pip install 'selfteach[{EXTRAS[error.name]}]'"
    return f"{where}{line}: {with_type(error)}{other}{advice}"


@contextmanager
def _first_in_path(folder: str) -> Iterator[None]:
    """Let a file of ``folder`` import its neighbors before anything else, as ``python my.py`` does.

    Afterwards the folder stands last: an import inside a function still finds a neighbor, but a neighbor that has a
    library's name does not take that library's place in the rest of this process.
    """
    _forget_namesakes(folder)
    importlib.invalidate_caches()
    before = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)
        for name in set(sys.modules) - before:
            if (file := _found(name, folder)) and getattr(sys.modules[name], "__file__", None) == file:
                _neighbors[name] = folder


def _forget_namesakes(folder: str) -> None:
    """Two folders may each have a ``utils.py``: a file gets its own one, whichever was loaded before."""
    for name, other in list(_neighbors.items()):
        if other != folder and _found(name, folder):
            for known in [one for one in sys.modules if one == name or one.startswith(f"{name}.")]:
                del sys.modules[known]
            del _neighbors[name]


def _found(name: str, folder: str) -> str | None:
    """The file of the top-level module or package of this name in the folder; None if it has none."""
    spec = None if "." in name else PathFinder.find_spec(name, [folder])
    return None if spec is None else spec.origin
