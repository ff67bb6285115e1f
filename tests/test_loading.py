"""Loading and saving a policy, and one line for each way it can go wrong."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from selfteach.errors import UserError
from selfteach.policy.loading import LoraConfig, context_window, load_policy
from selfteach.policy.recomputing import recompute
from selfteach.policy.scorer import LocalScorer, ResponseScorer
from tiny import tiny_model_folder, tiny_tokenizer

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def broken(folder, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(folder, tmp_path / "broken")


@torch.no_grad()
def logits(policy) -> torch.Tensor:
    return policy.model.eval()(IDS).logits


def spoil_config(folder, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_folder_loads_with_tokenizer_chat_and_all_its_weights(folder):
    policy = load_policy(str(folder))
    with torch.no_grad():
        assert torch.equal(logits(policy), AutoModelForCausalLM.from_pretrained(folder)(IDS).logits)
    assert not policy.model.training
    assert policy.name == str(folder)
    assert set(policy.trainable()) == dict(policy.model.named_parameters()).keys()


def test_vocabulary_is_the_tokenizers_width_not_the_matrixs(folder):
    policy = load_policy(str(folder))
    assert policy.vocabulary == len(tiny_tokenizer())
    assert policy.model.get_output_embeddings().weight.shape[0] == policy.vocabulary + 10


def dtypes(policy, *, trained: bool) -> set[torch.dtype]:
    return {p.dtype for p in policy.model.parameters() if p.requires_grad is trained}


@pytest.mark.parametrize("precision", ["float32", "mixed", "bfloat16"])
def test_weights_that_are_trained_are_float32_in_every_precision(folder, precision):
    whole = load_policy(str(folder), precision=precision)
    adapted = load_policy(str(folder), precision=precision, lora=LoraConfig(rank=2))
    assert dtypes(whole, trained=True) == dtypes(adapted, trained=True) == {torch.float32}


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("float32", torch.float32), ("mixed", torch.float32), ("bfloat16", torch.bfloat16)],
)
def test_weights_that_never_move_are_bfloat16_where_the_precision_is(folder, precision, dtype):
    adapted = load_policy(str(folder), precision=precision, lora=LoraConfig(rank=2))
    other = load_policy(str(folder), precision=precision, trained=False)
    assert dtypes(adapted, trained=False) == {dtype}
    assert {p.dtype for p in other.model.parameters()} == {dtype}


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)], ids=["full", "lora"])
def test_at_a_learning_rate_of_a_millionth_weights_move_in_bfloat16_too(folder, lora):
    """Of bfloat16 weights of order 0.1 the next number is 5e-4 away: such steps would be lost on all of them."""
    policy = load_policy(str(folder), precision="bfloat16", lora=lora)
    before = {name: p.detach().clone() for name, p in policy.trainable().items()}
    optimizer = torch.optim.AdamW(policy.trainable().values(), lr=1e-6, weight_decay=0.0)
    for _ in range(2):  # the first one moves LoRA's up-projections alone, which begin at 0
        LocalScorer().states(policy, [[5, 6]], [[7, 8, 9]]).float().square().sum().backward()
        optimizer.step()
    for name, parameter in policy.trainable().items():
        if parameter.grad is not None and (asked := parameter.grad != 0).any():
            moved = parameter.detach() != before[name]
            assert moved[asked].float().mean() > 0.99, name


def test_the_generation_settings_of_the_folder_add_stop_tokens(broken):
    (broken / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    assert load_policy(str(broken)).renderer.stop_ids >= {7, 9}


def test_a_saved_policy_is_an_ordinary_folder(folder, tmp_path):
    policy = load_policy(str(folder))
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.mul_(1.5)
    policy.save(tmp_path / "saved")
    with torch.no_grad():
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")(IDS).logits
    assert torch.equal(again, logits(policy))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert tokenizer.chat_template == policy.tokenizer.chat_template


def test_a_policy_with_odd_generation_settings_can_still_be_saved(broken, tmp_path):
    (broken / "generation_config.json").write_text(
        '{"do_sample": false, "temperature": 0.3, "eos_token_id": 7}'
    )
    load_policy(str(broken)).save(tmp_path / "saved")
    assert 7 in load_policy(str(tmp_path / "saved")).renderer.stop_ids


def lora_policy(folder, **options):
    policy = load_policy(str(folder), lora=LoraConfig(rank=4, alpha=8, **options))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.normal_(std=0.1)
    return policy


def test_lora_trains_the_adapter_alone_and_starts_as_the_base(folder):
    policy = load_policy(str(folder), lora=LoraConfig(rank=4))
    assert policy.trainable()
    assert all("lora_" in name for name in policy.trainable())
    assert torch.equal(logits(policy), logits(load_policy(str(folder))))


def test_adapters_off_gives_the_base_and_on_again_gives_the_adapter(folder):
    policy = lora_policy(folder)
    adapted = logits(policy)
    with policy.adapters_off():
        assert torch.equal(logits(policy), logits(load_policy(str(folder))))
    assert torch.equal(logits(policy), adapted)
    assert (adapted - logits(load_policy(str(folder)))).abs().max() > 1e-3


def test_adapters_off_changes_nothing_without_lora(folder):
    policy = load_policy(str(folder))
    with policy.adapters_off():
        inside = logits(policy)
    assert torch.equal(inside, logits(policy))


@pytest.mark.parametrize("merge", [False, True])
def test_a_saved_lora_policy_loads_again(folder, tmp_path, merge):
    policy = lora_policy(folder)
    before = logits(policy)
    policy.save(tmp_path / "saved", merge=merge)
    assert (tmp_path / "saved" / "adapter_config.json").exists() is not merge
    torch.testing.assert_close(logits(load_policy(str(tmp_path / "saved"))), before, rtol=1e-4, atol=1e-5)
    assert torch.equal(logits(policy), before)


def test_lora_targets_may_be_named(folder):
    policy = load_policy(str(folder), lora=LoraConfig(rank=2, targets=("q_proj",)))
    assert all("q_proj" in name for name in policy.trainable())


def test_unknown_lora_targets_are_named(folder):
    with pytest.raises(UserError, match="no_such_layer"):
        load_policy(str(folder), lora=LoraConfig(targets=("no_such_layer",)))


@pytest.mark.parametrize("options", [{"rank": 0}, {"targets": ()}])
def test_impossible_lora_refuses_to_construct(options):
    with pytest.raises(UserError, match=next(iter(options))):
        LoraConfig(**options)


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)])
def test_gradient_checkpointing_leaves_the_gradient_as_it_is(folder, lora):
    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        policy = load_policy(str(folder), lora=lora, gradient_checkpointing=checkpointing)
        index, calls = torch.arange(4)[None], []
        attention = next(one for name, one in policy.model.named_modules() if name.endswith("0.self_attn"))
        attention.register_forward_hook(lambda *_: calls.append(1))
        ResponseScorer(policy.model)(IDS, torch.ones_like(IDS), index).square().sum().backward()
        assert len(calls) == 1 + checkpointing
        assert not policy.model.training
        return {n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None}

    plain, checkpointed = gradients(False), gradients(True)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)


@pytest.mark.parametrize(("bound", "window"), [(77, 77), (-1, 2**30), (None, 2**30)])
def test_a_model_that_sets_no_bound_on_its_window_has_none(bound, window):
    network = torch.nn.Linear(1, 1)
    network.config = PretrainedConfig(max_position_embeddings=bound)
    assert context_window(network) == window


def test_a_copy_of_a_model_that_recomputes_recomputes_its_own_layers(folder):
    policy = load_policy(str(folder), gradient_checkpointing=True)
    other = copy.deepcopy(policy.model)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.zero_()
    assert other(IDS).logits.abs().max() > 0.1


def test_a_model_without_layers_to_recompute_says_so():
    with pytest.raises(UserError, match="Linear has no layers that can be recomputed"):
        recompute(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "a/b/c", ""])
def test_a_missing_folder_is_named(name):
    with pytest.raises(UserError, match=f"model '{name}': there is no such folder"):
        load_policy(name)


def test_a_folder_without_weights_is_refused(broken):
    (broken / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_policy(str(broken))


def test_pickled_weights_are_not_read(broken):
    torch.save(load_policy(str(broken)).model.state_dict(), broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_policy(str(broken))


def test_truncated_weights_are_called_damaged(broken):
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50_000])
    with pytest.raises(UserError, match="damaged"):
        load_policy(str(broken))


@pytest.mark.parametrize("change", [{"num_hidden_layers": 3}, {"hidden_size": 96}])
def test_weights_that_do_not_fill_the_model_are_refused(broken, change):
    spoil_config(broken, **change)
    with pytest.raises(UserError, match="would stay random"):
        load_policy(str(broken))


def test_a_folder_without_tokenizer_is_refused(broken):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (broken / name).unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load_policy(str(broken))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("config.json", "[1]"),
        ("tokenizer.json", '{"a": 1}'),
        ("tokenizer_config.json", "[1]"),
    ],
)
def test_a_broken_json_file_is_a_user_error(broken, file, content):
    (broken / file).write_text(content)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_policy(str(broken))


@pytest.mark.parametrize(
    "change", [{"model_type": "vit"}, {"model_type": "no_such_type"}, {"num_hidden_layers": "x"}]
)
def test_what_is_no_causal_language_model_is_refused(broken, change):
    spoil_config(broken, **change)
    with pytest.raises(UserError, match="causal language model"):
        load_policy(str(broken))


def test_code_in_a_model_folder_is_not_run(broken, tmp_path):
    spoil_config(
        broken, model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    )
    (broken / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_policy(str(broken))
    assert not (tmp_path / "ran").exists()


def test_an_adapter_without_safetensors_is_refused(folder, tmp_path):
    lora_policy(folder).save(tmp_path / "saved")
    (tmp_path / "saved" / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors"):
        load_policy(str(tmp_path / "saved"))
