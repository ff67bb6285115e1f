"""Sampling rollouts."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from selfteach.errors import UserError
from selfteach.policy.draws import Sampling
from selfteach.policy.head import output_head
from selfteach.policy.loading import LoraConfig, Policy, bare, load_policy
from selfteach.policy.passes import Padded, row_of
from selfteach.policy.renderer import ChatRenderer
from selfteach.policy.room import room_of
from selfteach.policy.sampler import LocalSampler, Sample
from selfteach.policy.scorer import LocalScorer, ResponseScorer
from tiny import tiny_model, tiny_model_folder, tiny_tokenizer

CHAT = ChatRenderer(tiny_tokenizer())
PADDING = 10


@pytest.fixture
def model():
    return tiny_model(CHAT.vocabulary + PADDING)


def sample(
    model: torch.nn.Module, prompts: list[list[int]], sampling: Sampling, batch_size: int | None = None
) -> list[Sample]:
    policy = Policy("tiny", model, CHAT.tokenizer, CHAT, CHAT.vocabulary, room_of(model))
    return LocalSampler(policy).sample(prompts, sampling, batch_size=batch_size)


def prompts_of(*texts: str) -> list[list[int]]:
    return [CHAT.prompt_ids([{"role": "user", "content": text}]) for text in texts]


def rescored(model, prompts, samples, temperature: float) -> list[list[float]]:
    answers = [one.ids for one in samples]
    laid = Padded.of([row_of(*one) for one in zip(prompts, answers, strict=True)], CHAT.pad_id)
    with torch.no_grad():
        logits = output_head(model, CHAT.vocabulary).logits(ResponseScorer(model)(laid))
    ids = torch.tensor([token for answer in answers for token in answer])
    log_probs = (logits / temperature).log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    return [row.tolist() for row in log_probs.split([len(answer) for answer in answers])]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=24),
        Sampling(max_tokens=24, temperature=0.7),
        Sampling(max_tokens=24, temperature=1.3, top_p=0.8),
        Sampling(max_tokens=24, temperature=1.1, top_p=0.95, top_k=20),
        Sampling(max_tokens=24, temperature=0),
    ],
    ids=str,
)
def test_behavior_is_the_log_prob_of_the_uncut_scaled_distribution(model, sampling):
    torch.manual_seed(0)
    prompts = prompts_of("a", "a longer question", "mid size")
    samples = sample(model, prompts, sampling)
    expected = rescored(model, prompts, samples, sampling.temperature or 1.0)
    for one, row in zip(samples, expected, strict=True):
        assert one.behavior == pytest.approx(row, abs=1e-5)


@pytest.mark.parametrize("precision", ["float32", "mixed", "bfloat16"])
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)], ids=["full", "lora"])
def test_it_samples_in_the_runs_precision_with_exact_logits(tmp_path, precision, lora):
    policy = load_policy(str(tiny_model_folder(tmp_path)), precision=precision, lora=lora)
    seen: dict[str, set[torch.dtype]] = {}
    for name, layer in policy.model.named_modules():
        if name.endswith(("up_proj", "lm_head")):
            kind = name.rpartition(".")[2]
            layer.register_forward_hook(
                lambda _, __, out, kind=kind: seen.setdefault(kind, set()).add(out.dtype)
            )
    LocalSampler(policy).sample(prompts_of("a", "bcd"), Sampling(max_tokens=3))
    inner = torch.float32 if precision == "float32" else torch.bfloat16
    assert seen == {"up_proj": {inner}}  # the logits are made from the states, in float32 at least


@pytest.mark.parametrize("precision", ["mixed", "bfloat16"])
def test_in_half_precision_too_the_noted_log_probs_are_those_that_are_scored(tmp_path, precision):
    folder = tiny_model_folder(tmp_path, tied=False)
    policy = load_policy(str(folder), precision=precision, lora=LoraConfig(rank=2))
    with torch.no_grad():
        bare(policy.model).get_output_embeddings().weight.mul_(8)  # logits of some tens, as large models have
    torch.manual_seed(0)
    prompts = prompts_of("a") * 50
    samples = LocalSampler(policy).sample(prompts, Sampling(max_tokens=1))
    states = LocalScorer().states(policy, prompts, [one.ids for one in samples])
    log_probs = output_head(policy.model, policy.vocabulary).logits(states.detach()).log_softmax(-1)
    scored = log_probs.gather(1, torch.tensor([one.ids for one in samples])).squeeze(1)
    assert log_probs.abs().max() > 20
    torch.testing.assert_close(torch.tensor([one.behavior[0] for one in samples]), scored, rtol=0, atol=1e-5)


def test_top_k_of_one_is_greedy(model):
    prompts = prompts_of("a", "bcd")
    one_token = sample(model, prompts, Sampling(max_tokens=20, top_k=1))
    greedy = sample(model, prompts, Sampling(max_tokens=20, temperature=0))
    assert [one.ids for one in one_token] == [one.ids for one in greedy]


def test_first_tokens_are_as_frequent_as_their_probabilities(model):
    torch.manual_seed(1)
    prompt = prompts_of("x")[0]
    count = 4000
    drawn = sample(model, [prompt] * count, Sampling(max_tokens=1, temperature=0.8))
    frequency = torch.bincount(torch.tensor([one.ids[0] for one in drawn]), minlength=CHAT.vocabulary) / count
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1, : CHAT.vocabulary]
    expected = (logits / 0.8).softmax(-1)
    deviation = (frequency - expected).abs() / (expected * (1 - expected) / count).sqrt()
    assert deviation.max() < 4.5


def test_top_k_draws_from_the_likeliest_tokens_only(model):
    torch.manual_seed(2)
    prompt = prompts_of("x")[0]
    drawn = sample(model, [prompt] * 500, Sampling(max_tokens=1, top_k=3))
    with torch.no_grad():
        likeliest = model(torch.tensor([prompt])).logits[0, -1, : CHAT.vocabulary].topk(3).indices
    assert {one.ids[0] for one in drawn} == set(likeliest.tolist())


def test_ids_that_only_pad_the_matrices_are_never_drawn(model):
    torch.manual_seed(3)
    with torch.no_grad():
        model.get_input_embeddings().weight[CHAT.vocabulary :] *= 50
    drawn = sample(model, prompts_of("x") * 100, Sampling(max_tokens=4))
    assert max(token for one in drawn for token in one.ids) < CHAT.vocabulary
    expected = rescored(model, prompts_of("x") * 100, drawn, 1.0)
    assert drawn[0].behavior == pytest.approx(expected[0], abs=1e-5)


def test_a_finished_sample_ends_with_its_only_stop_token(model):
    torch.manual_seed(4)
    drawn = sample(model, prompts_of("x") * 200, Sampling(max_tokens=30))
    finished = [one for one in drawn if one.finished]
    assert finished
    assert len(finished) < len(drawn)
    for one in finished:
        assert [token in CHAT.stop_ids for token in one.ids] == [False] * (len(one.ids) - 1) + [True]
    for one in drawn:
        assert len(one.behavior) == len(one.ids)
        assert one.finished or (len(one.ids) == 30 and not CHAT.stop_ids & set(one.ids))


def test_greedy_does_not_depend_on_the_batch(model):
    prompts = prompts_of("a", "a much longer question than the others", "b", "cc")
    greedy = Sampling(max_tokens=16, temperature=0)
    together = sample(model, prompts, greedy)
    alone = [sample(model, [prompt], greedy)[0] for prompt in prompts]
    in_pairs = sample(model, prompts, greedy, batch_size=2)
    assert [one.ids for one in together] == [one.ids for one in alone] == [one.ids for one in in_pairs]


def test_torch_rng_state_makes_sampling_repeatable(model):
    prompts = prompts_of("a", "b")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = sample(model, prompts, Sampling(max_tokens=12))
    second = sample(model, prompts, Sampling(max_tokens=12))
    torch.set_rng_state(state)
    assert sample(model, prompts, Sampling(max_tokens=12)) == first
    assert first != second


def test_generation_defaults_of_the_folder_do_not_leak_in(model):
    prompts = prompts_of("a", "bcd")
    torch.manual_seed(6)
    plain = sample(model, prompts, Sampling(max_tokens=20))
    stored = GenerationConfig(
        do_sample=True,
        temperature=0.1,
        top_k=2,
        repetition_penalty=3.0,
        max_length=5,
        min_p=0.3,
        no_repeat_ngram_size=2,
    )
    model.generation_config = stored
    torch.manual_seed(6)
    assert sample(model, prompts, Sampling(max_tokens=20)) == plain
    assert model.generation_config is stored


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_in_its_mode(model, training):
    model.train(training)
    sample(model, prompts_of("a"), Sampling(max_tokens=2))
    assert model.training is training


def test_sampling_runs_without_dropout_even_in_training(model):
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    prompts = prompts_of("a", "bcd")
    greedy = Sampling(max_tokens=12, temperature=0)
    expected = sample(model, prompts, greedy)
    assert sample(model.train(), prompts, greedy) == expected


def test_no_prompts_give_no_samples(model):
    assert sample(model, [], Sampling()) == []


def test_a_prompt_beyond_the_context_window_is_refused(model):
    with pytest.raises(UserError, match="context window of 1024"):
        sample(model, prompts_of("a" * 100), Sampling(max_tokens=1000))


@pytest.mark.parametrize(
    "knob",
    [
        {"max_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
    ],
)
def test_impossible_sampling_refuses_to_construct(knob):
    with pytest.raises(UserError, match=next(iter(knob))):
        Sampling(**knob)
