"""Which matrices an adapter takes, in models that keep them in other places than linear layers."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch

from families import FAMILIES, family_folder, family_model
from selfteach.errors import UserError
from selfteach.policy.adapter import fingerprint
from selfteach.policy.checkpoint_weights import checkpoint_weights
from selfteach.policy.coverage import coverage
from selfteach.policy.loading import Policy, bare, load_policy, policy_of
from selfteach.policy.lora import LoraConfig, kind, with_lora
from selfteach.recipes.parts import Adapter
from selfteach.task.arena import model_folder
from tiny import tiny_tokenizer

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])


def adapted(name: str, *targets: str) -> Policy:
    return policy_of(
        family_model(name),
        tiny_tokenizer(),
        name=name,
        lora=LoraConfig(rank=2, targets=targets or "all-linear"),
    )


def on(policy: Policy) -> set[str]:
    return {one.name for one in coverage(policy).kinds if one.adapted}


def off(policy: Policy) -> set[str]:
    return {one.name for one, _ in coverage(policy).left_out()}


ATTENTION = {f"self_attn.{name}_proj" for name in "qkvo"}
MLP = {f"mlp.{name}_proj" for name in ("gate", "up", "down")}
EXPERTS = {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}


@pytest.mark.parametrize(
    ("name", "takes", "leaves"),
    [
        ("llama", ATTENTION | MLP, set()),
        ("gpt_oss", ATTENTION | EXPERTS, {"mlp.router"}),
        ("mixtral", ATTENTION | EXPERTS, {"mlp.gate"}),
        (
            "qwen2_moe",
            ATTENTION | MLP | EXPERTS | {f"mlp.shared_expert.{one}_proj" for one in ("gate", "up", "down")},
            {"mlp.gate"},
        ),
        (
            "mamba",
            {"mixer.in_proj", "mixer.x_proj"},
            {"mixer.out_proj", "mixer.dt_proj", "mixer.conv1d", "mixer.A_log"},
        ),
        (
            "dbrx",
            {"norm_attn_norm.attn.Wqkv", "norm_attn_norm.attn.out_proj", "ffn.router.layer"},
            {f"ffn.experts.mlp.{one}" for one in ("w1", "v1", "w2")},
        ),
    ],
)  # fmt: skip
def test_all_linear_takes_every_linear_map_and_experts_in_stacks(
    name: str, takes: set[str], leaves: set[str]
) -> None:
    policy = adapted(name)
    assert on(policy) == takes
    assert off(policy) == leaves


def test_the_share_that_trains_is_counted() -> None:
    policy = adapted("gpt_oss", "q_proj")
    seen = coverage(policy)
    assert seen.trained == 2 * (64 * 2 + 2 * 64)  # two layers, A [2, 64] and B [64, 2]
    assert seen.total == sum(p.numel() for p in policy.model.parameters())
    assert seen.share == seen.trained / seen.total
    assert next(one for one in seen.kinds if one.adapted).matrices == 2
    largest, share = seen.left_out()[0]
    assert largest.name == "mlp.experts.gate_up_proj"
    assert largest.weights == 2 * 4 * 64 * 2 * 96
    assert share == pytest.approx(largest.weights / sum(one.weights for one in seen.kinds))


def test_full_weights_leave_nothing_out() -> None:
    seen = coverage(policy_of(family_model("gpt_oss"), tiny_tokenizer(), name="gpt_oss"))
    assert seen.trained == seen.total
    assert seen.left_out() == []


@pytest.mark.parametrize(
    ("targets", "takes"),
    [
        (("experts.down_proj",), {"mlp.experts.down_proj"}),
        (("mlp.experts.gate_up_proj", "v_proj"), {"mlp.experts.gate_up_proj", "self_attn.v_proj"}),
        (("all-linear", "router.weight"), ATTENTION | EXPERTS | {"mlp.router"}),
    ],
)
def test_targets_are_names_of_modules_or_of_parameters(targets: tuple[str, ...], takes: set[str]) -> None:
    assert on(adapted("gpt_oss", *targets)) == takes


def test_a_dense_layer_of_a_mixture_is_taken_by_its_own_name() -> None:
    """PEFT reads gate_proj in such a model as the experts' first matrix."""
    assert on(adapted("qwen2_moe", "shared_expert.gate_proj")) == {"mlp.shared_expert.gate_proj"}


