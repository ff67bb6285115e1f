"""The output head of a transformers model as the objective wants it: its weights and known logit tricks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from peft.tuners.lora import LoraLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from selfteach.errors import NotFinite, UserError
from selfteach.objective.head import Head, LowRank
from selfteach.policy.loading import bare
from selfteach.policy.passes import Padded, row_of
from selfteach.policy.scorer import ResponseScorer
from selfteach.policy.sharding import gather_head, is_half

_MULTIPLIERS = ("logit_scale", "lm_head_multiplier", "output_multiplier")
_DIVISORS = ("logits_scaling", "logits_mup_width_multiplier")
_SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap")


def output_head(model: nn.Module, vocabulary: int | None = None, *, mixed: bool = False) -> Head:
    """The head that turns final hidden states into ``model``'s logits, cut to ``vocabulary`` columns.

    It holds the live parameters: a gradient with respect to them trains the model. LoRA on the head is
    included while adapters are on. Of a sharded model it is gathered, which every process must ask for.
    Raises UserError for a head this cannot express; ``check_head`` finds the rest.
    """
    policy = bare(model)
    gather_head(policy)
    config = policy.config.get_text_config()
    weight, bias, lora = _linear(policy.get_output_embeddings(), type(policy).__name__)
    half = weight.detach().bfloat16() if mixed and weight.is_cuda and weight.dtype == torch.float32 else None
    return Head(weight, bias, lora, _scale(config), _softcap(config), vocabulary, half)


def _linear(
    layer: nn.Module | None, owner: str
) -> tuple[Float[Tensor, "V d"], Float[Tensor, "V"] | None, LowRank | None]:
    if isinstance(layer, ModulesToSaveWrapper):
        trained = layer.modules_to_save[layer.active_adapters[0]]
        layer = layer.original_module if layer.disable_adapters else trained
    lora = None
    if isinstance(layer, LoraLayer):
        lora = _low_rank(layer, owner)
        layer = layer.get_base_layer()
    if not isinstance(layer, nn.Linear):
        raise UserError(
            f"{owner}: its output head is {type(layer).__name__}, only a linear head is supported."
        )
    return layer.weight, layer.bias, lora


def _low_rank(layer: Any, owner: str) -> LowRank | None:
    if layer.disable_adapters or layer.merged:
        return None
    adapters = [name for name in layer.active_adapters if name in layer.lora_A]
    plain = all(
        name not in layer.lora_variant
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and layer.lora_B[name].bias is None
        for name in adapters
    )
    if len(adapters) > 1 or not plain:
        raise UserError(
            f"{owner}: LoRA on the output head must be one plain adapter without dropout: "
            "leave the head out of the LoRA targets or set dropout to 0."
        )
    return next(
        (
            LowRank(layer.lora_A[name].weight, layer.lora_B[name].weight, float(layer.scaling[name]))
            for name in adapters
        ),
        None,
    )


def _scale(config: PretrainedConfig) -> float:
    """Cohere multiplies by logit_scale; Granite divides by logits_scaling, HyperCLOVA X multiplies by it."""
    if config.model_type.startswith("hyperclovax"):
        return float(config.logits_scaling)
    if getattr(
        config, "dim_model_base", None
    ):  # MiniCPM divides the hidden state by hidden_size / dim_model_base
        return float(config.dim_model_base / config.hidden_size)
    scale = 1.0
    for name in _MULTIPLIERS:
        scale *= getattr(config, name, None) or 1.0
    for name in _DIVISORS:
        scale /= getattr(config, name, None) or 1.0
    return float(scale)


def _softcap(config: PretrainedConfig) -> float | None:
    return next((float(cap) for name in _SOFTCAPS if (cap := getattr(config, name, None))), None)


@contextmanager
def exact_logits(model: nn.Module) -> Iterator[None]:
    """Within it the model's own head computes as the objective does: float32 at least, outside of autocast.

    A logit of 10 rounded to bfloat16 moves its probability by up to 3 %: log-probs noted while sampling would not be
    those that are scored later.
    """
    layer = bare(model).get_output_embeddings()
    head = replace(
        output_head(model, mixed=True), scale=1.0, softcap=None
    )  # the model applies these itself, to what it gets

    def forward(hidden: Float[Tensor, "*P d"]) -> Float[Tensor, "*P V"]:
        with torch.autocast(hidden.device.type, enabled=False):
            logits: Tensor = head.logits(hidden.flatten(0, -2)).unflatten(0, hidden.shape[:-1])
        return logits

    own = layer.forward
    layer.forward = forward
    try:
        yield
    finally:
        layer.forward = own


def check_head(model: nn.Module, head: Head, prompt: list[int]) -> None:
    """Refuse a model whose own logits on ``prompt`` differ from ``head`` applied to its hidden states.

    This is how an architecture with a logit trick of its own fails loudly. Raises UserError naming it, NotFinite for a
    model that gives no numbers at all.
    """
    policy = bare(model)
    training = policy.training
    policy.eval()
    try:
        with torch.no_grad():
            # Something stands behind the prompt, so that its last token predicts too; what does not matter.
            laid = Padded.of([row_of(prompt[:1], prompt[1:] + prompt[:1])], pad_id=0, device=policy.device)
            with as_it_computes(policy):
                ours = head.logits(ResponseScorer(policy)(laid))
                theirs = policy(laid.input_ids, use_cache=False).logits[0, :, : head.vocabulary].float()
    finally:
        policy.train(training)
    if not (ours.isfinite().all() and theirs.isfinite().all()):
        raise NotFinite("the logits of a probe text are not finite")
    tolerance = 1e-4 if _is_exact(policy) and not is_half(policy) else 2e-2
    if not torch.allclose(
        ours, theirs.to(ours.dtype), rtol=tolerance, atol=tolerance * float(theirs.abs().max())
    ):
        difference = float((ours - theirs).abs().max())
        raise UserError(
            f"{type(policy).__name__} (model type {policy.config.model_type}) makes its logits in a way this "
            f"program does not know (they differ by up to {difference:.2g}): use another architecture."
        )


@contextmanager
def as_it_computes(policy: PreTrainedModel) -> Iterator[None]:
    """Within it a model whose layers are gathered in bfloat16 takes what stands beside them in float32."""
    if not is_half(policy):
        yield
        return
    with torch.autocast(policy.device.type, dtype=torch.bfloat16), exact_logits(policy):
        yield


def _is_exact(policy: nn.Module) -> bool:
    return next(policy.parameters()).dtype in (torch.float32, torch.float64)
