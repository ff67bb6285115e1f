"""Hidden states of given responses, and the head that turns them into logits."""

from __future__ import annotations

from dataclasses import replace

import peft
import pytest
import torch
import transformers

from selfteach.errors import UserError
from selfteach.policy.head import check_head, exact_logits, output_head
from selfteach.policy.loading import Policy
from selfteach.policy.passes import Padded, row_of
from selfteach.policy.renderer import ChatRenderer
from selfteach.policy.room import room_of
from selfteach.policy.scorer import LocalScorer, ResponseScorer
from tiny import tiny_model, tiny_tokenizer

VOCABULARY = 60
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9], [10]]
RESPONSES = [[11, 12, 13, 14], [15], [16, 17]]
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 1, "head_dim": 16}
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 2, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
MINICPM3 = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}

ARCHITECTURES = {
    "Llama": WIDE,
    "Qwen2": WIDE,
    "Qwen3": WIDE,
    "Gemma2": {**WIDE, "final_logit_softcapping": 0.5},
    "Cohere": {**WIDE, "logit_scale": 0.25},
    "Granite": {**WIDE, "logits_scaling": 8.0},
    "HyperCLOVAX": {**WIDE, "logits_scaling": 8.0},
    "MiniCPM3": {**WIDE, **MINICPM3, "num_key_value_heads": 2, "hidden_size": 32, "dim_model_base": 8},
    "FalconH1": {**WIDE, **MAMBA, "lm_head_multiplier": 0.3},
    "RecurrentGemma": {**WIDE, "lru_width": 32, "logits_soft_cap": 0.5},
    "NanoChat": {**WIDE, "final_logit_softcapping": 0.5},
    "GPT2": {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "Phi": {**SMALL, "intermediate_size": 48},
}


def random_model(name: str) -> transformers.PreTrainedModel:
    """A tiny model of that architecture whose logits are of order one, so that a soft cap shows."""
    config = getattr(transformers, f"{name}Config")(
        **ARCHITECTURES[name], pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.get_output_embeddings().parameters():
            parameter.normal_(std=0.3)
    return model


def llama(dtype: torch.dtype = torch.float64) -> transformers.LlamaForCausalLM:
    return tiny_model(VOCABULARY).to(dtype)


def laid(prompts: list[list[int]], responses: list[list[int]], pad_id: int = 0) -> Padded:
    return Padded.of([row_of(*one) for one in zip(prompts, responses, strict=True)], pad_id)


def scored(
    model: torch.nn.Module, prompts: list[list[int]], responses: list[list[int]], pad_id: int = 0
) -> list[torch.Tensor]:
    """[T, d] of each row, in one padded pass."""
    states = ResponseScorer(model)(laid(prompts, responses, pad_id))
    return list(states.split([len(response) for response in responses]))


@torch.no_grad()
def test_hidden_states_give_the_models_own_logits_at_the_response_tokens():
    model = llama()
    for prompt, response, states in zip(PROMPTS, RESPONSES, scored(model, PROMPTS, RESPONSES), strict=True):
        logits = output_head(model).logits(states)
        own = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        torch.testing.assert_close(logits, own, rtol=0, atol=1e-12)


@torch.no_grad()
def test_scores_depend_neither_on_padding_nor_on_row_order():
    model = llama()
    one = scored(model, PROMPTS, RESPONSES)
    other = scored(
        model,
        [PROMPTS[2], PROMPTS[0], [1] * 30, PROMPTS[1]],
        [RESPONSES[2], RESPONSES[0], [5] * 9, RESPONSES[1]],
        pad_id=3,
    )
    for left, right in zip(one, (other[1], other[3], other[0]), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_same_response_under_a_longer_prompt_keeps_its_columns():
    """With a one-layer model that ignores all but the last token, equal tokens must get equal states."""
    model = llama()
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
    (short,), (long,) = (scored(model, [prompt], [[7, 8, 9]]) for prompt in ([1, 2], [5, 5, 5, 5, 2]))
    torch.testing.assert_close(short, long, rtol=0, atol=1e-12)


def test_a_padded_layout_points_each_response_token_at_the_place_before_it():
    """What the last token would say is wanted by nobody: it is not read."""
    rows = laid(PROMPTS, RESPONSES)
    width = rows.input_ids.shape[1]
    assert rows.input_ids.tolist() == [[1, 2, 3, 11, 12, 13], [4, 5, 6, 7, 8, 9], [10, 16, 0, 0, 0, 0]]
    assert [divmod(place, width) for place in rows.index.tolist()] == [
        *[(0, 2), (0, 3), (0, 4), (0, 5)], (1, 5), *[(2, 0), (2, 1)],
    ]  # fmt: skip
    assert rows.attention_mask.sum(1).tolist() == [6, 6, 2]


def test_a_padded_layout_takes_an_empty_response():
    rows = laid([[1, 2], [3]], [[], [4]])
    assert rows.input_ids.tolist() == [[1, 2], [3, 0]]
    assert rows.index.tolist() == [2]


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="prompts"):
        row_of([], [1])


def policy_of(model: transformers.PreTrainedModel) -> Policy:
    tokenizer = tiny_tokenizer()
    return Policy("tiny", model, tokenizer, ChatRenderer(tokenizer), VOCABULARY, room_of(model))


def test_local_states_lie_flat_over_the_written_positions_row_after_row():
    policy = policy_of(llama())
    written = [[True, False, True, True], [True], [False, True]]
    states = LocalScorer().states(policy, PROMPTS, RESPONSES, written)
    rows = scored(policy.model, PROMPTS, RESPONSES)
    expected = torch.cat([row[torch.tensor(own)] for row, own in zip(rows, written, strict=True)])
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-12)
    everything = LocalScorer().states(policy, PROMPTS, RESPONSES)
    torch.testing.assert_close(everything, torch.cat(rows), rtol=0, atol=1e-12)
    assert LocalScorer().states(policy, [], []).shape == (0, 64)


def test_local_states_carry_gradient_through_the_wrapped_module_where_it_is_on():
    policy = policy_of(llama())

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.calls = ResponseScorer(policy.model), 0

        def forward(self, *inputs):
            self.calls += 1
            return self.module(*inputs)

    wrapped = Wrapped()
    LocalScorer(wrapped).states(policy, PROMPTS, RESPONSES).square().sum().backward()
    assert wrapped.calls == 1
    assert policy.model.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0
    with torch.no_grad():
        assert not LocalScorer(wrapped).states(policy, PROMPTS, RESPONSES).requires_grad


def test_gradient_reaches_the_model_and_its_head():
    model = llama()
    output_head(model).logits(torch.cat(scored(model, PROMPTS, RESPONSES))).square().sum().backward()
    assert model.lm_head.weight.grad.abs().sum() > 0
    assert model.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_head_reproduces_the_logits_of(name):
    model = random_model(name)
    check_head(model, output_head(model, VOCABULARY - 7), PROMPTS[1])


@pytest.mark.parametrize(
    "name", ["Gemma2", "Cohere", "Granite", "HyperCLOVAX", "MiniCPM3", "FalconH1", "Phi"]
)
def test_a_head_without_the_architectures_trick_is_refused_by_name(name):
    model = random_model(name)
    with pytest.raises(UserError, match=f"{name}ForCausalLM"):
        check_head(model, replace(output_head(model), scale=1.0, softcap=None, bias=None), PROMPTS[1])


def test_checking_the_head_leaves_the_model_in_training():
    model = llama().train()
    check_head(model, output_head(model), PROMPTS[1])
    assert model.training


def test_a_head_that_is_not_linear_is_refused():
    model = llama()
    model.lm_head = torch.nn.Sequential(model.lm_head)
    with pytest.raises(UserError, match="Sequential"):
        output_head(model)


def adapted(**options) -> peft.PeftModel:
    torch.manual_seed(0)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=12, init_lora_weights=False, **options)
    return peft.get_peft_model(tiny_model(VOCABULARY, tied=False), config).eval()


