"""What preflight finds before step 1: words that a template drops, ids without a row, weights that nothing reaches,
and a sampler that is another policy than the scorer. (tests/test_train.py has the checks of teachers and terms.)"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken

from families import family_folder, family_model
from runs import TextRun, run_of
from selfteach.cli import main
from selfteach.errors import UserError
from selfteach.policy.renderer import ChatRenderer
from selfteach.policy.sampler import LocalSampler, Sample
from selfteach.policy.wording import left_out
from selfteach.roles.role import Role
from selfteach.roles.view import Solution
from selfteach.roles.weights import Frozen
from selfteach.task.example import Message
from selfteach.training.text.contexts import Context
from selfteach.training.text.preflight import Check, examined, preflight
from selfteach.training.text.preflight.probing import first_prompts
from selfteach.training.text.preflight.teachers import unseen_check
from tiny import CHATML, tiny_model, tiny_model_folder, tiny_tokenizer

ONE_TURN = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"
    "{% elif m.role == 'assistant' %}{{ '<|im_start|>assistant\n' + m.content + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""A template that knows no system role and does not say so."""
MERGED = (
    "{% set first = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '<|im_start|>user\n' + (first if loop.last else '') + m.content + '<|im_end|>' }}"
    "{% elif m.role == 'assistant' %}{{ '<|im_start|>assistant\n' + m.content.split('</think>')[-1] + '<|im_end|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""One that says the system message before the last user message, and drops thoughts."""
ESCAPED = "{% for m in messages %}{{ m | tojson }}<|im_end|>{% endfor %}"
TYPED = CHATML.replace("<|im_end|>", "[END]")


def check_of(run: TextRun, name: str) -> Check:
    return next(check for check in examined(run.learner) if check.name == name)


def folder(path: Path, template: str = CHATML) -> str:
    return str(tiny_model_folder(path / "model", template=template))


def task(path: Path) -> str:
    rows = [
        {"problem": f"What is {n} + {n}?", "solution": f"It is {2 * n}.", "answer": str(2 * n)}
        for n in range(80)
    ]
    file = path / "sums.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


# --- messages ---------------------------------------------------------------------------------------------------


def lost(template: str, *messages: tuple[str, str]) -> list[str]:
    """The roles of the messages whose words the template leaves out."""
    renderer = ChatRenderer(tiny_tokenizer(template))
    said: list[Message] = [{"role": role, "content": content} for role, content in messages]
    return [one["role"] for one in left_out(said, renderer.show(renderer.prompt_ids(said)), renderer)]


SYSTEM, USER = ("system", "Answer like a pirate."), ("user", "What is 1 + 1?")
THOUGHTS = ("assistant", "<think>\nLet me see.\n</think>\n\nIt is 2.")


@pytest.mark.parametrize("template", [CHATML, MERGED, ESCAPED])
@pytest.mark.parametrize(
    "said",
    [
        (USER,),
        (SYSTEM, USER),
        (SYSTEM, USER, ("assistant", "2"), ("user", "And\n\n\"1\" + 2, in 'x' <|im_end|>?")),
        (USER, THOUGHTS, USER),
        (("system", " "), ("user", "\n  Spaces and °é ∑ around\n")),
    ],
)
def test_a_template_that_says_everything_somewhere_loses_nothing(
    template: str, said: tuple[tuple[str, str], ...]
) -> None:
    assert lost(template, *said) == []


@pytest.mark.parametrize(
    ("said", "roles"),
    [
        ((SYSTEM, USER), ["system"]),
        ((("system", "What is 1"), USER), ["system"]),
        ((("system", USER[1]), USER), ["user"]),
        ((USER, ("critic", "42"), USER), ["critic"]),
        ((USER, ("tool", "42"), USER), []),  # it is told as the user's
    ],
)
def test_words_that_a_template_leaves_out_are_missed(
    said: tuple[tuple[str, str], ...], roles: list[str]
) -> None:
    """Also where another message says the same: each must be there."""
    assert len(lost(ONE_TURN, *said)) == len(roles)
    if roles != ["user"]:
        assert lost(ONE_TURN, *said) == roles


def test_a_system_prompt_that_the_template_drops_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "doctor",
        "opsd",
        "--task",
        task(tmp_path),
        "--model",
        folder(tmp_path, ONE_TURN),
        "--max-tokens",
        "8",
    ]
    assert main([*words, "--system-prompt", "Answer like a pirate."]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "leaves out the system message ('Answer like a pirate.')" in error
    assert "--chat-template" in error
    assert main(words) == 0


def test_what_a_teacher_is_told_is_looked_for_too(tmp_path: Path) -> None:
    short = ONE_TURN.replace("m.content +", "m.content.split('|')[0] +")
    found = [check for check in examined(run_of(folder(tmp_path, short)).learner) if not check.ok]
    assert found[0].name == "teacher: messages"
    assert "leaves out the user message" in found[0].detail


def test_characters_that_the_tokenizer_does_not_know_are_told(tmp_path: Path) -> None:
    rows = Path(task(tmp_path))
    rows.write_text(rows.read_text(encoding="utf-8").replace("What is", "∑∑"), encoding="utf-8")
    words = ("--task", str(rows))
    found = check_of(run_of(folder(tmp_path), *words), "unknown tokens")
    assert found.ok
    assert found.warns
    assert "8 of" in found.detail
    assert "'<unk>'" in found.detail


# --- the end of a turn ------------------------------------------------------------------------------------------


def test_stop_tokens_are_shown(tmp_path: Path) -> None:
    found = check_of(run_of(folder(tmp_path)), "stop tokens")
    assert (found.ok, found.warns) == (True, False)
    assert found.detail == "'<|im_end|>' (3); the chat template ends a turn with '<|im_end|>'"


def test_a_template_that_ends_a_turn_with_ordinary_text_is_warned_about(tmp_path: Path) -> None:
    run = run_of(folder(tmp_path, TYPED))
    found = check_of(run, "stop tokens")
    assert found.ok
    assert found.warns
    assert "no special token" in found.detail
    preflight(run.learner)
    assert any(line.startswith("warn  stop tokens: ") for line in run.progress.said)


# --- ids --------------------------------------------------------------------------------------------------------


def grown(path: Path, *tokens: str, special: bool, pad: bool = False) -> str:
    """A folder whose tokenizer knows tokens that the model has no row for."""
    tokenizer = tiny_tokenizer()
    tiny_model(len(tokenizer)).save_pretrained(path)
    tokenizer.add_tokens([AddedToken(one, special=special) for one in tokens], special_tokens=special)
    if pad:
        tokenizer.pad_token = tokens[0]
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.mark.parametrize(("special", "pad"), [(False, False), (True, True)])
def test_ids_beyond_the_models_rows_are_refused_by_name(tmp_path: Path, special: bool, pad: bool) -> None:
    run = run_of(grown(tmp_path, "<more>", special=special, pad=pad))
    checks = list(examined(run.learner))
    assert (checks[-1].name, checks[-1].ok) == ("vocabulary", False)
    size = len(tiny_tokenizer())
    assert (
        f"{size + 1} ids, the model's matrices {size} rows (0 to {size - 1}): '<more>' is {size}"
        in checks[-1].detail
    )
    with pytest.raises(UserError, match="resize_token_embeddings"):
        preflight(run.learner)


def test_a_special_token_of_the_template_must_have_a_row_though_no_prompt_shows_it(tmp_path: Path) -> None:
    model = grown(tmp_path, "<|tool|>", special=True)
    (tmp_path / "chat_template.jinja").write_text(
        CHATML + "{% if messages[-1].role == 'tool' %}<|tool|>{% endif %}"
    )
    found = check_of(run_of(model), "vocabulary")
    assert not found.ok
    assert "'<|tool|>' is" in found.detail


def test_special_tokens_beyond_the_rows_that_nothing_uses_are_borne(tmp_path: Path) -> None:
    run = run_of(grown(tmp_path, "<image>", special=True))
    found = check_of(run, "vocabulary")
    assert found.ok
    assert found.warns
    assert "'<image>' without a row" in found.detail
    preflight(run.learner)


# --- what trains ------------------------------------------------------------------------------------------------


def test_full_weights_train_all(tmp_path: Path) -> None:
    found = check_of(run_of(folder(tmp_path), "--lora-rank", "0"), "weights")
    assert not found.warns
    assert "weights train (100.00%)" in found.detail


def test_kinds_of_weights_that_an_adapter_leaves_are_named_with_their_share(tmp_path: Path) -> None:
    model = str(family_folder(tmp_path, "gpt_oss"))
    whole = check_of(run_of(model, "--lora-rank", "4"), "weights")
    assert not whole.warns
    assert "mlp.experts.gate_up_proj (2)" in whole.detail
    part = check_of(run_of(model, "--lora-rank", "4", "--lora-targets", "q_proj", "k_proj"), "weights")
    assert part.ok
    assert part.warns
    assert "adapters on self_attn.k_proj (2), self_attn.q_proj (2)" in part.detail.replace(
        "self_attn.q_proj (2), self_attn.k_proj (2)", "self_attn.k_proj (2), self_attn.q_proj (2)"
    )
    assert "none on mlp.experts.gate_up_proj (2, 5" in part.detail
    assert "--lora-targets" in part.detail


def test_an_adapter_that_no_gradient_reaches_is_named(tmp_path: Path) -> None:
    model = str(family_folder(tmp_path, "mamba"))
    found = check_of(run_of(model, "--lora-rank", "4", "--lora-targets", "dt_proj", "in_proj"), "gradient")
    assert found.ok
    assert found.warns
    assert "no gradient reaches mixer.dt_proj.lora_A, mixer.dt_proj.lora_B" in found.detail
    alone = check_of(run_of(model, "--lora-rank", "4", "--lora-targets", "dt_proj"), "gradient")
    assert not alone.ok
    sound = check_of(run_of(model, "--lora-rank", "4"), "gradient")
    assert (sound.ok, sound.warns) == (True, False)


def test_adapters_that_a_model_does_not_run_with_are_refused(tmp_path: Path) -> None:
    model = str(family_folder(tmp_path, "dbrx"))
    run = run_of(model, "--lora-rank", "4", "--lora-targets", "experts.mlp.w1")
    with pytest.raises(
        UserError, match=r"Dbrx.* does not run on a probe text \(AttributeError.*--lora-targets"
    ):
        preflight(run.learner)


# --- sampler and scorer -----------------------------------------------------------------------------------------


class Off(LocalSampler):
    """Notes what another policy would say of its tokens."""

    by = 0.0
    only_first = False

    def sample(self, *args: Any, **kwargs: Any) -> list[Sample]:
        def wrong(one: Sample) -> Sample:
            shifted = [
                b + (self.by if not self.only_first or i == 0 else 0) for i, b in enumerate(one.behavior)
            ]
            return replace(one, behavior=shifted)

        return [wrong(one) for one in super().sample(*args, **kwargs)]


@contextmanager
def noting(run: TextRun, patch: pytest.MonkeyPatch, **how: Any) -> Iterator[Check]:
    kind = type("Off", (Off,), how)
    patch.setattr("selfteach.training.text.batching.LocalSampler", kind)
    yield check_of(run, "sampler")


@pytest.mark.parametrize(
    ("precision", "by", "ok"),
    [("float32", 0.0, True), ("float32", 0.02, False), ("bfloat16", 0.02, True), ("bfloat16", 0.2, False)],
)
def test_a_sampler_that_notes_other_log_probs_than_are_scored_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, by: float, ok: bool
) -> None:
    run = run_of(folder(tmp_path), "--precision", precision)
    with noting(run, monkeypatch, by=by) as found:
        assert found.ok is ok
        if not ok:
            assert f"differ by up to {by:.1e} nats" in found.detail or precision == "bfloat16"
            assert "LlamaForCausalLM samples from another policy" in found.detail


