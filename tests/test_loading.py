"""Loading and saving a policy, and one line for each way it can go wrong."""

from __future__ import annotations

import copy
import json
import shutil
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from selfteach.errors import UserError
from selfteach.policy.loading import LoraConfig, context_window, load_policy
from selfteach.policy.passes import Padded, row_of
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


def test_all_weights_of_a_model_with_an_adapter_train(folder, tmp_path):
    load_policy(str(folder), lora=LoraConfig(rank=2)).save(tmp_path / "adapter")
    whole = load_policy(str(tmp_path / "adapter"))
    assert whole.trainable().keys() == load_policy(str(folder)).trainable().keys()


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
@pytest.mark.parametrize("way", ["selective", "full"])
def test_gradient_checkpointing_leaves_the_gradient_as_it_is(folder, lora, way):
    def gradients(checkpointing: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        policy = load_policy(str(folder), lora=lora, gradient_checkpointing=checkpointing)
        row, calls = row_of(IDS[0, :1].tolist(), IDS[0, 1:].tolist()), []
        attention = next(one for name, one in policy.model.named_modules() if name.endswith("0.self_attn"))
        attention.register_forward_hook(lambda *_: calls.append(1))
        ResponseScorer(policy.model)(Padded.of([row], pad_id=0)).square().sum().backward()
        assert len(calls) == (1 if checkpointing == "none" else 2)
        assert not policy.model.training
        return {n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None}

    plain, checkpointed = gradients("none"), gradients(way)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=0, atol=0)


@pytest.mark.parametrize(("bound", "window"), [(77, 77), (-1, 2**30), (None, 2**30)])
def test_a_model_that_sets_no_bound_on_its_window_has_none(bound, window):
    network = torch.nn.Linear(1, 1)
    network.config = PretrainedConfig(max_position_embeddings=bound)
    assert context_window(network) == window


def test_a_copy_of_a_model_that_recomputes_recomputes_its_own_layers(folder):
    policy = load_policy(str(folder), gradient_checkpointing="full")
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


# --- adapters that are not whole, or not of this base


@pytest.fixture
def saved(folder, tmp_path):
    """An adapter on a base of its own, to be spoiled."""
    shutil.copytree(folder, tmp_path / "base")
    lora_policy(tmp_path / "base").save(tmp_path / "saved")
    return tmp_path / "saved"


def respelled(saved, change):
    file = saved / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def first_of(tensors):
    return min(tensors)


def without_all(tensors):
    tensors.clear()
    tensors["x"] = torch.zeros(1)


SPOILED = {
    "one tensor missing": (lambda t: t.pop(first_of(t)), "lacks 1 tensors"),
    "all tensors missing": (without_all, "lacks 28 tensors"),
    "a layer missing": (lambda t: [t.pop(k) for k in list(t) if ".layers.1." in k], "lacks 14 tensors"),
    "another name": (lambda t: t.update({first_of(t) + "x": t.pop(first_of(t))}), "1 tensors"),
    "one too many": (
        lambda t: t.update({k.replace("layers.0", "layers.9"): v.clone() for k, v in list(t.items())[:1]}),
        "no place in its base for 1 tensors",
    ),
    "another shape": (lambda t: t.update({first_of(t): torch.zeros(3, 3)}), "size mismatch"),
    "another rank": (lambda t: t.update({k: torch.cat([v, v]) for k, v in t.items()}), "size mismatch"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_an_adapter_whose_tensors_are_not_those_of_its_configuration_is_refused(saved, how):
    change, said = SPOILED[how]
    respelled(saved, change)
    with pytest.raises(UserError, match=said) as problem:
        load_policy(str(saved))
    assert str(saved) in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"layers": 1}, {"layers": 3}, {"width": 32}, {"tied": False}], ids=str
)
def test_an_adapter_of_another_base_is_refused(saved, tmp_path, other):
    shutil.rmtree(tmp_path / "base")
    tiny_model_folder(tmp_path / "base", **other)
    with pytest.raises(UserError, match="adapter") as problem:
        load_policy(str(saved))
    assert str(saved) in str(problem.value)
    assert "base_model_name_or_path" in str(problem.value)


def test_an_adapter_of_another_program_is_held_to_its_tensors_alone(saved, tmp_path):
    expected = logits(load_policy(str(saved)))
    (saved / "base.json").unlink()
    assert torch.equal(logits(load_policy(str(saved))), expected)
    shutil.rmtree(tmp_path / "base")
    tiny_model_folder(tmp_path / "base", layers=1)
    with pytest.raises(UserError, match="no place in its base for 14 tensors"):
        load_policy(str(saved))


@pytest.mark.parametrize("precision", ["float32", "mixed", "bfloat16"])
def test_an_adapter_knows_its_base_in_any_precision(saved, precision):
    assert load_policy(str(saved), precision=precision, trained=False).name == str(saved)


def test_a_moved_base_is_named_with_what_to_do(saved, tmp_path):
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no such folder") as problem:
        load_policy(str(saved))
    said = str(problem.value)
    assert f"{tmp_path / 'base'}" in said
    assert f"base_model_name_or_path of {saved / 'adapter_config.json'}" in said
    assert "export --merge" in said
    config = json.loads((saved / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "elsewhere")
    (saved / "adapter_config.json").write_text(json.dumps(config))
    load_policy(str(saved))


@pytest.mark.parametrize("base", [None, ""])
def test_an_adapter_that_names_no_base_says_so(saved, base):
    config = json.loads((saved / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base
    (saved / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="names no base model: say where"):
        load_policy(str(saved))


def test_a_base_named_from_another_folder_is_still_found(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policy = load_policy("base", lora=LoraConfig(rank=2))
    policy.save("again")
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    assert torch.equal(logits(load_policy("../again")), logits(policy))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_adapter_trained_on_an_adapter_keeps_both(saved, tmp_path, precision):
    second = lora_policy(saved)
    expected = logits(second)
    second.save(tmp_path / "second")
    again = load_policy(str(tmp_path / "second"), precision=precision, trained=False)
    if precision == "float32":
        torch.testing.assert_close(logits(again), expected, rtol=1e-4, atol=1e-5)
    respelled(saved, lambda tensors: tensors.update({k: -v for k, v in tensors.items()}))
    with pytest.raises(UserError, match="of other weights"):
        load_policy(str(tmp_path / "second"))


def test_the_bases_revision_goes_with_an_adapter(folder, tmp_path):
    load_policy(str(folder), lora=LoraConfig(rank=2), revision="v2").save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "adapter_config.json").read_text())["revision"] == "v2"


def test_an_error_of_the_hub_that_says_nothing_is_named_by_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, **__: object) -> str:
        raise ValueError(" \n ")

    monkeypatch.setattr("selfteach.policy.folder.hub_at_hand", lambda: nullcontext(""))
    monkeypatch.setattr("huggingface_hub.snapshot_download", silent)
    with pytest.raises(UserError, match=r"model 'some/model' cannot be loaded \(ValueError"):
        load_policy("some/model")
