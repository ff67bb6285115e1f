"""A teacher's scores from the disk: what they train, what they weigh, and what is refused."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import TextRun
from selfteach.cli import main
from selfteach.cli.train import configured
from selfteach.errors import UserError
from selfteach.objective.listed import Listed
from selfteach.task.trajectory import Trajectory
from selfteach.training.launch import learner_of
from selfteach.training.progress import Silent
from selfteach.training.text.store import NamedStore
from selfteach.training.text.teachers import cache, scoring
from selfteach.training.text.teachers.cache import CacheWriter, TeacherCache
from selfteach.training.text.teachers.handed import Piece
from selfteach.training.text.teachers.manifest import Identity, Made
from selfteach.training.text.teachers.packed import bits_of, packed, unpacked, untied
from selfteach.training.text.teachers.scoring import score
from tiny import tiny_model_folder

COMMON = (
    "--task", "table", "--device", "cpu", "--prompts", "3", "--stored", "6", "--max-tokens", "9", "--steps", "3",
    "--eval-problems", "0", "--samples-every", "0", "--lr", "0.5", "--optim", "sgd", "--max-grad-norm", "none",
    "--max-unavailable", "1",
)  # fmt: skip
TOP = ("--teacher-top-k", "4", "--clip-entry", "none", "--loss-temperature", "1")
FULL = ("--clip-entry", "none", "--loss-temperature", "1")
OTHER = ("--sft-steps", "0", "--per-prompt", "2")


def words(recipe: str, model: str, *more: str) -> list[str]:
    return [recipe, "--model", model, *COMMON, *more]


def made(out: Path, given: Sequence[str], **more: Any) -> TeacherCache:
    score(learner_of(configured(given)[0], Silent()), out, **more)
    return TeacherCache(out)


def trained(given: Sequence[str], rows: Sequence[Trajectory] = ()) -> TextRun:
    """Three steps; on these rows, as if the run had stored them itself."""
    run = TextRun(configured(given)[0])
    if rows:
        run.learner.writing.stores[run.learner.now.stage] = NamedStore(list(rows))
        run.learner.writing.filled.add(run.learner.now.stage)
    for _ in range(3):
        run.stepped()
    return run


def weights(run: TextRun) -> torch.Tensor:
    return torch.cat([one.detach().flatten() for one in run.learner.policy.trainable().values()])


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another model of the same tokenizer."""
    return str(tiny_model_folder(tmp_path_factory.mktemp("other"), seed=5))


