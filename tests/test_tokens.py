"""The token columns say what the step's loss and everybody's distributions were, and looking changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from runs import TextRun, scoring
from selfteach.api.progress import Silent
from selfteach.cli.train import configured
from selfteach.policy.loading import Policy
from selfteach.policy.renderer import ChatRenderer
from selfteach.task.arena import open_world
from selfteach.task.outcome import outcome
from selfteach.task.segment import Segment
from selfteach.training.jsonrows import read_rows
from selfteach.training.launch import launch
from selfteach.training.text.tokens import TOP, Look, look, pieces, term_columns, token_texts
from tiny import tiny_model_folder

WORDS = ["--task", "table", "--device", "cpu", "--steps", "2", "--max-tokens", "8", "--eval-problems", "3"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model_folder(tmp_path_factory.mktemp("model")))


def words_of(model: str, recipe: str, *more: str) -> list[str]:
    few = ["--prompts", "4"] if recipe != "grpo" else ["--prompts", "2", "--per-prompt", "4"]
    return [recipe, "--model", model, *WORDS, *few, *more]


def run_of(model: str, *more: str, recipe: str = "opsd") -> TextRun:
    return TextRun(configured(words_of(model, recipe, *more))[0])


def looked(run: TextRun) -> Look:
    """A look at the run's next batch, once it was trained on."""
    run.step()
    return look(run.learner, run.batch)


def trained(model: str, out: Path, *more: str) -> Path:
    config, _ = configured(words_of(model, "opsd", "--out", str(out), *more))
    launch(config, Silent, Silent, check=False)
    return out


def by_rollout(column: torch.Tensor, columns: dict[str, Any]) -> list[torch.Tensor]:
    return list(column.split(columns["lengths"]))


def log_probs(run: TextRun, prompt: list[int], ids: list[int], policy: Policy | None = None) -> torch.Tensor:
    """[T, V] of a policy (none: the run's student) at an answer's tokens, by a plain forward pass."""
    with torch.no_grad():
        logits = (
            (policy or run.learner.policy).model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        )
    return torch.log_softmax(
        logits[:, : run.learner.policy.vocabulary] / run.learner.recipe.temperature, dim=-1
    )


# --- what both sides thought ------------------------------------------------------------------------------------


def test_the_columns_are_those_of_a_plain_forward_pass(model: str) -> None:
    run = run_of(model, "--temperature", "0.7")
    seen = looked(run)
    assert len(seen.rows) == 7
    for i, one in enumerate(seen.rows):
        own = log_probs(run, one.prompt_ids, one.ids)
        prompt = seen.contexts["teacher"].prompts[i]
        assert prompt is not None
        with scoring(run) as teacher:
            theirs = log_probs(run, prompt, one.ids, teacher)
        expected = {
            "log_prob/student": own.gather(1, torch.tensor(one.ids).unsqueeze(1)).squeeze(1),
            "log_prob/teacher": theirs.gather(1, torch.tensor(one.ids).unsqueeze(1)).squeeze(1),
            "entropy/student": -(own.exp() * own).sum(1),
            "divergence/teacher": (theirs.exp() * (theirs - own)).sum(1),
            "top_probs/student": own.exp().topk(TOP).values,
            "top_probs/teacher": theirs.exp().topk(TOP).values,
        }
        for name, column in expected.items():
            found = by_rollout(seen.columns[name], seen.columns)[i]
            torch.testing.assert_close(found, column, atol=2e-5, rtol=1e-4, msg=name)


def test_the_listed_tokens_are_the_likeliest_ones(model: str) -> None:
    run = run_of(model)
    seen = look(run.learner, None)
    one = seen.rows[0]
    found = by_rollout(seen.columns["top_ids/student"], seen.columns)[0]
    assert found.tolist() == log_probs(run, one.prompt_ids, one.ids).topk(TOP).indices.tolist()
    assert set(found.flatten().tolist()) <= {number for number, _ in seen.columns["vocabulary"]}


def test_a_teacher_that_saw_nothing_has_no_opinion(model: str) -> None:
    run = run_of(model)
    run.step()
    seen = run.batch.contexts["teacher"]
    blind = replace(seen, prompts=[None, *seen.prompts[1:]])
    columns = look(run.learner, replace(run.batch, contexts={"teacher": blind})).columns
    first, second, *_ = by_rollout(columns["divergence/teacher"], columns)
    assert first.isnan().all()
    assert not second.isnan().any()
    assert not columns["entropy/student"].isnan().any()