def test_one_wrong_token_in_many_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with noting(run_of(folder(tmp_path)), monkeypatch, by=0.02, only_first=True) as found:
        assert not found.ok


def test_the_recipes_temperature_is_that_of_both(tmp_path: Path) -> None:
    assert check_of(run_of(folder(tmp_path), "--temperature", "0.5"), "sampler").ok


def test_generation_that_fails_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sample(self: Any, prompts: Sequence[list[int]], *args: Any, **kwargs: Any) -> list[Sample]:
        raise ValueError(f"state of {len(prompts)} rows has the wrong shape\nand more")

    monkeypatch.setattr(LocalSampler, "sample", sample)
    found = check_of(run_of(folder(tmp_path)), "sampler")
    assert not found.ok
    assert found.detail.startswith(
        "sampling fails on 5 prompts (ValueError: state of 5 rows has the wrong shape and more)"
    )


def test_the_body_of_a_model_is_found_where_its_class_names_none() -> None:
    """Llama 4's text model carries the prefix of the larger model that it is a part of."""
    from selfteach.policy.head import check_head, output_head

    model = family_model("llama4_text")
    with torch.no_grad():
        check_head(model, output_head(model), [5, 6, 7, 8])


def test_a_model_that_does_not_run_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(folder(tmp_path))

    def forward(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("shapes cannot be multiplied\nand more")

    monkeypatch.setattr(run.learner.policy.model.model, "forward", forward)
    with pytest.raises(
        UserError,
        match=r"LlamaForCausalLM does not run on a probe text \(RuntimeError: shapes cannot be multiplied and more\)",
    ):
        preflight(run.learner)


@pytest.mark.parametrize("recipe", ["grpo", "srpo", "scope", "opsd"])
def test_a_recipe_that_learns_from_rewards_is_refused_where_nothing_is_graded(
    recipe: str, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        "".join(json.dumps({"problem": f"Say {n}.", "solution": f"It is {n}."}) + "\n" for n in range(80))
    )
    more = ["--teacher", folder(tmp_path)] if recipe == "scope" else []
    words = ["--task", str(file), "--verifier", "none", "--lora-rank", "0", "--max-unavailable", "1", *more]
    checks = [one for one in examined(run_of(folder(tmp_path), *words, recipe=recipe).learner) if not one.ok]
    if recipe == "opsd":
        assert not checks
    else:
        assert [one.name for one in checks] == ["teacher: view" if recipe == "srpo" else "objective"]
        assert "nothing is graded" in checks[0].detail


# --- teachers and their windows ---------------------------------------------------------------------------------


def test_a_teacher_whose_window_answers_may_exceed_is_named(tmp_path: Path) -> None:
    """Its prompts are longer than the student's: a run would stop at step 1, of answers that nobody scored."""
    model = folder(tmp_path)
    short = run_of(model, "--max-tokens", "8").learner
    full = 1024 - max(len(one.prompt_ids) for one in first_prompts(short))
    long = run_of(model, "--max-tokens", str(full)).learner
    assert not any(check.name == "teacher: room" for check in examined(short))
    found = next(check for check in examined(long) if check.name == "teacher: room")
    assert (found.ok, found.warns) == (True, True)
    fits = re.fullmatch(
        r"behind \d+ of \d+ prompts .* --max-tokens (\d+) fits behind these, .*", found.detail
    )
    assert fits
    assert not any(
        check.name == "teacher: room" for check in examined(run_of(model, "--max-tokens", fits[1]).learner)
    )


def test_another_model_that_cannot_be_loaded_is_named_by_its_option(tmp_path: Path) -> None:
    model = folder(tmp_path)
    for words, said in (
        ((), r"--teacher \(the preset's\): model 'Qwen/Qwen3-8B' cannot"),
        (("--teacher", str(tmp_path / "none")), r"--teacher: .*none"),
    ):
        with pytest.raises(UserError, match=said):
            examined_all(run_of(model, "--preset", "paper", *words, recipe="minillm"))


def examined_all(run: TextRun) -> None:
    run.enter(0)
    list(examined(run.learner))


def test_rows_that_are_no_preferences_are_refused_by_dpo(tmp_path: Path) -> None:
    run = run_of(folder(tmp_path), "--task", task(tmp_path), recipe="dpo")
    with pytest.raises(UserError, match=r"give rows of prompt, chosen and rejected, or .* --pairs rollouts"):
        preflight(run.learner)


def test_what_is_too_long_for_the_window_is_not_another_views_fault() -> None:
    role = Role(Frozen(), Solution())
    check = unseen_check("teacher", role, Context([None] * 4, too_long=4), ["solution"])
    assert not check.ok
    assert "4 too long" in check.detail
    assert "lower --max-tokens, or show less" in check.detail
    assert "--view" not in check.detail
    other = unseen_check("teacher", role, Context([None] * 4, no_privilege=4), ["answer"])
    assert "the rows have 'answer': --view answer" in other.detail
    fixed = unseen_check("teacher", role, Context([None] * 4, no_privilege=4), ["answer"], views=False)
    assert "--view" not in fixed.detail
    assert "give rows that have solution" in fixed.detail
