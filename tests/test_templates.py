"""Chat templates of strangers: none runs on, fills the memory or reaches Python; each is refused in one line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from hostile import damaged
from selfteach.cli import main
from selfteach.errors import UserError
from selfteach.policy import templates
from selfteach.policy.renderer import ChatRenderer
from selfteach.task.example import Message
from tiny import CHATML, tiny_model_folder, tiny_tokenizer

QUESTION: list[Message] = [{"role": "user", "content": "1+1"}]

ENDLESS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "power": "{{ 10 ** (10 ** 10) }}",
}
SWELLING = {
    "repeated": "{{ 'a' * 10 ** 10 }}",
    "nearly": "{{ 'a' * 10 ** 7 }}",
    "centered": "{{ 'a' | center(10 ** 10) }}",
    "formatted": "{{ '%0*d' % (10 ** 10, 1) }}",
    "listed": "{{ [0] * 10 ** 10 }}",
    "range": "{% for i in range(10 ** 9) %}a{% endfor %}",
}
REACHING = {
    "classes": "{{ ''.__class__.__mro__ }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "cycler": "{{ cycler.__init__.__globals__.os.popen('true').read() }}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "attr": "{{ messages | attr('__class__') }}{{ (messages|attr('__class__')).__mro__ }}",
    "namespace": "{{ namespace.__init__.__globals__ }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}{{ os.getcwd() }}",
    "changes": "{{ messages.append(1) }}",
}
BROKEN = {
    "syntax": "{% for %}",
    "unclosed": "{% if true %}",
    "raises": "{{ raise_exception('no such luck') }}",
    "raises lines": "{{ raise_exception('no\nsuch\x1b[31m luck') }}",
    "undefined": "{{ nothing.at.all }}",
    "types": "{{ 'a' + 1 }}",
    "division": "{{ 1 / 0 }}",
    "filter": "{{ 'a' | nonsense }}",
    "recursion": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "deep": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "NUL": "\0",
}  # fmt: skip


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second for a template that would never end."""
    monkeypatch.setattr(templates, "SECONDS", 0.5)


def refused(template: str) -> str:
    with pytest.raises(UserError) as refusal:
        ChatRenderer(tiny_tokenizer(template)).prompt_ids(QUESTION)
    said = str(refusal.value)
    assert "template" in said
    assert len(said.splitlines()) == 1
    assert "\x1b" not in said
    return said


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_runs_on_is_ended(name: str) -> None:
    assert "longer than 0.5 s" in refused(ENDLESS[name])


@pytest.mark.parametrize("name", SWELLING)
def test_a_template_that_fills_the_memory_is_refused(name: str) -> None:
    said = refused(SWELLING[name])
    assert "makes" in said or "memory" in said or "Range too big" in said, said


@pytest.mark.parametrize("name", REACHING)
def test_a_template_reaches_nothing_of_python(name: str) -> None:
    said = ""
    try:
        chat = ChatRenderer(tiny_tokenizer(REACHING[name]), stop_ids=[3])
        said = chat.show(chat.prompt_ids(QUESTION))
    except UserError as refusal:
        said = str(refusal)
    assert "root:" not in said
    assert "<class" not in said
    assert "builtins" not in said


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_template_is_one_line(name: str) -> None:
    try:
        ChatRenderer(tiny_tokenizer(BROKEN[name]), stop_ids=[3]).prompt_ids(QUESTION)
    except UserError as refusal:
        said = str(refusal)
    else:
        said = "The chat template" if name in ("deep", "NUL") else "nothing"
    assert said.startswith("The chat template")
    assert len(said.splitlines()) == 1


@pytest.mark.usefixtures("hurried")
def test_what_comes_after_a_template_that_was_ended_is_rendered(tmp_path: Path) -> None:
    only_once_asked = (
        "{% if messages|length > 2 %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
        "{% endif %}" + CHATML
    )
    chat = ChatRenderer(tiny_tokenizer(only_once_asked))
    with pytest.raises(UserError, match="longer than"):
        chat.prompt_ids(QUESTION * 3)
    assert chat.prompt_ids(QUESTION) == ChatRenderer(tiny_tokenizer(CHATML)).prompt_ids(QUESTION)


@pytest.mark.usefixtures("hurried")
def test_the_message_names_the_template_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, model = tmp_path / "mine.jinja", tiny_model_folder(tmp_path / "model")
    file.write_text(ENDLESS["loops"])
    capsys.readouterr()
    assert main(["eval", "--task", "table", "--model", str(model), "--chat-template", str(file)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "mine.jinja" in said
    assert "longer than 0.5 s" in said


def test_long_messages_are_not_taken_for_an_endless_template() -> None:
    long = "x" * (templates.MOST_CHARACTERS + 1)
    assert long in templates.render(CHATML, [{"role": "user", "content": long}], True, {})
    with pytest.raises(templates.Endless):
        templates.render("{{ messages[0].content * 30 }}", [{"role": "user", "content": long[::7]}], True, {})


def test_a_damaged_template_renders_or_is_one_line() -> None:
    rng = random.Random(0)
    for _ in range(150):
        template = damaged(CHATML.encode(), rng).decode("utf-8", errors="replace")
        try:
            ChatRenderer(tiny_tokenizer(template), stop_ids=[3]).prompt_ids(QUESTION)
        except UserError as refusal:
            assert len(str(refusal).splitlines()) == 1  # noqa: PT017


@pytest.mark.parametrize(
    "asked",
    [
        "{{ strftime_now('%d %b %Y %H:%M:%S.%f') }}",
        "{{ range(10 ** 5) | random }}",
        "{{ strftime_now('%x') }}",
    ],
)
def test_a_template_knows_neither_clock_nor_chance(asked: str) -> None:
    template = asked + CHATML
    first = templates.rendered(template, QUESTION, True, {})
    assert templates.rendered(CHATML, QUESTION, True, {}) in first
    assert templates.rendered(template, QUESTION, True, {}) == first


def test_the_date_of_a_template_is_said() -> None:
    assert templates.rendered("{{ strftime_now('%d %b %Y') }}", QUESTION, True, {}) == "26 Jul 2024"
