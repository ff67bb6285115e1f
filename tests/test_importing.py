"""Objects of a user's own files and modules: what loads, what is found beside it, and what each mistake is told."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from selfteach import importing
from selfteach.errors import UserError
from selfteach.importing import is_reference, load_object


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test imports is gone after it."""
    monkeypatch.setattr(importing, "_loaded", {})
    monkeypatch.setattr(importing, "_neighbors", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text), encoding="utf-8")
    return str(path)


def refusal(reference: str) -> str:
    with pytest.raises(UserError) as error:
        load_object(reference)
    message = str(error.value)
    assert "\n" not in message
    return message


# --- what looks like a reference ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "my.py:Name", "path/to/my.py:Name", "./my.py:Name.attr", "/a b/my.py:x", "C:\\folder\\my.py:Name",
        "c:/folder/my.py:Name", "package.module:Name", "package.module:Name.attr", "my.py", "my.py:", "my-1.py:Name",
    ],
)  # fmt: skip
def test_what_is_a_reference(text: str) -> None:
    assert is_reference(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "table", "gym:gcd", "gym:chain_sum?min_terms=2", "gym:x.py:y", "hf:org/set", "hf:org/set.py", "hf:a.b",
        "arena:table", "opsd:v1", "opsd:v1.5", "sd-zero:v3-thinking", "C:\\data\\rows.jsonl", "C:/data/rows.jsonl",
        "rows.jsonl", "folder/rows.parquet", "http://host/my.py:Name", "module:Name", "a..b:Name", "a.b:", "a.b:1x",
        ":Name", "127.0.0.1:80",
    ],
)  # fmt: skip
def test_what_is_not_a_reference(text: str) -> None:
    assert not is_reference(text)


# --- what loads ---------------------------------------------------------------------------------------------------


def test_an_object_of_a_file_by_its_name_and_what_hangs_on_it(tmp_path: Path) -> None:
    file = write(tmp_path / "my.py", "class Box:\n    inner = {'a': 1}\n    class Deep:\n        value = 7\n")
    assert load_object(f"{file}:Box").inner == {"a": 1}
    assert load_object(f"{file}:Box.Deep.value") == 7


def test_an_object_of_an_importable_module() -> None:
    assert load_object("os.path:join.__name__") == "join"
    assert load_object("json:loads")("1") == 1


def test_introspection_works_on_what_was_loaded(tmp_path: Path) -> None:
    file = write(
        tmp_path / "my.py",
        """\
        from __future__ import annotations
        from dataclasses import dataclass, field
        from typing import ClassVar

        @dataclass(frozen=True)
        class Mine:
            kind: ClassVar[str] = "k"
            numbers: list[int] = field(default_factory=list)
        """,
    )
    mine = load_object(f"{file}:Mine")
    assert [one.name for one in dataclasses.fields(mine)] == ["numbers"]
    assert inspect.getsource(mine).startswith("@dataclass(frozen=True)\nclass Mine:")
    assert inspect.get_annotations(mine, eval_str=True)["numbers"] == list[int]
    assert sys.modules[mine.__module__].__dict__["Mine"] is mine
    assert inspect.getsourcefile(mine) == file


def test_a_file_is_loaded_once_by_whatever_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "my.py", "class Mine: pass")
    monkeypatch.chdir(tmp_path)
    first = load_object("my.py:Mine")
    assert first is load_object("my.py:Mine") is load_object(f"{tmp_path}/../{tmp_path.name}/my.py:Mine")


def test_a_file_that_changed_is_loaded_anew_even_within_its_clock_tick_and_size(tmp_path: Path) -> None:
    file = write(tmp_path / "my.py", "value = 1")
    assert load_object(f"{file}:value") == 1
    write(tmp_path / "my.py", "value = 2")
    assert load_object(f"{file}:value") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["my.py"]


def test_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    one = load_object(write(tmp_path / "a" / "my.py", "class Mine: pass") + ":Mine")
    two = load_object(write(tmp_path / "b" / "my.py", "class Mine: pass") + ":Mine")
    assert one is not two
    assert one.__module__ != two.__module__
    assert sys.modules[one.__module__].__dict__["Mine"] is one
    assert "my" not in sys.modules


def test_a_file_that_has_the_name_of_a_library_takes_nobodys_place(tmp_path: Path) -> None:
    import json

    assert load_object(write(tmp_path / "json.py", "loads = 1") + ":loads") == 1
    assert sys.modules["json"] is json
    assert json.loads("2") == 2


