"""The objective alone, in somebody else's loop: what it imports, and that the two examples train."""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny import tiny_model, tiny_model_folder, tiny_tokenizer

EXAMPLES = Path(__file__).parent.parent / "examples"
ALONE = ("bare_loop", "trl_trainer")


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_the_objective_imports_neither_transformers_nor_accelerate() -> None:
    script = (
        "import sys, selfteach.objective\n"
        "heavy = {'transformers', 'accelerate', 'peft', 'tokenizers', 'datasets', 'tyro', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_objective_lists_its_public_names() -> None:
    import selfteach.objective as objective

    assert all(hasattr(objective, name) for name in objective.__all__)
    assert {"ScoredBatch", "Head", "Match", "evaluate_terms", "plan", "DIVERGENCES"} <= set(objective.__all__)


@pytest.mark.parametrize("name", ALONE)
def test_an_example_is_at_most_twenty_statements(name: str) -> None:
    tree = ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))
    started = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    statements = [
        node
        for part in started
        for node in ast.walk(part)
        if isinstance(node, ast.stmt)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    assert len(statements) <= 20


def test_the_bare_loop_brings_the_student_to_its_hinted_self(tmp_path: Path) -> None:
    torch.manual_seed(0)
    train = example("bare_loop")["train"]
    losses = list(train(tiny_model_folder(tmp_path), "2+2=", "It is 4. ", steps=12, lr=3e-3))
    assert all(loss > 0 for loss in losses)
    assert sum(losses[-3:]) < sum(losses[:3]) / 4


def trl_trainer(folder: Path) -> Any:
    """The example's trainer over two tiny models that differ."""
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    if not hasattr(trl, "DistillationTrainer"):
        pytest.skip("this trl has no DistillationTrainer")
    tokenizer = tiny_tokenizer()
    settings = trl.DistillationConfig(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        max_steps=2,
        learning_rate=1e-3,
        max_completion_length=6,
        beta=0.5,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    return example("trl_trainer")["ChunkedTrainer"](
        model=tiny_model(len(tokenizer), seed=0),
        teacher_model=tiny_model(len(tokenizer), seed=1),
        args=settings,
        train_dataset=datasets.Dataset.from_dict({"prompt": ["2+2=", "What is 3+4?"] * 4}),
        processing_class=tokenizer,
    )


def test_the_trl_example_trains(tmp_path: Path) -> None:
    trainer = trl_trainer(tmp_path)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    assert trainer.train().training_loss > 0
    assert any((weight != before[name]).any() for name, weight in trainer.model.named_parameters())


def test_on_the_full_vocabulary_the_trl_example_has_trls_own_loss(tmp_path: Path) -> None:
    from selfteach.objective import Full

    trainer = trl_trainer(tmp_path)
    trainer.support = Full()
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "prompt_ids": torch.randint(4, 50, (2, 5), generator=generator),
        "prompt_mask": torch.ones(2, 5, dtype=torch.long),
        "completion_ids": torch.randint(4, 50, (2, 6), generator=generator),
        "completion_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]),
        "num_items_in_batch": torch.tensor(9),
    }
    gradients = []
    for kind in (type(trainer), type(trainer).__base__):
        trainer.model.zero_grad()
        loss = kind.compute_loss(trainer, trainer.model, dict(inputs))
        loss.backward()
        gradients.append((loss.detach(), trainer.model.get_output_embeddings().weight.grad.clone()))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
