"""Files and texts of strangers run no code: only safetensors are loaded, nothing is imported, evaluated or fetched."""

from __future__ import annotations

import ast
import json
import pickle
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import selfteach
from hostile import mutated
from selfteach import hub, outside
from selfteach.errors import UserError
from selfteach.policy.loading import load_policy
from selfteach.task import patterns
from selfteach.training.text.classes import read_classes
from tiny import tiny_model_folder

PICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
UNSAFE = {
    "eval",
    "torch.load",
    "yaml.load",
    "yaml.unsafe_load",
    "np.load",
    "numpy.load",
    "os.system",
    "os.popen",
}
SOURCES = sorted(Path(selfteach.__file__).parent.rglob("*.py"))


class Canary:
    """Sings when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_model_folder(tmp_path / "model")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "sung"


def pickled(path: Path, canary: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": Canary(canary)}))


def changed(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def refused(folder: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as refusal:
        load_policy(str(folder), device="cpu", **options)
    said = str(refusal.value)
    assert len(said.splitlines()) == 1
    return said


def calls(tree: ast.AST) -> set[str]:
    """The dotted names of all that is called; a call that says it reads no pickle is none."""
    called = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {
        ast.unparse(node.func)
        for node in called
        if "allow_pickle=False" not in (ast.unparse(one) for one in node.keywords)
    }


def imported(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {one.name.split(".")[0] for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_arrays_are_read_without_pickle_or_named_here() -> None:
    assert "np.load" in calls(ast.parse("np.load(file)"))
    assert "np.load" in calls(ast.parse("np.load(file, allow_pickle=True)"))
    assert "np.load" not in calls(ast.parse("np.load(file, allow_pickle=False)"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_module_unpickles_or_evaluates(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    said = calls(tree)
    assert not imported(tree) & PICKLING
    assert not said & UNSAFE
    # The user's own files, by FILE.py:NAME; and what runs where it is confined, which nothing imports (below).
    if path.name != "importing.py" and path.parent.name != "inside":
        assert not said & {"exec", "compile", "__import__"}
    for call in ast.walk(tree):
        if isinstance(call, ast.Call):
            assert all(
                not (word.arg == "shell" and ast.unparse(word.value) == "True") for word in call.keywords
            )


def test_what_runs_programs_is_imported_nowhere_but_in_the_sandbox() -> None:
    for path in SOURCES:
        if path.parent.name != "inside":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
            modules += [
                one.name for node in ast.walk(tree) if isinstance(node, ast.Import) for one in node.names
            ]
            assert not [one for one in modules if "sandbox.inside" in one], path


REPOSITORY = Path(__file__).parent.parent
LOADING = [
    *SOURCES,
    *(one for name in ("benchmarks", "examples") for one in (REPOSITORY / name).rglob("*.py")),
]


def test_every_model_is_loaded_from_safetensors_alone() -> None:
    """transformers takes a pickle where a folder has nothing else; a GGUF file holds none."""
    loading, careless = [], []
    for path in LOADING:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and re.fullmatch(
                r"(AutoModel\w*|loader)\.from_pretrained", ast.unparse(node.func)
            ):
                loading.append(node)
                given = {one.arg: ast.unparse(one.value) for one in node.keywords}
                if given.get("use_safetensors") != "True" and "gguf_file" not in given:
                    careless.append(f"{path.name}:{node.lineno}")
    assert len(loading) >= 5
    assert not careless


def test_an_index_may_name_no_pickle(folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").unlink()
    pickled(folder / "pytorch_model.bin", canary)
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "pytorch_model.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "'pytorch_model.bin'" in refused(folder)
    assert not canary.exists()


@pytest.mark.parametrize(
    "place", ["../other/model.safetensors", "/tmp/model.safetensors", "sub/model.safetensors", ""]
)
def test_an_index_may_name_no_file_elsewhere(folder: Path, place: str) -> None:
    tiny_model_folder(folder.parent / "other")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": place}}))
    assert f"names {place!r} as weights" in refused(folder)


@pytest.mark.parametrize(
    "index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "[" * 1000, "\xff", ""]
)
def test_a_broken_index_is_one_line(folder: Path, index: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_bytes(index.encode("latin-1"))
    assert "model.safetensors.index.json" in refused(folder)


def test_a_shard_that_is_missing_is_named(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-1.safetensors"}})
    )
    assert "model-1.safetensors is missing" in refused(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.pth", "model.pt", "model.ckpt"])
def test_a_folder_of_pickles_is_refused(folder: Path, canary: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    pickled(folder / name, canary)
    said = refused(folder)
    assert name in said
    assert "model.safetensors" in said
    assert not canary.exists()


def test_a_config_may_name_no_other_file_of_weights(folder: Path, canary: Path) -> None:
    pickled(folder / "other.bin", canary)
    for name in ("other.bin", "../x.safetensors", "../x.safetensors.index.json", ["a"]):
        changed(folder / "config.json", transformers_weights=name)
        assert "config.json names" in refused(folder)
    assert not canary.exists()


@pytest.mark.parametrize(
    "values",
    [
        {"attn_implementation": "strangers/kernel"},
        {"_attn_implementation": "strangers/kernel@v1:f"},
        {"_attn_implementation_internal": "kernels-community/flash-attn2"},
        {"experts_implementation": "strangers/kernel"},
        {"attn_implementation": {"": "eager", "text_config": "strangers/kernel"}},
        {"text_config": {"attn_implementation": "strangers/kernel"}},
        {"use_kernels": True},
        {"kernel_config": {"RMSNorm": "strangers/kernel:Norm"}},
    ],
    ids=str,
)
def test_kernels_of_the_hub_stay_off(folder: Path, values: dict[str, Any]) -> None:
    changed(folder / "config.json", **values)
    assert "code of the hub" in refused(folder)


def test_plain_attention_may_be_named(folder: Path) -> None:
    changed(folder / "config.json", attn_implementation="eager")
    assert load_policy(str(folder), device="cpu").window == 1024


def test_kernels_are_off_in_the_library_too() -> None:
    from transformers.integrations import hub_kernels

    assert not hub_kernels._kernels_enabled
    assert not hub_kernels.ALLOW_ALL_KERNELS


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_is_not_imported(folder: Path, canary: Path, file: str) -> None:
    (folder / "own.py").write_text(f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n")
    own = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M", "AutoTokenizer": ["own.T", "own.T"]}
    changed(folder / file, auto_map=own)
    changed(folder / "config.json", model_type="own" if file == "config.json" else "llama")
    if file == "config.json":
        assert "cannot be loaded" in refused(folder)
    else:
        load_policy(str(folder), device="cpu")
    assert not canary.exists()


# --- adapters ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def adapter(folder: Path) -> Path:
    network = load_policy(str(folder), device="cpu").model
    tuned = peft.get_peft_model(network, peft.LoraConfig(r=2, target_modules=["q_proj"]))  # type: ignore[arg-type]
    tuned.save_pretrained(folder.parent / "adapter")
    load_policy(str(folder), device="cpu").tokenizer.save_pretrained(folder.parent / "adapter")
    return folder.parent / "adapter"


def test_an_adapter_is_loaded_with_its_base(adapter: Path) -> None:
    assert load_policy(str(adapter), device="cpu").window == 1024


def test_a_pickled_adapter_is_refused(adapter: Path, canary: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    pickled(adapter / "adapter_model.bin", canary)
    assert "adapter_model.bin is a pickle" in refused(adapter)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"base_model_name_or_path": None}, "names no base"),
        ({"base_model_name_or_path": 5}, "names no base"),
        ({"base_model_name_or_path": ["a"]}, "names no base"),
        ({"base_model_name_or_path": "/no/such/folder"}, "no such folder"),
        ({"peft_type": "PROMPT_TUNING"}, "only LORA"),
        ({"peft_type": ["LORA"]}, "only LORA"),
        ({"megatron_config": {"a": 1}}, "Megatron"),
        ({"target_modules": "((a+)+)+$"}, None),
        ({"target_modules": 5}, "cannot be loaded"),
        ({"r": -1}, "does not fit its base"),
        ({"r": "many"}, "cannot be loaded"),
        ({"rank_pattern": {"(": 1}}, "no regular expression"),
    ],
    ids=str,
)
def test_what_an_adapter_config_may_not_say_is_one_line(
    adapter: Path, values: dict[str, Any], said: str | None
) -> None:
    changed(adapter / "adapter_config.json", **values)
    if said is not None:
        assert said in refused(adapter)
    else:
        refused(adapter)


@pytest.mark.parametrize("text", ["", "[]", "5", "[" * 1000 + "]" * 1000, "{", "\xff"])
def test_a_broken_adapter_config_is_one_line(adapter: Path, text: str) -> None:
    (adapter / "adapter_config.json").write_bytes(text.encode("latin-1"))
    assert "adapter_config.json" in refused(adapter)


def test_an_adapter_on_itself_is_refused(adapter: Path) -> None:
    changed(adapter / "adapter_config.json", base_model_name_or_path=str(adapter))
    assert "adapter on itself" in refused(adapter)


def test_a_pattern_that_takes_for_ever_is_ended(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 0.5)
    changed(adapter / "adapter_config.json", target_modules=r"([a-z_.0-9]+)+\d\d\d\d\d\d\d!")
    assert "takes too long" in refused(adapter)


# --- files of a model, damaged ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"],
)
def test_a_damaged_file_of_a_model_loads_or_is_one_line(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    hostile = [b"", b"[" * 2000, b"\xff\xfe\x00", b'{"a":' * 500 + b"1" + b"}" * 500, b"[]", b"null", b"5"]
    for data in [
        *hostile,
        *mutated(whole[:4000] if name != "model.safetensors" else whole, seed=3, count=12),
    ]:
        (folder / name).write_bytes(data)
        try:
            load_policy(str(folder), device="cpu")
        except UserError as refusal:
            assert len(str(refusal).splitlines()) == 1  # noqa: PT017
            assert str(folder) in str(refusal)  # noqa: PT017


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "no-such-architecture", "architectures": ["Nothing"]},
        {"model_type": "bert", "architectures": ["BertModel"]},
        {"model_type": 5},
        {"model_type": None},
        {"hidden_size": -1},
        {"hidden_size": "wide"},
        {"num_attention_heads": 0},
        {"eos_token_id": "end"},
        {"quantization_config": {"quant_method": "none such"}},
        {"rope_scaling": {"rope_type": "none such"}},
        {"hidden_act": "__import__('os').system('true')"},
    ],
    ids=str,
)
def test_a_config_of_nonsense_is_one_line(folder: Path, values: dict[str, Any]) -> None:
    changed(folder / "config.json", **values)
    try:
        load_policy(str(folder), device="cpu")
    except UserError as refusal:
        assert len(str(refusal).splitlines()) == 1  # noqa: PT017


def test_weights_of_another_shape_are_named(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(iter(weights))
    weights[name] = torch.zeros(3, 3)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert name in refused(folder)


# --- the hub ----------------------------------------------------------------------------------------------------------


class Silent:
    """A session whose every request fails as without a network."""

    asked = 0

    def head(self, *_: Any, **options: Any) -> None:
        Silent.asked += 1
        assert options["timeout"] <= 10
        raise OSError("[Errno -2] Name or service not known")


@pytest.fixture
def unplugged(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    Silent.asked = 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_answered", set())
    monkeypatch.setattr(hub, "_silent", {})
    monkeypatch.setattr(huggingface_hub, "get_session", Silent)
    monkeypatch.setattr(
        "time.sleep", lambda seconds: pytest.fail("nobody waits for a hub that does not answer")
    )


@pytest.mark.usefixtures("unplugged")
def test_a_hub_that_does_not_answer_is_asked_once() -> None:
    from huggingface_hub import constants

    assert "Name or service not known" in refused("nobody/no-such-model")
    assert Silent.asked == 1
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.usefixtures("unplugged")
def test_model_teacher_and_data_do_not_wait_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(hub, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for model in ("nobody/model", "nobody/teacher", "nobody/other"):
        assert "Name or service not known" in refused(model)
    assert Silent.asked == 1
    now[0] += hub.AGAIN
    assert "Name or service not known" in refused("nobody/model")
    assert Silent.asked == 2
    monkeypatch.setattr(Silent, "head", lambda *_, **__: None)
    assert hub.silence() is not None
    now[0] += hub.AGAIN
    assert hub.silence() is None


@pytest.mark.usefixtures("unplugged")
def test_a_data_set_of_a_hub_that_does_not_answer_is_said_at_once() -> None:
    pytest.importorskip("datasets")
    from selfteach.task.reading import open_hub

    with pytest.raises(UserError, match="Name or service not known"):
        open_hub("nobody/no-such-set")


def test_of_a_hub_model_only_plain_files_are_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def fetched(name: str, **options: Any) -> str:
        asked.append({"name": name, **options})
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    monkeypatch.setattr(hub, "silence", lambda: None)
    policy = load_policy("someone/some-model", revision="abc", device="cpu")
    assert policy.model.name_or_path == policy.tokenizer.name_or_path == "someone/some-model"
    assert asked[0]["name"] == "someone/some-model"
    assert asked[0]["revision"] == "abc"
    assert not any(one.endswith((".bin", ".py", ".pt", "*")) for one in asked[0]["allow_patterns"])
    load_policy("someone/some-model", trust_remote_code=True, device="cpu")
    assert "*.py" in asked[-1]["allow_patterns"]


# --- patterns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not valid JSON"),
        ("[]", "no such table"),
        ('{"a": 5}', "no such table"),
        ('{"other": "x"}', "no such table"),
        ('{"a": "("}', "no regular expression"),
        ('{"a": "' + "(" * 5000 + ")" * 5000 + '"}', "no regular expression"),
        ('{"a": "x{99999999999999999999}"}', "no regular expression"),
        ("[" * 1000 + "]" * 1000, "not valid JSON"),
    ],
    ids=lambda text: text[:20],
)
def test_token_classes_that_are_none_are_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(UserError, match=r"classes\.json") as refusal:
        read_classes(str(tmp_path / "classes.json"))
    assert said in str(refusal.value)


def test_a_token_class_that_takes_for_ever_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 0.5)
    with pytest.raises(UserError, match="takes too long"):
        patterns.first_found("token_classes", ["(a+)+$"], ["a" * 60 + "b"])
    assert patterns.first_found("token_classes", ["b", "a"], ["xa", "b", "-"]) == [1, 0, 2]


def test_a_file_beyond_the_bound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1, 2, 3]")
    assert outside.read_json(tmp_path / "a.json", "it") == [1, 2, 3]
    with pytest.raises(UserError, match="at most 5"):
        outside.read_text(tmp_path / "a.json", "it", most=5)