def test_tokens_that_the_policy_did_not_write_have_no_columns(model: str) -> None:
    run = run_of(model)
    run.step()
    first = run.batch.rows[0]
    theirs = [True] * 3 + [False] * (len(first.ids) - 3)
    segments = (first.segments[0].kept(3), Segment(first.ids[3:], "tool", trains=False))
    rows = [replace(first, segments=segments), *run.batch.rows[1:]]
    columns = look(run.learner, replace(run.batch, rows=rows)).columns
    assert by_rollout(columns["log_prob/student"], columns)[0].isnan().tolist() == [not own for own in theirs]


# --- what the loss made of the tokens ---------------------------------------------------------------------------


@pytest.mark.parametrize("mean_over", ["sequences", "tokens"])
def test_weights_times_losses_over_the_written_tokens_are_the_loss(model: str, mean_over: str) -> None:
    run = run_of(model, "--mean-over", mean_over, "--token-rollouts", "4", "--probes", "0")
    row = run.stepped()
    columns = look(run.learner, run.batch).columns
    summed = (columns["weight/distill"] * columns["loss/distill"]).sum() / sum(columns["lengths"])
    assert float(summed) == pytest.approx(row["loss"], rel=1e-5)
    if mean_over == "tokens":
        torch.testing.assert_close(columns["weight/distill"], torch.ones(sum(columns["lengths"])))


def test_micro_batches_do_not_change_the_columns(model: str) -> None:
    found = []
    for words in ((), ("--micro-batch", "3")):
        run = run_of(model, *words)
        found.append(looked(run).columns)
    one, other = found
    assert one.keys() == other.keys()
    for name in one:
        if isinstance(one[name], torch.Tensor) and not name.startswith("top_ids"):
            torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=1e-3, equal_nan=True)


def test_advantages_stand_at_their_rollouts_tokens(model: str) -> None:
    run = run_of(model, recipe="grpo")
    run.step()
    (policy,) = [one.term for one in run.batch.weighted if one.term.name == "policy"]
    advantage = torch.tensor([3.0, -1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0])
    weighted = [replace(run.batch.weighted[0], term=replace(policy, advantage=advantage))]
    columns = look(run.learner, replace(run.batch, weighted=weighted)).columns
    parts = by_rollout(columns["advantage/policy"], columns)
    assert [part.unique().tolist() for part in parts[:4]] == [[3.0], [-1.0], [0.5], [0.0]]
    assert all(part.isnan().all() for part in parts[4:])


# --- the probes -------------------------------------------------------------------------------------------------


def test_the_probes_are_the_same_problems_at_every_look(model: str, tmp_path: Path) -> None:
    rows = read_rows(trained(model, tmp_path / "run", "--samples-every", "1") / "samples.jsonl")
    probes = [row for row in rows if row["phase"] == "probe"]
    keys = [[row["key"] for row in probes if row["step"] == step] for step in range(3)]
    assert keys[0] == keys[1] == keys[2]
    assert len(set(keys[0])) == 3


def test_rows_and_columns_of_a_look_belong_together(model: str, tmp_path: Path) -> None:
    folder = trained(model, tmp_path / "run", "--probes", "2", "--token-rollouts", "3")
    rows = [row for row in read_rows(folder / "samples.jsonl") if row["step"] == 1]
    assert [(row["phase"], row["row"]) for row in rows] == [
        ("train", 0), ("train", 1), ("train", 2), ("probe", 3), ("probe", 4),
    ]  # fmt: skip
    texts = json.loads((folder / "tokens" / "step-1.json").read_text())
    tensors = load_file(folder / "tokens" / "step-1.safetensors")
    assert texts["lengths"] == [row["length"] for row in rows]
    assert {len(column) for column in tensors.values()} == {sum(texts["lengths"])}
    for row, parts in zip(rows, texts["pieces"], strict=True):
        words = [
            part for part in parts if not part.startswith("<|")
        ]  # special tokens are no part of an answer
        assert "".join(words) == row["answer"]