def test_neighbors_can_be_imported_at_the_top_and_later(tmp_path: Path) -> None:
    write(tmp_path / "beside_top.py", "value = 3")
    write(tmp_path / "beside_later" / "__init__.py", "value = 4")
    file = write(
        tmp_path / "my.py",
        """\
        import beside_top
        def both():
            import beside_later
            return beside_top.value, beside_later.value
        """,
    )
    assert load_object(f"{file}:both")() == (3, 4)


def test_a_neighbor_comes_before_a_library_of_its_name_for_the_file_alone(tmp_path: Path) -> None:
    library = tmp_path / "library"
    write(library / "beside_both.py", "value = 'library'")
    write(library / "beside_lazy.py", "value = 'library'")
    sys.path.append(str(library))
    own = tmp_path / "own"
    write(own / "beside_both.py", "value = 'own'")
    write(own / "beside_lazy.py", "value = 'own'")
    file = write(own / "my.py", "from beside_both import value")
    assert load_object(f"{file}:value") == "own"
    import beside_lazy  # type: ignore[import-not-found]

    assert beside_lazy.value == "library"
    assert sys.path.count(str(own)) == 1


def test_each_file_gets_its_own_neighbor_where_two_folders_have_one_of_a_name(tmp_path: Path) -> None:
    read = (
        "import beside_utils, beside_pack.part\ndef read(): return beside_utils.value, beside_pack.part.value"
    )
    files = []
    for name in "ab":
        write(tmp_path / name / "beside_utils.py", f"value = {name!r}")
        write(tmp_path / name / "beside_pack" / "__init__.py", "")
        write(tmp_path / name / "beside_pack" / "part.py", f"value = {name!r}")
        files.append(write(tmp_path / name / f"of_{name}.py", read))
    functions = [load_object(f"{file}:read") for file in files]
    assert [function() for function in functions] == [("a", "a"), ("b", "b")]


def test_a_folder_on_the_path_already_stays_where_it_is(tmp_path: Path) -> None:
    sys.path.insert(0, str(tmp_path))
    before = list(sys.path)
    load_object(write(tmp_path / "my.py", "x = 1") + ":x")
    assert sys.path == before


def test_a_program_that_names_an_object_of_itself_does_not_run_again(tmp_path: Path) -> None:
    file = write(
        tmp_path / "program.py",
        """\
        print("runs")
        from selfteach.importing import load_object
        class Mine: pass
        assert load_object(__file__ + ":Mine") is Mine
        """,
    )
    done = subprocess.run([sys.executable, file], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "runs\n"), done.stderr


def test_a_file_that_loads_itself_is_not_loaded_without_end(tmp_path: Path) -> None:
    file = write(
        tmp_path / "my.py",
        """\
        from selfteach.importing import load_object
        first = 1
        again = load_object(__file__ + ":first")
        """,
    )
    assert load_object(f"{file}:again") == 1


# --- mistakes -----------------------------------------------------------------------------------------------------


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert refusal("gone/my.py:Name") == "gone/my.py: there is no such file"
    (tmp_path / "folder.py").mkdir()
    assert refusal(f"{tmp_path}/folder.py:Name") == f"{tmp_path}/folder.py: there is no such file"


def test_a_missing_name_after_the_colon_is_asked_for(tmp_path: Path) -> None:
    file = write(tmp_path / "my.py", "raise SystemExit")
    assert refusal(file) == f"{file}: which object of it? Write {file}:NAME"
    assert refusal(f"{file}:") == f"{file}:: which object of it? Write {file}:NAME"


