"""``selfteach chat``: streamed answers, turns that are remembered, lines of standard input, a quiet end."""

from __future__ import annotations

import io
import itertools
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import selfteach
from selfteach.cli import main
from selfteach.policy.draws import Sampling
from selfteach.policy.loading import load_policy
from selfteach.policy.sampler import LocalSampler
from selfteach.policy.streaming import stream
from selfteach.task.arena import model_folder
from tiny import tiny_model_folder

TABLE = str(model_folder("table"))


def test_a_streamed_answer_is_the_sampled_one(tiny: str) -> None:
    policy = load_policy(tiny, trained=False)
    prompt = policy.renderer.prompt_ids([{"role": "user", "content": "Hello"}])
    greedy = Sampling(24, 0.0)
    pieces = list(stream(policy, prompt, greedy))
    sample = LocalSampler(policy).sample([prompt], greedy)[0]
    assert "".join(pieces) == policy.renderer.text(sample.ids)
    torch.manual_seed(5)
    drawn = "".join(stream(policy, prompt, Sampling(24, 1.3)))
    torch.manual_seed(5)
    other = LocalSampler(policy).sample([prompt], Sampling(24, 1.3))[0]
    assert drawn == policy.renderer.text(other.ids)


def test_the_thread_that_writes_ends_with_whoever_listens(tiny: str) -> None:
    policy = load_policy(tiny, trained=False)
    before = threading.active_count()
    stored = policy.model.generation_config
    torch.manual_seed(1)
    few = list(itertools.islice(pieces := stream(policy, [2, 30, 40], Sampling(900)), 2))
    pieces.close()  # type: ignore[attr-defined]
    assert len(few) == 2
    assert threading.active_count() <= before  # one of another test may have ended meanwhile
    assert policy.model.generation_config is stored


def test_what_the_model_raises_comes_through(tiny: str) -> None:
    policy = load_policy(tiny, trained=False)
    policy.model.model.forward = None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        list(stream(policy, [2, 30], Sampling(4)))


def test_turns_are_remembered_and_forgotten() -> None:
    chat = selfteach.chat(TABLE, temperature=0.0, max_tokens=48)
    first = chat("1*2;3*4;2+2")
    assert first.endswith("#224")
    assert chat.messages == [
        {"role": "user", "content": "1*2;3*4;2+2"}, {"role": "assistant", "content": first},
    ]  # fmt: skip
    chat.clear()
    assert chat.messages == []
    assert chat("1*2;3*4;2+2") == first
    again = selfteach.chat(TABLE, temperature=0.0, max_tokens=3)("1*2;3*4;2+2")
    assert first.startswith(again)
    assert len(again) < len(first)


def test_a_broken_off_answer_counts_as_far_as_it_came(tiny: str) -> None:
    chat = selfteach.chat(tiny, temperature=0.0, max_tokens=200, system="Be brief.")
    stop = chat.stream("Hello")
    piece = next(stop)
    stop.close()  # type: ignore[attr-defined]
    assert [one["role"] for one in chat.messages] == ["system", "user", "assistant"]
    assert chat.messages[-1]["content"] == piece
    chat.clear()
    assert chat.messages == [{"role": "system", "content": "Be brief."}]


def test_a_full_window_is_said_and_taken_back(tiny: str) -> None:
    chat = selfteach.chat(tiny, max_tokens=4)
    with pytest.raises(selfteach.UserError, match="fills the model's window of 1024: begin a new one"):
        chat("x" * 2000)
    assert chat.messages == []