def test_a_row_says_what_became_of_the_answer_and_what_it_was_compared_with(
    model: str, tmp_path: Path
) -> None:
    rows = read_rows(trained(model, tmp_path / "run") / "samples.jsonl")
    assert {row["phase"] for row in rows} == {"before", "train", "probe", "after"}
    world = open_world("table")
    for row in rows:
        example = world.example(row["problem"])
        grade = world.grade(example, row["answer"])
        assert row["outcome"] == outcome(grade, row["finished"])
        assert (row["reward"], row["claim"], row["feedback"]) == (grade.reward, grade.claim, grade.feedback)
        assert row["reference"] == example.private["answer"]
    assert {row["outcome"] for row in rows if not row["finished"]} == {"cut off"}


def test_looking_changes_nothing(model: str, tmp_path: Path) -> None:
    losses = {}
    for every in ("0", "1"):
        # A teacher that reasons first samples, at the looks too.
        reason = ("--reason-first", "--reason-tokens", "4")
        folder = trained(model, tmp_path / every, "--samples-every", every, *reason)
        losses[every] = [row.get("loss") for row in read_rows(folder / "metrics.jsonl")]
    assert losses["0"] == losses["1"]
    assert (tmp_path / "1" / "tokens").exists()
    assert not (tmp_path / "0" / "tokens").exists()


def test_a_run_without_held_out_problems_has_no_probes(model: str) -> None:
    run = run_of(model, "--eval-problems", "0")
    assert look(run.learner, None).rows == []
    assert len(looked(run).rows) == 4


def test_a_recipe_without_teachers_is_looked_at_too(model: str) -> None:
    run = run_of(model, recipe="sft")
    columns = looked(run).columns
    assert any(name.startswith("loss/") for name in columns)
    assert not any(name.endswith("/teacher") for name in columns)


# --- texts ------------------------------------------------------------------------------------------------------


def byte_chat() -> ChatRenderer:
    """A tokenizer of one token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(["<eos>", *alphabet])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return ChatRenderer(
        PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>"), template="plain"
    )


def ids_of(chat: ChatRenderer, text: str) -> list[int]:
    return list(chat.tokenizer.encode(text, add_special_tokens=False))


@pytest.mark.parametrize("text", ["plain", "naïve 模型 👩\u200d🔬!", " two  spaces\n"])
def test_the_pieces_make_up_the_text(text: str) -> None:
    chat = byte_chat()
    parts = pieces(chat, ids_of(chat, text))
    assert "".join(parts) == text
    assert len(parts) == len(text.encode())


def test_a_character_of_several_tokens_stands_with_its_last() -> None:
    chat = byte_chat()
    assert pieces(chat, ids_of(chat, "a模b")) == ["a", "", "", "模", "b"]


def test_bytes_that_are_no_text_are_shown_as_such_and_what_follows_is_not_lost() -> None:
    chat = byte_chat()
    half = ids_of(chat, "模")[:2]
    shown = pieces(chat, [*half * 4, *ids_of(chat, "ok"), *half])
    assert "".join(shown).rstrip("\ufffd").endswith("ok")
    assert shown[-1].startswith("\ufffd")
    assert len(shown) == 12


def test_a_token_that_is_no_whole_character_goes_by_its_name() -> None:
    chat = byte_chat()
    first, space = ids_of(chat, "模")[0], ids_of(chat, " ")[0]
    assert token_texts(chat, [space, first]) == [" ", "æ"]


@pytest.mark.parametrize("words", ["exopd --estimator sampled", "vopd"])
def test_advantages_that_are_taken_at_the_position_are_shown(words: str, tiny: str) -> None:
    recipe, *more = words.split()
    run = run_of(tiny, "--teacher", tiny, *more, recipe=recipe)
    run.stepped()
    count = len(run.batch.rows)
    columns = term_columns(run.batch, count, 3)
    advantage, loss = columns["advantage/distill"], columns["loss/distill"]
    assert len(advantage) == sum(len(one.ids) for one in run.batch.rows) + 3
    assert advantage[-3:].isnan().all() and advantage[:-3].isfinite().all()  # noqa: PT018
    written = torch.cat([torch.tensor(one.segments[0].behavior) for one in run.batch.rows])
    torch.testing.assert_close(loss[:-3], -advantage[:-3] * written, rtol=1e-3, atol=1e-5)