def test_a_target_that_names_nothing_is_refused_with_what_there_is() -> None:
    with pytest.raises(
        UserError, match=r"'experts.w9' names nothing.*mlp\.experts\.gate_up_proj.*self_attn\.q"
    ):
        adapted("gpt_oss", "experts.w9")


def test_what_peft_cannot_adapt_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"lora_targets.*out_proj") as refused:
        adapted("mamba", "out_proj")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["gpt_oss", "qwen2_moe"])
def test_adapters_on_experts_change_the_model_and_can_be_switched_off(name: str) -> None:
    policy = adapted(name, "experts.down_proj")
    with torch.no_grad():
        base = policy.model(IDS).logits
        for parameter in policy.trainable().values():
            parameter.normal_(std=0.3)
        assert (policy.model(IDS).logits - base).abs().max() > 1e-2
        with policy.adapters_off():
            assert torch.equal(policy.model(IDS).logits, base)


def test_adapters_on_experts_of_a_bfloat16_base_are_float32(tmp_path: Path) -> None:
    folder = str(family_folder(tmp_path, "gpt_oss"))
    policy = load_policy(folder, precision="bfloat16", lora=LoraConfig(rank=2))
    assert {p.dtype for p in policy.trainable().values()} == {torch.float32}
    assert {p.dtype for p in policy.model.parameters() if not p.requires_grad} == {torch.bfloat16}
    with torch.no_grad(), policy.arithmetic():
        assert policy.model(IDS).logits.isfinite().all()


def test_a_router_that_is_a_linear_layer_with_other_results_is_no_linear_map() -> None:
    assert "mlp.router" in off(adapted("phimoe"))


def test_names_of_numbered_modules_are_not_taken_for_layers() -> None:
    """zamba2's adapters of a shared block are numbered at the end of their names."""
    assert kind("model.layers.1.shared.up_list.0.1") == "shared.up_list.0.1"
    assert kind("model.layers.11.mlp.up_proj") == "mlp.up_proj"
    assert kind("lm_head") == "lm_head"
    assert isinstance(with_lora(family_model("zamba2"), LoraConfig(rank=2)), peft.PeftModel)


def test_no_target_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="lora_targets is empty"):
        Adapter(lora_targets=())


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_model_is_known_by_its_weights_with_and_without_an_adapter(name: str) -> None:
    network = family_model(name)
    before = fingerprint(network)
    policy = policy_of(network, tiny_tokenizer(), name=name, lora=LoraConfig(rank=2))
    assert fingerprint(policy.model) == before
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(1)
    assert fingerprint(policy.model) == before
    with torch.no_grad():
        next(p for n, p in policy.model.named_parameters() if "lora_" not in n).add_(1)
    assert fingerprint(policy.model) != before


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_adapter_on_a_tied_embedding_is_not_merged(tmp_path: Path, target: str) -> None:
    """Added into the head it would change the embedding, which was not trained so, or the other way round."""
    policy = load_policy(str(model_folder("table")), lora=LoraConfig(rank=2, targets=("q_proj", target)))
    assert bare(policy.model).config.tie_word_embeddings
    policy.save(tmp_path / "adapter")
    for act in (
        lambda: load_policy(str(tmp_path / "adapter")),
        lambda: policy.save(tmp_path / "merged", merge=True),
        lambda: checkpoint_weights(policy),
    ):
        with pytest.raises(UserError, match="output head too"):
            act()
    load_policy(str(tmp_path / "adapter"), merge=False)