def test_lora_on_the_head_is_part_of_it_while_adapters_are_on():
    model = adapted(target_modules=["lm_head", "q_proj"])
    head = output_head(model)
    assert head.lora is not None
    assert head.lora.scaling == 3.0
    check_head(model, head, PROMPTS[1])
    with model.disable_adapter():
        assert output_head(model).lora is None
        check_head(model, output_head(model), PROMPTS[1])


def test_lora_on_the_head_gets_its_gradient():
    model = adapted(target_modules=["lm_head"])
    output_head(model).logits(torch.cat(scored(model, PROMPTS, RESPONSES))).square().sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert len(grads) == 2
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads.values())


def test_a_fully_trained_copy_of_the_head_is_the_one_that_is_used():
    model = adapted(target_modules=["q_proj"], modules_to_save=["lm_head"])
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.mul_(2)
    check_head(model, output_head(model), PROMPTS[1])
    with model.disable_adapter():
        check_head(model, output_head(model), PROMPTS[1])


@pytest.mark.parametrize("option", [{"lora_dropout": 0.1}, {"use_dora": True}])
def test_lora_on_the_head_that_a_head_cannot_express_is_refused(option):
    with pytest.raises(UserError, match="LoRA on the output head"):
        output_head(adapted(target_modules=["lm_head"], **option))


@torch.no_grad()
def test_scoring_uses_the_adapter_only_while_it_is_on():
    model = adapted(target_modules="all-linear")
    with_adapter = torch.cat(scored(model, PROMPTS, RESPONSES))
    with model.disable_adapter():
        without = torch.cat(scored(model, PROMPTS, RESPONSES))
    base = torch.cat(scored(tiny_model(VOCABULARY, tied=False), PROMPTS, RESPONSES))
    assert torch.equal(without, base)
    assert (with_adapter - base).abs().max() > 1e-3


@torch.no_grad()
def test_exact_logits_are_the_models_own_in_float32_and_leave_the_head_as_it_was():
    model = random_model("Gemma2")
    ids = torch.tensor([[3, 4, 5]])
    expected, forward = model(ids).logits, model.lm_head.forward
    with exact_logits(model):
        torch.testing.assert_close(model(ids).logits, expected)
        with torch.autocast("cpu", torch.bfloat16):
            assert model(ids).logits.dtype == torch.float32
    assert model.lm_head.forward == forward
