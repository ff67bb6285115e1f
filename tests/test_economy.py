"""Shared contexts, sorted passes and packed rows give the states and gradients of one padded pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from families import FAMILIES, family_model
from runs import run_of
from selfteach.policy.economy import PASS_ON_CPU, PLAIN, Economy, cut, economy_of
from selfteach.policy.loading import Policy, body
from selfteach.policy.passes import row_of
from selfteach.policy.prefix import shares
from selfteach.policy.recomputing import Checkpointing, recompute
from selfteach.policy.renderer import ChatRenderer
from selfteach.policy.room import room_of
from selfteach.policy.scorer import LocalScorer, ResponseScorer
from tiny import tiny_model, tiny_model_folder, tiny_tokenizer

VOCABULARY = 60
SIZE = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48, "max_position_embeddings": 256,
}  # fmt: skip
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", SIZE),
    "qwen3": ("Qwen3", SIZE),
    "gemma2": ("Gemma2", {
        **SIZE, "sliding_window": 8, "layer_types": LAYERS, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8,
    }),
    "gemma3": ("Gemma3Text", {**SIZE, "sliding_window": 8, "layer_types": LAYERS, "query_pre_attn_scalar": 8}),
    "mistral": ("Mistral", {**SIZE, "sliding_window": 5}),
    "mixtral": ("Mixtral", {**SIZE, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "qwen2_moe": ("Qwen2Moe", {
        **SIZE, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "mlp_only_layers": [0],
        "shared_expert_intermediate_size": 32,
    }),
    "llama4": ("Llama4Text", {
        **SIZE, "num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 48, "moe_layers": [1],
        "attention_chunk_size": 8,
    }),
}  # fmt: skip

SHARED = Economy(share=True, pack=False, fixed=0)
SORTED = Economy(share=False, pack=False, fixed=0)
PACKED = Economy(share=False, pack=True, fixed=0)
BOTH = Economy(share=True, pack=True, fixed=0)


def random_model(name: str) -> transformers.PreTrainedModel:
    """Attention that prefers some tokens; float64 but where attention is eager, whose masks are none in float64 (the
    softmax is float32's), and where experts are multiplied in groups."""
    kind, settings = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(
        **settings, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.3)
    single = model.config._attn_implementation == "eager" or "mixtral" in name or "moe" in name
    return model if single else model.double()


def adapted() -> peft.PeftModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = peft.LoraConfig(
            task_type="CAUSAL_LM", r=4, init_lora_weights=False, target_modules="all-linear"
        )
        return peft.get_peft_model(random_model("llama"), config).double().eval()


def recomputed(checkpointing: Checkpointing) -> transformers.PreTrainedModel:
    model = random_model("gemma3")
    recompute(model, checkpointing)
    return model


MAKERS: dict[str, Callable[[], torch.nn.Module]] = {
    **{name: (lambda name=name: random_model(name)) for name in MODELS},
    "lora": adapted,
    "recomputed": lambda: recomputed("full"),
    "recomputed in part": lambda: recomputed("selective"),
}


def policy_of(model: Any) -> Policy:
    tokenizer = tiny_tokenizer()
    return Policy("tiny", model, tokenizer, ChatRenderer(tokenizer), VOCABULARY, room_of(model))


def drawn(count: int, seed: int) -> list[int]:
    return torch.randint(3, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def uneven() -> tuple[list[list[int]], list[list[int]], list[list[bool]]]:
    """Groups of 4, 3, 2 and 1 rows, mixed; contexts of 30, 13, 1 and 9 tokens; responses of 0 to 17, some unwritten."""
    contexts = [drawn(length, length) for length in (30, 13, 1, 9)]
    groups = [0, 1, 0, 2, 1, 0, 3, 2, 1, 0]
    lengths = [5, 12, 1, 7, 3, 0, 6, 2, 1, 17]
    responses = [drawn(length, 100 + i) for i, length in enumerate(lengths)]
    written = [[True] * length for length in lengths]
    written[1] = [t not in (0, 4, 5, 11) for t in range(12)]  # neither the first nor the last
    written[7] = [False, False]
    return [contexts[g] for g in groups], responses, written


Batch = tuple[list[list[int]], list[list[int]], list[list[bool]]]


def scored(policy: Policy, economy: Economy, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(states, gradient of a fixed linear function of them in every parameter, as one vector)."""
    policy.model.zero_grad()
    states = LocalScorer(economy=economy).states(policy, *batch)
    weight = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
    (states * weight.to(states)).sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in policy.trainable().values() if p.grad is not None])
    return states.detach(), gradient


def same(one: torch.Tensor, other: torch.Tensor, bound: float = 2e-6) -> None:
    assert one.shape == other.shape
    assert float((one - other).norm() / other.norm()) < bound


@pytest.fixture(autouse=True)
def _quiet() -> None:
    transformers.utils.logging.set_verbosity_error()


# --- the same states and gradients --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "economy", [SHARED, SORTED, PACKED, BOTH], ids=["shared", "sorted", "packed", "both"]
)
@pytest.mark.parametrize("name", MAKERS)
def test_states_and_gradients_are_those_of_one_padded_pass(name: str, economy: Economy) -> None:
    if name == "llama4" and economy.pack:
        pytest.skip("is never packed (``packs``)")
    policy = policy_of(MAKERS[name]())
    batch = uneven()
    states, gradient = scored(policy, PLAIN, batch)
    found, its_gradient = scored(policy, economy, batch)
    assert len(states) == sum(map(sum, batch[2]))
    same(found, states)
    same(its_gradient, gradient)
    with torch.no_grad():
        torch.testing.assert_close(LocalScorer(economy=economy).states(policy, *batch), found, rtol=0, atol=0)


@pytest.mark.parametrize("economy", [SHARED, PACKED], ids=["shared", "packed"])
@pytest.mark.parametrize("name", ["qwen3", "gemma3"])
def test_in_half_precision_they_differ_by_its_rounding(name: str, economy: Economy) -> None:
    policy = replace(policy_of(random_model(name).float()), precision="mixed")
    states, gradient = scored(policy, PLAIN, uneven())
    found, its_gradient = scored(policy, economy, uneven())
    exact, its_own = scored(replace(policy, precision="float32"), PLAIN, uneven())
    assert (found - exact).norm() < 1.3 * (states - exact).norm()
    assert (its_gradient - its_own).norm() < 1.3 * (gradient - its_own).norm()
    assert (states - exact).norm() > 1e-4 * exact.norm()


@pytest.mark.parametrize("place", [27, 28, 29, 30, 39])
def test_a_response_sees_as_far_back_as_the_window_reaches(place: int) -> None:
    """Through three layers of windows of 5, the token at 41 sees those from 29 on: 3 · (5 - 1) back."""
    policy = policy_of(random_model("mistral"))
    context, response = drawn(40, 1), drawn(3, 2)
    other = [*context[:place], context[place] % 50 + 3, *context[place + 1 :]]
    states = [
        LocalScorer(economy=SHARED).states(policy, [one] * 2, [response] * 2)[-1] for one in (context, other)
    ]
    assert bool((states[0] - states[1]).abs().max() > 1e-9) == (place >= 29)


@pytest.mark.parametrize(
    "economy", [PLAIN, SHARED, SORTED, PACKED, BOTH], ids=["plain", "shared", "sorted", "packed", "both"]
)
def test_every_layout_reads_the_token_before_each_written_one(economy: Economy) -> None:
    contexts, responses, written = uneven()
    rows = [row_of(*one) for one in zip(contexts, responses, written, strict=True)]
    rows_with_one = [i for i, row in enumerate(rows) if row.steps]
    seen = []
    for held, laid in economy.laid([rows[i] for i in rows_with_one], pad_id=0):
        own = [rows_with_one[i] for i in held]
        texts = [contexts[i] + responses[i] for i in own]
        expected = [
            text[len(contexts[i]) + t - 1]
            for i, text in zip(own, texts, strict=True)
            for t, is_own in enumerate(written[i])
            if is_own
        ]
        assert laid.read().tolist() == expected
        seen += own
    assert sorted(seen) == rows_with_one


def test_one_row_of_one_token_behind_one_token() -> None:
    policy = policy_of(random_model("qwen3"))
    for economy in (SHARED, SORTED, PACKED):
        states = LocalScorer(economy=economy).states(policy, [[5], [5]], [[6], [7]])
        torch.testing.assert_close(states, LocalScorer(economy=PLAIN).states(policy, [[5]] * 2, [[6]] * 2))


def test_rows_without_a_written_token_give_no_state() -> None:
    policy = policy_of(random_model("llama"))
    for batch in (([], []), ([[5, 6]], [[]]), ([[5]] * 2, [[6], [7]], [[False]] * 2)):
        assert LocalScorer().states(policy, *batch).shape == (0, 32)


def test_all_passes_are_made_within_one_call_of_what_wraps_the_model() -> None:
    policy = policy_of(random_model("llama"))

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.calls = ResponseScorer(policy.model), 0

        def forward(self, *laid: Any) -> torch.Tensor:
            self.calls += 1
            return self.module(*laid)

    wrapped = Wrapped()
    batch = uneven()
    found = LocalScorer(wrapped, BOTH).states(policy, *batch)
    assert wrapped.calls == 1
    same(found, LocalScorer(economy=PLAIN).states(policy, *batch))


# --- which models allow it ----------------------------------------------------------------------------------------

STATEFUL = {
    "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "lfm2", "mamba", "mamba2", "minimax",
    "qwen3_next", "recurrent_gemma", "rwkv", "zamba2",
}  # fmt: skip
"""Families that keep more than keys and values of what they read."""
WITHOUT_POSITIONS = {"bloom", "mpt"}
"""Families whose forward pass takes none."""
QUICK = {"gpt2", "gpt_oss", "opt", "rwkv", "mamba"}


def marked(names: object) -> list[object]:
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(names)]  # type: ignore[call-overload]


@pytest.mark.parametrize("name", marked(FAMILIES))
def test_every_family_that_shares_gives_the_same_and_those_with_a_state_do_not_share(name: str) -> None:
    policy = policy_of(family_model(name))
    assert shares(policy.model) == (name not in STATEFUL | WITHOUT_POSITIONS)
    batch = uneven()
    states, gradient = scored(policy, PLAIN, batch)
    economy = replace(economy_of(policy.model), fixed=0)
    found, its_gradient = scored(policy, economy, batch)
    same(found, states, 1e-5)
    same(its_gradient, gradient, 1e-5)
    assert bool(economy.plan([row_of(*one) for one in zip(*batch, strict=True)]).shared) == economy.share


@pytest.mark.parametrize("rope", [{"rope_type": "dynamic", "factor": 2.0}, {
    "rope_type": "longrope", "factor": 2.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
    "original_max_position_embeddings": 16,
}], ids=lambda one: one["rope_type"])  # fmt: skip
def test_rotary_embeddings_by_length_take_whole_rows(rope: dict[str, Any]) -> None:
    config = transformers.LlamaConfig(**SIZE, pad_token_id=0, rope_parameters={**rope, "rope_theta": 1e4})
    model = transformers.LlamaForCausalLM(config).eval()
    assert not shares(model)
    assert economy_of(model).share is False


def test_packing_is_for_flash_attention_and_models_without_a_state() -> None:
    model = random_model("llama")
    assert economy_of(model) == Economy(share=True, pack=False, fixed=PASS_ON_CPU)
    model.config._attn_implementation_internal = "flash_attention_2"
    assert economy_of(model).pack
    state = family_model("mamba")
    state.config._attn_implementation_internal = "flash_attention_2"
    assert economy_of(state) == Economy(share=False, pack=False, fixed=PASS_ON_CPU)


# --- how many tokens ----------------------------------------------------------------------------------------------


def pushed(policy: Policy, *batch: Any, economy: Economy | None = None) -> int:
    """Tokens that go through the model's body."""
    seen: list[int] = []
    hook = body(policy.model).register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    with torch.no_grad():
        LocalScorer(economy=economy).states(policy, *batch)
    hook.remove()
    return sum(seen)


def llama() -> Policy:
    return policy_of(tiny_model(VOCABULARY, width=32))


def test_eight_rollouts_of_a_prompt_push_it_once() -> None:
    policy, prompt = llama(), drawn(400, 1)
    answers = [drawn(101, i) for i in range(8)]  # of which the last token is predicted and not read
    assert pushed(policy, [prompt] * 8, answers, economy=PLAIN) == 8 * 500
    assert pushed(policy, [prompt] * 8, answers) == 400 + 8 * 100


def test_different_prompts_push_no_more_than_before() -> None:
    policy = llama()
    contexts = [drawn(60 + i % 7, i) for i in range(32)]
    answers = [drawn(5 + 3 * i, i) for i in range(32)]
    plain = pushed(policy, contexts, answers, economy=PLAIN)
    real = sum(len(c) + len(a) - 1 for c, a in zip(contexts, answers, strict=True))
    found = pushed(policy, contexts, answers)
    assert real <= found < plain
    assert found <= 1.25 * real


def test_a_group_that_saves_little_takes_whole_rows() -> None:
    policy = llama()
    contexts, answers = [[5, 6]] * 8, [drawn(200, i) for i in range(8)]
    assert pushed(policy, contexts, answers) == 8 * 201


def test_packed_rows_push_nothing_but_themselves() -> None:
    contexts, responses, written = uneven()
    rows = [row_of(*one) for one in zip(contexts, responses, written, strict=True)]
    real = sum(row.length for row in rows if row.steps)
    assert pushed(llama(), contexts, responses, written, economy=PACKED) == real


def test_what_follows_the_last_written_token_is_not_read() -> None:
    row = row_of([1, 2], [3, 4, 5, 6], [True, False, True, False])
    assert (row.ids, row.places) == ([1, 2, 3, 4], [1, 3])
    assert row_of([1], [2], [True]).ids == [1]
    with pytest.raises(ValueError, match="prompts"):
        row_of([], [1])


@pytest.mark.parametrize("seed", range(20))
def test_rows_are_cut_where_it_costs_least(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 40, (9,), generator=generator).tolist()
    fixed = int(torch.randint(0, 60, (), generator=generator))
    rows = list(range(100, 109))

    def cost(passes: list[list[int]]) -> int:
        return sum(len(one) * max(lengths[i - 100] for i in one) + fixed for one in passes)

    found = cut(rows, lengths, fixed)
    assert sorted(i for one in found for i in one) == rows
    assert all(one == sorted(one) for one in found)
    ranked = sorted(rows, key=lambda i: lengths[i - 100])
    every = []
    for places in range(2**8):  # all ways to cut the sorted rows
        cuts = [0, *(n + 1 for n in range(8) if places >> n & 1), 9]
        every.append(cost([ranked[a:b] for a, b in pairwise(cuts)]))
    assert cost(found) == min(every)


def test_nothing_is_cut_into_no_pass() -> None:
    assert cut([], [], 5) == []
    assert cut([3, 1, 2], [4, 4, 4], 0) == [[3, 1, 2]]


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_layers_that_are_called_twice_are_computed_again_in_every_precision(
    precision: str, tmp_path: Path
) -> None:
    """A shared context is a call more of each layer, in which autocast converts weights that it then remembers."""
    words = ("--lora-rank", "0", "--precision", precision, "--per-prompt", "4")
    folder = str(tiny_model_folder(tmp_path))
    after = []
    for way in ("none", "selective"):
        run = run_of(folder, *words, "--gradient-checkpointing", way, recipe="grpo")
        run.stepped()
        after.append({name: p.detach().clone() for name, p in run.learner.policy.model.named_parameters()})
    for name, weight in after[0].items():
        torch.testing.assert_close(after[1][name], weight, rtol=0, atol=0)