# --- the format -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocabulary", [2, 3, 101, 256, 257, 32_000, 151_936, 262_144])
def test_ids_are_packed_into_as_few_bits_as_the_vocabulary_needs(vocabulary: int) -> None:
    bits = bits_of(vocabulary)
    assert 2 ** (bits - 1) < vocabulary <= 2**bits
    ids = torch.randint(vocabulary, (7, 13), generator=torch.Generator().manual_seed(0))
    ids[0, :2] = torch.tensor([0, vocabulary - 1])
    content = packed(ids, bits)
    assert content.shape == (7, -(-13 * bits // 8))
    assert unpacked(content, 13, bits).equal(ids)
    assert unpacked(packed(ids[:0], bits), 13, bits).shape == (0, 13)


def test_rounding_does_not_change_which_tokens_are_the_likeliest() -> None:
    exact = -torch.rand(50, 64, generator=torch.Generator().manual_seed(0)).mul(3).sort(-1).values
    rounded = exact.half()
    assert (rounded[:, 1:] == rounded[:, :-1]).any()
    kept = untied(rounded)
    assert (kept[:, 1:] < kept[:, :-1]).all()
    assert (kept - rounded.float()).abs().max() < 2e-4


def test_a_million_tokens_take_less_than_300_megabytes(tmp_path: Path) -> None:
    """64 of 151,936 tokens: 64 · (18 + 16) bits, tail and sampled log-prob are 280 bytes a token."""
    none = Identity("frozen", "m", "w", "t", "k")
    what = Made("opsd", {"teacher": none}, 64, 151_936, "float16", "float32", None)
    assert what.bytes_per_token == 280
    writer, tokens = CacheWriter(tmp_path, what, shard_bytes=500_000), 0
    writer.keep([])
    generator = torch.Generator().manual_seed(0)
    for row in range(20):
        ids = torch.stack([torch.randperm(151_936, generator=generator)[:64] for _ in range(200)])
        listed = -torch.rand(200, 64, generator=generator).sort(-1).values
        one = Listed.of(listed, ids, torch.full((200,), -3.0), torch.full((200,), -1.0), 151_936)
        writer.add(row.to_bytes(16, "big"), one)
        tokens += 200
    writer.finish()
    size = sum(one.stat().st_size for one in tmp_path.glob("shard-*"))
    assert len(list(tmp_path.glob("shard-*"))) == 3
    assert size / tokens * 1_000_000 < 300e6
    assert size / tokens * 1_000_000 == pytest.approx(280e6, rel=0.01)


def test_a_row_is_found_by_its_role_context_response_and_what_was_written() -> None:
    piece = Piece([1, 2], [3, 4], [True, False])
    different = [
        Piece([1], [2, 3, 4], [True, True, False]), Piece([1, 2], [3, 5], [True, False]),
        Piece([1, 2], [3, 4], [True, True]), Piece([2, 1], [3, 4], [True, False]),
    ]  # fmt: skip
    keys = {piece.key("teacher"), piece.key("reference"), *(one.key("teacher") for one in different)}
    assert len(keys) == 6
    assert piece.key("teacher") == Piece((1, 2), (3, 4), (True, False)).key("teacher")


# --- training ---------------------------------------------------------------------------------------------------------

CASES: dict[str, tuple[str, tuple[str, ...], dict[str, Any], float]] = {
    "top-k": ("opsd", TOP, {"top_logprobs": 8, "dtype": "float32"}, 2e-5),
    "top-k, half": ("opsd", TOP, {"top_logprobs": 8}, 2e-3),
    "whole": ("opsd", FULL, {"top_logprobs": None, "dtype": "float32"}, 2e-5),
    "at another temperature": (
        "opsd", ("--clip-entry", "none"), {"top_logprobs": None, "dtype": "float32"}, 2e-5,
    ),
    "lora": ("opsd", (*TOP, "--lora-rank", "2"), {"top_logprobs": 8, "dtype": "float32"}, 2e-5),
    "another model": ("lightning-opd", OTHER, {"top_logprobs": 1, "dtype": "float32"}, 2e-5),
    "entropy-aware on its whole": ("eopd", (), {"top_logprobs": None, "dtype": "float32"}, 2e-5),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_training_with_a_cache_is_training_with_the_teacher(
    case: str, tiny: str, other: str, tmp_path: Path
) -> None:
    recipe, more, how, bound = CASES[case]
    teacher = ("--teacher", other) if recipe in ("lightning-opd", "eopd") else ()
    given = words(recipe, tiny, *more, *teacher)
    found = made(tmp_path / "cache", given, **how)
    local = trained(given, found.stored)
    cached = trained([*given, "--teacher-cache", str(tmp_path / "cache")])
    start = weights(TextRun(configured(given)[0]))
    moved = (weights(local) - start).norm()
    assert moved > 1e-2
    assert (weights(cached) - weights(local)).norm() < bound * moved
    assert cached.progress.rows[-1]["loss"] == pytest.approx(
        local.progress.rows[-1]["loss"], rel=bound, abs=bound
    )
    assert (
        cached.spent
        == 0
        < local.learner.writing.stores["train" if recipe != "lightning-opd" else "distill"].version + 1
    )
    for policy in cached.learner.models.weights.external.values():  # no weights were loaded
        assert {one.device.type for one in policy.model.parameters()} == {"meta"}
    assert not cached.learner.models.weights.copies


def test_the_metrics_tell_what_is_known_and_no_more(tiny: str, tmp_path: Path) -> None:
    given = words("opsd", tiny, *TOP)
    found = made(tmp_path / "cache", given, top_logprobs=8, dtype="float32")
    local = trained(given, found.stored).progress.rows[0]
    row = trained([*given, "--teacher-cache", str(tmp_path / "cache")]).progress.rows[0]
    assert "entropy/teacher" in local
    assert "entropy/teacher" not in row
    for name in ("mass/teacher", "overlap/teacher", "entropy/student"):
        assert row[name] == pytest.approx(local[name], rel=1e-4)
    assert 0 < row["divergence/teacher"] < local["divergence/teacher"]


def test_a_run_with_a_cache_goes_on_as_if_it_had_not_been_interrupted(tiny: str, tmp_path: Path) -> None:
    given = words("opsd", tiny, *TOP, "--checkpoint-every", "2")
    made(tmp_path / "cache", given, top_logprobs=8)
    given += ["--teacher-cache", str(tmp_path / "cache")]
    for name, steps in (("whole", "4"), ("part", "2")):
        assert main(["train", *given, "--steps", steps, "--out", str(tmp_path / name)]) == 0
    resumed = ["train", "--resume", "--steps", "4", "--out", str(tmp_path / "part")]
    assert main(resumed) == 0
    one, other = (
        (tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "part")
    )
    assert one == other


def test_a_cache_that_has_changed_does_not_go_on(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words("opsd", tiny, *TOP)
    made(tmp_path / "cache", given, top_logprobs=8)
    out = ["--teacher-cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run")]
    assert main(["train", *given, *out]) == 0
    shutil.rmtree(tmp_path / "cache")
    made(tmp_path / "cache", given, top_logprobs=9)
    capsys.readouterr()
    assert main(["train", "--resume", "--steps", "4", "--out", str(tmp_path / "run")]) == 2
    assert "inputs.teacher_cache" in capsys.readouterr().err


def test_looks_and_reports_have_no_entropy_that_nobody_knows(tiny: str, tmp_path: Path) -> None:
    given = words("opsd", tiny, *TOP)
    made(tmp_path / "cache", given, top_logprobs=8)
    more = ["--samples-every", "1", "--eval-problems", "2", "--eval-samples", "1"]
    run = tmp_path / "run"
    assert main(["train", *given, "--teacher-cache", str(tmp_path / "cache"), *more, "--out", str(run)]) == 0
    assert (run / "report.html").is_file()
    assert list((run / "tokens").glob("step-*.safetensors"))


def test_answers_of_a_run_are_scored_in_the_place_of_new_ones(tiny: str, tmp_path: Path) -> None:
    given = words("opsd", tiny, *TOP, "--checkpoint-every", "1")
    assert main(["train", *given, "--out", str(tmp_path / "run")]) == 0
    (stored,) = (tmp_path / "run" / "stored").glob("train-0-*.jsonl")
    for n, source in enumerate((tmp_path / "run", stored)):
        found = made(tmp_path / str(n), given, rollouts=source, top_logprobs=8)
        assert [one.ids for one in found.stored] == [one.ids for one in cache.rollouts_in(stored)]
    with pytest.raises(UserError, match="no stored answers"):
        made(tmp_path / "none", given, rollouts=tmp_path)


# --- refusals ---------------------------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *given: str) -> str:
    capsys.readouterr()
    assert main(list(given)) == 2
    checks, _, said = capsys.readouterr().err.strip().rpartition("selfteach: ")
    assert len(said.splitlines()) == 1
    assert "selfteach: " not in checks
    return said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a model, a cache of it)."""
    folder = tmp_path_factory.mktemp("whole")
    model = tiny_model_folder(folder / "model")
    made(folder / "cache", words("opsd", str(model), *TOP), top_logprobs=8)
    return Path(model), folder / "cache"


def spoil(folder: Path, how: str) -> None:
    shard, manifest = folder / "shard-00000.safetensors", folder / "manifest.json"
    content, told = shard.read_bytes(), json.loads(manifest.read_text())
    if how == "truncated":
        shard.write_bytes(content[:-1])
    elif how == "edited":
        shard.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif how == "grown":
        shard.write_bytes(content + b"0")
    elif how == "lost":
        shard.unlink()
    elif how == "rollouts":
        (folder / "rollouts.jsonl").write_text("")
    elif how == "no manifest":
        manifest.unlink()
    elif how == "no json":
        manifest.write_text("{")
    elif how == "format":
        manifest.write_text(json.dumps({**told, "format": 99}))
    elif how == "outside":
        told["shards"][0]["name"] = "../shard-00000.safetensors"
        manifest.write_text(json.dumps(told))
    else:
        manifest.write_text(json.dumps({**told, "complete": False}))


SPOILED = {
    "truncated": "has", "edited": "is not as it was written", "grown": "has grown", "lost": "is missing",
    "rollouts": "rollouts.jsonl has", "no manifest": "no teacher cache", "no json": "is not valid JSON",
    "format": "has format 99", "outside": "outside of its folder", "half": "is not whole",
}  # fmt: skip


@pytest.mark.parametrize("how", SPOILED)
def test_a_cache_that_is_not_as_it_was_written_is_refused(
    how: str, whole: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, folder = whole
    shutil.copytree(folder, tmp_path / "cache")
    spoil(tmp_path / "cache", how)
    given = words("opsd", str(model), *TOP, "--teacher-cache", str(tmp_path / "cache"))
    assert SPOILED[how] in refused(capsys, "train", *given, "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_cache_of_other_weights_words_or_tokens_is_refused(
    whole: tuple[Path, Path], other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, folder = whole
    out = ("--teacher-cache", str(folder), "--out", str(tmp_path / "run"))
    said = refused(capsys, "train", *words("opsd", other, *TOP), *out)
    assert "another weights of role 'teacher'" in said
    said = refused(capsys, "train", *words("opsd", str(model), *TOP, "--chat-template", "plain"), *out)
    assert "another chat template of role 'teacher'" in said
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    told = json.loads((copy / "tokenizer.json").read_text())
    told["normalizer"] = {"type": "Lowercase"}
    (copy / "tokenizer.json").write_text(json.dumps(told))
    assert "of role 'teacher'" in refused(capsys, "train", *words("opsd", str(copy), *TOP), *out)


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "more tokens": (
        ("--teacher-top-k", "9"),
        "the top 9 of 'teacher' is read, which hands over its 8 likeliest",
    ),
    "all tokens": (("--teacher-top-k", "none"), "the whole distribution of 'teacher' is read"),
    "temperature": (("--loss-temperature", "1.3"), "set --loss-temperature to 1"),
    "other rows": (("--view", "answer"), "has no scores by 'teacher' of"),
    "moving": (("--weights", "ema"), "the weights of role 'teacher' follow the training (EMA)"),
    "analysis": (("--reason-first",), "writes an analysis before it scores"),
    "fresh answers": (("--stored", "0"), "set --stored 6"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_cache_cannot_train_is_refused_in_one_line(
    case: str, whole: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, folder = whole
    more, said = REFUSED[case]
    given = words("opsd", str(model), *TOP, *more, "--teacher-cache", str(folder))
    assert said in refused(capsys, "train", *given, "--out", str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("recipe", "more", "said"),
    [
        ("opsd", (*TOP, "--weights", "live"), "follow the training (Live)"),
        ("opsd", (*FULL, "--top-logprobs", "8"), "cannot train with 8 log-probs a token"),
        ("opsd", (*TOP, "--stored", "0"), "set --stored, or give --rollouts"),
        ("grpo", ("--per-prompt", "2"), "it has no teacher that scores"),
        ("lightning-opd", ("--teacher", "arena:table"), "trains in 2 stages"),
        ("opsd", (*TOP, "--cache-dtype", "int8"), "--cache-dtype"),
    ],
)
def test_what_cannot_be_scored_beforehand_is_refused_in_one_line(
    recipe: str,
    more: tuple[str, ...],
    said: str,
    tiny: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "cache"
    assert said in refused(capsys, "score", *words(recipe, tiny, *more), "--out", str(out))
    assert not out.exists()


# --- interruptions ----------------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_line_and_scoring_goes_on_from_there(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, how = words("opsd", tiny, *TOP), {"top_logprobs": 8, "dtype": "float32"}
    monkeypatch.setattr(cache, "SHARD_BYTES", 1)
    monkeypatch.setattr(scoring, "GROUPS", 2)
    monkeypatch.setattr(CacheWriter.__init__, "__defaults__", (1,))
    whole = made(tmp_path / "whole", given, **how)
    assert len(whole.shards) == 6

    written, save = list[Path](), cache.save_file

    def full(tensors: Any, path: Path) -> None:
        if len(written) == 3:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        save(tensors, path)

    monkeypatch.setattr(cache, "save_file", full)
    with pytest.raises(
        UserError, match=r"could not be written \(No space left on device\): what is whole stays"
    ):
        made(tmp_path / "cache", given, **how)
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 3
    assert not list((tmp_path / "cache").glob(".*"))
    with pytest.raises(UserError, match="is not whole"):
        TeacherCache(tmp_path / "cache")
    with pytest.raises(UserError, match="begun with top_logprobs 8"):
        made(tmp_path / "cache", given, top_logprobs=9)

    again = list[int]()
    monkeypatch.setattr(cache, "save_file", lambda tensors, path: (again.append(1), save(tensors, path)))
    found = made(tmp_path / "cache", given, **how)
    assert len(again) == 3
    assert found.shard_of.keys() == whole.shard_of.keys()
    for key, shard in whole.shard_of.items():
        assert found.shard_of[key].read(key).states.equal(shard.read(key).states)
    with pytest.raises(UserError, match="holds a whole teacher cache"):
        made(tmp_path / "cache", given, **how)