@pytest.mark.parametrize("text", ["", "table", "gym:x.py:y", "hf:org/set:x", "a b:c"])
def test_what_is_no_reference_is_told_what_one_is(text: str) -> None:
    assert "write path/to/file.py:NAME or package.module:NAME" in refusal(text)


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    file = write(
        tmp_path / "my.py",
        "import math\nfrom decimal import Decimal\nclass Task:\n    speed = 1\ndef tusk(): ...\n_hidden = 1\n"
        "THING = Decimal(1)\n",
    )
    assert refusal(f"{file}:Tsk") == f"{file} has no 'Tsk'; did you mean Task or tusk?"
    assert refusal(f"{file}:Task.sped") == f"{file} has no 'Task.sped'; did you mean speed?"
    assert refusal(f"{file}:THIG") == f"{file} has no 'THIG'; did you mean THING?"
    assert refusal(f"{file}:qqq") == f"{file} has no 'qqq'; it has THING, Task, tusk"
    assert refusal(write(tmp_path / "empty.py", "") + ":x").endswith("it defines nothing")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("x = 1\ny = x / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("x = 1\ny = = 2\n", "line 2: SyntaxError: invalid syntax"),
        ("import no_such_library\n", "line 1: ModuleNotFoundError: No module named 'no_such_library'"),
        ("from . import sibling\n", "line 1: ImportError: attempted relative import"),
        ("def f():\n    raise ValueError('a\\nb')\nf()\n", "line 2: ValueError: a b"),
        ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3; what a program does goes under if __name__"),
        ("class Stop(BaseException): ...\nraise Stop\n", "line 2: Stop"),
        ("class Mute(Exception):\n    def __str__(self): return 1\nraise Mute\n", "line 3: Mute"),
        ("import json\njson.loads('{')\n", "line 2: JSONDecodeError"),
    ],
)
def test_a_file_that_raises_names_error_and_line(tmp_path: Path, body: str, said: str) -> None:
    file = write(tmp_path / "my.py", body)
    assert refusal(f"{file}:x").startswith(f"{file}, {said}")
    assert file not in [getattr(module, "__file__", None) for module in list(sys.modules.values())]


def test_an_error_in_a_neighbor_names_the_line_that_led_there(tmp_path: Path) -> None:
    write(tmp_path / "beside_broken.py", "\n\nx = 1 / 0\n")
    file = write(tmp_path / "my.py", "\nimport beside_broken\n")
    assert refusal(f"{file}:x").startswith(f"{file}, line 2: ZeroDivisionError")
    other = write(tmp_path / "beside_unwritten.py", "\n\n\nx = = 1\n")
    file = write(tmp_path / "my.py", "import beside_unwritten\n")
    assert refusal(f"{file}:x") == f"{file}: SyntaxError: invalid syntax ({other}:4)"


def test_a_file_is_tried_again_after_it_was_mended(tmp_path: Path) -> None:
    file = write(tmp_path / "my.py", "x = 1 / 0")
    assert (
        refusal(f"{file}:x") == refusal(f"{file}:x") == f"{file}, line 1: ZeroDivisionError: division by zero"
    )
    write(tmp_path / "my.py", "x = 1")
    assert load_object(f"{file}:x") == 1


def test_text_that_is_not_utf8_or_not_python_is_named(tmp_path: Path) -> None:
    file = tmp_path / "my.py"
    file.write_bytes(b"x = '\xe9'\n")
    assert "SyntaxError" in refusal(f"{file}:x")
    file.write_bytes(b"x = 1\0")
    assert "null bytes" in refusal(f"{file}:x")


def test_interrupting_a_file_as_it_loads_interrupts(tmp_path: Path) -> None:
    file = write(tmp_path / "my.py", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_object(f"{file}:x")


def test_a_module_that_is_not_there_is_told_from_one_that_raises(tmp_path: Path) -> None:
    assert refusal("no_such.module:x") == (
        "no_such.module cannot be imported: ModuleNotFoundError: No module named 'no_such'; install it, or give a "
        "file: path/to/file.py:NAME"
    )
    sys.path.append(str(tmp_path))
    write(tmp_path / "beside_pack" / "__init__.py", "")
    file = write(tmp_path / "beside_pack" / "broken.py", "\nx = 1 / 0\n")
    assert refusal("beside_pack.broken:x") == (
        f"beside_pack.broken cannot be imported: ZeroDivisionError: division by zero ({file}:2)"
    )
    write(tmp_path / "beside_pack" / "needy.py", "import no_such_library")
    assert refusal("beside_pack.needy:x").endswith("needy.py:1)")
    assert refusal("beside_pack:nothing").startswith("beside_pack has no 'nothing'")


def test_a_library_that_an_extra_brings_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.py", "import nonesuch\n")
    assert "pip install" not in refusal(f"{file}:make")
    importing.EXTRAS["nonesuch"] = "agents"
    try:
        assert refusal(f"{file}:make").endswith("; pip install 'selfteach[agents]'")
    finally:
        del importing.EXTRAS["nonesuch"]