def test_a_seed_repeats_a_conversation(tiny: str) -> None:
    said = [selfteach.chat(tiny, seed=seed, max_tokens=30)("Hello") for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


def lines(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_each_line_of_a_pipe_is_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines(monkeypatch, "1*2;3*4;2+2\n\n/clear\n2*2;1+1;3*3\r\n/exit\nnever\n")
    assert main(["chat", TABLE, "--temperature", "0"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.rpartition("#")[2] for line in said] == ["224", "429"]


def test_bytes_that_are_no_text_are_replaced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: str
) -> None:
    from selfteach.api.chatting import Chat

    said: list[str] = []
    monkeypatch.setattr(Chat, "stream", lambda self, text: iter([said.append(text) or ""]))
    # As Python opens it under a locale without an encoding: what cannot be decoded becomes halves of pairs.
    for errors in ("strict", "surrogateescape"):
        typed = io.TextIOWrapper(io.BytesIO(b"\xff\xfehello\n\xed\xa0\x80\n"), "utf-8", errors)
        monkeypatch.setattr(sys, "stdin", typed)
        assert main(["chat", tiny]) == 0
        assert said == ["\ufffd\ufffdhello", "\ufffd\ufffd\ufffd"]
        said.clear()
    assert "Traceback" not in capsys.readouterr().err


def test_half_a_surrogate_pair_is_replaced(tiny: str) -> None:
    chat = selfteach.chat(tiny, max_tokens=1, system="a\udcffb")
    chat("x\ud800y\ud83d\ude00")
    assert [one["content"] for one in chat.messages][:2] == ["a\ufffdb", "x\ufffdy\U0001f600"]


def test_a_closed_standard_input_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["chat", TABLE]) == 2
    assert (
        capsys.readouterr()
        .err.strip()
        .endswith("standard input is closed: give chat a terminal, a file or a pipe to read from")
    )


def test_control_characters_of_a_model_do_not_reach_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from selfteach.api.chatting import Chat

    monkeypatch.setattr(Chat, "stream", lambda self, text: iter(["a\x1b[2Jb"]))
    lines(monkeypatch, "Hello\n")
    assert main(["chat", TABLE]) == 0
    assert capsys.readouterr().out == "a\\u{1b}[2Jb\n"


def test_ctrl_c_ends_it_quietly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from selfteach.api.chatting import Chat

    def pressed(self: Chat, text: str) -> Any:
        yield "so far"
        raise KeyboardInterrupt

    monkeypatch.setattr(Chat, "stream", pressed)
    lines(monkeypatch, "Hello\n")
    assert main(["chat", TABLE]) == 0
    seen = capsys.readouterr()
    assert seen.out == "so far\n"
    assert "interrupted" not in seen.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["chat"], "required"),
        (["chat", "./nowhere"], "no such folder"),
        (["chat", TABLE, "--temperature", "-1"], "temperature is -1"),
        (["chat", TABLE, "--max-tokens", "0"], "max_tokens"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    shown = capsys.readouterr().err.strip()
    assert len(shown.splitlines()) == 1
    assert said in shown.replace("--max-tokens", "max_tokens").replace("--temperature", "temperature")


def test_a_run_is_talked_to_as_it_was_measured(tmp_path: Path) -> None:
    from selfteach.training.progress import Silent

    model = tiny_model_folder(tmp_path / "tiny")
    rows = [{"problem": f"{i}+1", "solution": f"{i + 1}", "answer": f"{i + 1}"} for i in range(9)]
    run = selfteach.train(
        "sft", model, rows, out=tmp_path / "run", steps=1, prompts=2, max_tokens=12, eval_problems=0, lora_rank=2,
        samples_every=0, system_prompt="Add.", eval_temperature=0.25, progress=Silent,
    )  # fmt: skip
    for place in (run, run.folder, run.folder / "checkpoints" / "step-1"):
        chat = selfteach.chat(place)
        assert (chat.system, chat.sampling.max_tokens, chat.sampling.temperature) == ("Add.", 12, 0.25)
        assert chat("1")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal")
def test_on_a_terminal_it_prompts_and_ctrl_d_ends_it() -> None:
    mine, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "selfteach", "chat", TABLE, "--temperature", "0"],
        stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True,
    )  # fmt: skip
    os.close(theirs)
    seen = b""

    def until(mark: bytes) -> None:
        nonlocal seen
        while mark not in seen:
            try:
                part = os.read(mine, 4096)
            except OSError:  # the other side has gone
                return
            seen += part
            if not part:
                return

    until(b"> ")
    os.write(mine, b"1*2;3*4;2+2\n")
    until(b"#224\r\n> ")
    os.write(mine, b"\x04")
    until(b"never")
    os.close(mine)
    assert process.wait() == 0, seen
    assert seen.replace(b"\r", b"").endswith(b"#224\n> \n")
