"""``selfteach export``: folders that transformers loads by itself, with the numbers that were trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import selfteach
from selfteach.cli import main
from selfteach.policy.loading import load_policy
from selfteach.training.progress import Silent
from tiny import CHATML, tiny_model_folder

IDS = torch.tensor([[2, 30, 40, 50, 60, 3]])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of a tiny model under a chat template of their own, all weights and LoRA."""
    home = tmp_path_factory.mktemp("export")
    model = tiny_model_folder(home / "tiny")
    (home / "own.jinja").write_text(CHATML.replace("assistant\\n", "assistant: "))
    asked: dict[str, Any] = {
        "steps": 2, "prompts": 2, "max_tokens": 8, "eval_problems": 0, "checkpoint_every": 1, "keep": 9, "lr": 1e-2,
        "samples_every": 0, "chat_template": str(home / "own.jinja"), "progress": Silent,
    }  # fmt: skip
    selfteach.train("opsd", model, "table", out=home / "full", **asked)
    selfteach.train("opsd", model, "table", out=home / "lora", lora_rank=4, **asked)
    return home


def logits(folder: Path, kind: Any = AutoModelForCausalLM) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = kind.from_pretrained(folder).eval()(IDS).logits
    return found


def test_a_whole_model_is_a_folder_of_its_own(home: Path, tmp_path: Path) -> None:
    out = selfteach.export(home / "full", tmp_path / "out")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "generation_config.json"):
        assert (out / name).is_file(), name
    assert torch.equal(logits(out), logits(home / "full" / "model"))
    tokenizer = AutoTokenizer.from_pretrained(out)
    said = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1"}], tokenize=False, add_generation_prompt=True
    )
    assert said.endswith("assistant: "), "the template that it was trained with"
    assert GenerationConfig.from_pretrained(out).eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_a_checkpoint_is_the_model_of_its_step(home: Path, tmp_path: Path) -> None:
    last = selfteach.export(home / "full" / "checkpoints" / "step-2", tmp_path / "last")
    first = selfteach.export(home / "full" / "checkpoints" / "step-1", tmp_path / "first")
    assert torch.equal(logits(last), logits(home / "full" / "model"))
    assert not torch.equal(logits(first), logits(last))


@pytest.mark.parametrize("place", ["lora", "lora/checkpoints/step-2", "lora/model"])
def test_a_merged_adapter_says_what_the_adapter_says(place: str, home: Path, tmp_path: Path) -> None:
    adapter = selfteach.export(home / place, tmp_path / "adapter")
    merged = selfteach.export(home / place, tmp_path / "merged", merge=True)
    assert not (merged / "adapter_config.json").exists()
    beside = logits(adapter, AutoPeftModelForCausalLM)
    torch.testing.assert_close(logits(merged), beside, rtol=1e-4, atol=1e-5)
    assert (beside - logits(home / "tiny")).abs().max() > 1e-2, "the adapter does something"
    again = selfteach.export(adapter, tmp_path / "again", merge=True)
    assert torch.equal(logits(again), logits(merged))


def test_an_adapter_names_its_base_wherever_it_is_loaded_from(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    adapter = selfteach.export("lora", tmp_path / "adapter", base="tiny")
    monkeypatch.chdir(tmp_path)
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        home / "tiny"
    )
    assert logits(adapter, AutoPeftModelForCausalLM).isfinite().all()


def test_numbers_of_a_whole_model_may_be_halved(home: Path, tmp_path: Path) -> None:
    out = selfteach.export(home / "lora", tmp_path / "out", merge=True, dtype="bfloat16")
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(out, dtype="auto").dtype == torch.bfloat16


def test_what_a_turn_ends_with_ends_the_generation_of_the_exported_model(tmp_path: Path) -> None:
    """A template that ends turns with a token that is not the model's eos: both stop it."""
    model = tiny_model_folder(tmp_path / "model")
    config = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": 0}))
    out = selfteach.export(model, tmp_path / "out")
    assert GenerationConfig.from_pretrained(out).eos_token_id == sorted(
        load_policy(str(model)).renderer.stop_ids
    )
    assert GenerationConfig.from_pretrained(out).eos_token_id == [0, 3]


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(home: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("")
    for given, said in (
        ({"model": home / "full", "out": tmp_path / "there"}, "there already, and not empty"),
        ({"model": home / "full", "out": tmp_path / "x", "merge": True}, "no adapter to merge"),
        ({"model": home / "full", "out": tmp_path / "x", "dtype": "int8"}, "dtype must be one of"),
        ({"model": home / "lora", "out": tmp_path / "x", "dtype": "bfloat16"}, "an adapter is float32"),
        ({"model": home / "none", "out": tmp_path / "x"}, "no such folder"),
        ({"model": home / "full", "out": tmp_path / "x", "private": True}, "push_to_hub"),
        ({"model": home / "full", "out": tmp_path / "there" / "file" / "x"}, "cannot be written"),
    ):
        with pytest.raises(selfteach.UserError, match=said):
            selfteach.export(**given)
    assert {one.name for one in tmp_path.iterdir()} == {"there"}


# --- the hub: only the two calls that would leave this machine are replaced ---------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    called: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(
        huggingface_hub.HfApi, "create_repo",
        lambda self, repo_id, **how: called.append(("create", {"repo_id": repo_id, **how})),
    )  # fmt: skip

    def upload(self: Any, **how: Any) -> None:
        files = {one.name for one in Path(how["folder_path"]).iterdir()}
        called.append(("upload", {**how, "files": files}))

    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    return called


def test_a_merged_model_is_uploaded_whole(
    home: Path, tmp_path: Path, hub: list[tuple[str, dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [
        "export",
        str(home / "lora"),
        "--out",
        str(out),
        "--merge",
        "--push-to-hub",
        "me/model",
        "--private",
    ]
    assert main(words) == 0
    (made, how), (sent, what) = hub
    assert (made, how) == ("create", {"repo_id": "me/model", "private": True, "exist_ok": True})
    assert (sent, what["repo_id"], what["folder_path"]) == ("upload", "me/model", out)
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= what["files"]
    assert "me/model" in capsys.readouterr().out


def test_without_a_token_nothing_is_made(
    home: Path, tmp_path: Path, hub: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(selfteach.UserError, match=r"needs a token.*hf auth login.*HF_TOKEN"):
        selfteach.export(home / "full", tmp_path / "out", push_to_hub="me/model")
    assert not hub
    assert not (tmp_path / "out").exists()


def test_an_adapter_on_a_folder_of_this_machine_is_not_uploaded(
    home: Path, tmp_path: Path, hub: list[Any]
) -> None:
    with pytest.raises(selfteach.UserError, match="a folder of this machine"):
        selfteach.export(home / "lora", tmp_path / "out", push_to_hub="me/model")
    with pytest.raises(selfteach.UserError, match="no repository's name"):
        selfteach.export(home / "full", tmp_path / "out", push_to_hub="me/my model")
    assert not hub


def test_an_upload_that_fails_says_that_the_folder_is_written(
    home: Path, tmp_path: Path, hub: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Any, **how: Any) -> None:
        raise OSError("the hub said no\nand more")

    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", refused)
    with pytest.raises(
        selfteach.UserError,
        match=r"is written, but could not be uploaded.*: OSError: the hub said no and more$",
    ):
        selfteach.export(home / "full", tmp_path / "out", push_to_hub="me/model")
    assert (tmp_path / "out" / "config.json").is_file()
