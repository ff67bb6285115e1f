"""Tiny random models of families that transformers offers as causal language models, dropout 0.5 where there is any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from tiny import SPECIAL, tiny_tokenizer

SIZE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 1024,
}  # fmt: skip
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 1024, "rotary_dim": 8}
GPT |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.5)
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 48}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
SSM = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 8, "mamba_n_groups": 1}
STATE = {"hidden_size": 64, "state_size": 8, "num_hidden_layers": 2}
ANYWHERE = {"sliding_window": None}

DROPOUT: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**SIZE, "attention_dropout": 0.5}),
    "gpt2": ("GPT2", GPT),
    "gptj": ("GPTJ", GPT),
    "gpt_bigcode": ("GPTBigCode", GPT),
    "codegen": ("CodeGen", GPT),
    "gpt_neo": ("GPTNeo", {
        "hidden_size": 64, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
        "max_position_embeddings": 1024, "embed_dropout": 0.5, "resid_dropout": 0.5, "attention_dropout": 0.5,
    }),
    "gpt_neox": ("GPTNeoX", {**SIZE, "hidden_dropout": 0.5, "attention_dropout": 0.5}),
    "opt": ("OPT", {
        **SIZE, "ffn_dim": 96, "word_embed_proj_dim": 64, "dropout": 0.5, "attention_dropout": 0.5,
    }),
    "xglm": ("XGLM", {
        "d_model": 64, "num_layers": 2, "attention_heads": 4, "ffn_dim": 96, "max_position_embeddings": 1024,
        "dropout": 0.5, "attention_dropout": 0.5, "activation_dropout": 0.5,
    }),
    "biogpt": ("BioGpt", {**SIZE, "hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}),
    "bloom": ("Bloom", {**SIZE, "n_layer": 2, "n_head": 4, "hidden_dropout": 0.5, "attention_dropout": 0.5}),
    "falcon": ("Falcon", {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "new_decoder_architecture": True,
        "num_kv_heads": 2, "hidden_dropout": 0.5, "attention_dropout": 0.5,
    }),
    "phi": ("Phi", {**SIZE, "resid_pdrop": 0.5, "embd_pdrop": 0.5, "attention_dropout": 0.5}),
    "phi3": ("Phi3", {**SIZE, **ANYWHERE, "resid_pdrop": 0.5, "embd_pdrop": 0.5}),
    "persimmon": ("Persimmon", {**SIZE, "hidden_dropout": 0.5}),
    "stablelm": ("StableLm", {**SIZE, "hidden_dropout": 0.5}),
    "starcoder2": ("Starcoder2", {**SIZE, **ANYWHERE, "residual_dropout": 0.5, "embedding_dropout": 0.5}),
    "seed_oss": ("SeedOss", {**SIZE, "residual_dropout": 0.5}),
    "mixtral": ("Mixtral", {**SIZE, **LOCAL, **ANYWHERE, "router_jitter_noise": 0.5, "attention_dropout": 0.5}),
}  # fmt: skip
"""Families whose training mode is another function than their evaluation mode."""

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    **DROPOUT,
    "mistral": ("Mistral", {**SIZE, **ANYWHERE}),
    "qwen2": ("Qwen2", SIZE),
    "qwen2_moe": ("Qwen2Moe", {
        **SIZE, **MOE, "num_experts": 4, "shared_expert_intermediate_size": 32, "mlp_only_layers": [0],
    }),
    "qwen3": ("Qwen3", SIZE),
    "qwen3_moe": ("Qwen3Moe", {**SIZE, **MOE, "num_experts": 4, "mlp_only_layers": [1]}),
    "qwen3_next": ("Qwen3Next", {
        **SIZE, **MOE, "num_experts": 4, "shared_expert_intermediate_size": 32, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
        "layer_types": ["linear_attention", "full_attention"],
    }),
    "gemma": ("Gemma", SIZE),
    "gemma2": ("Gemma2", SIZE),
    "gemma3_text": ("Gemma3Text", {**SIZE, "sliding_window": 512}),
    "mpt": ("Mpt", {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 1024}),
    "olmo": ("Olmo", SIZE),
    "olmo2": ("Olmo2", SIZE),
    "olmoe": ("Olmoe", {**SIZE, "num_experts": 4, "num_experts_per_tok": 2}),
    "granite": ("Granite", SIZE),
    "granitemoehybrid": ("GraniteMoeHybrid", {
        **SIZE, **LOCAL, **SSM, "shared_intermediate_size": 48, "layer_types": ["mamba", "attention"],
    }),
    "cohere": ("Cohere", SIZE),
    "smollm3": ("SmolLM3", SIZE),
    "nemotron": ("Nemotron", SIZE),
    "deepseek_v3": ("DeepseekV3", {
        **SIZE, **MOE, "num_key_value_heads": 4, "head_dim": 8, "n_routed_experts": 4, "n_shared_experts": 1,
        "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16,
        "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
    }),
    "gpt_oss": ("GptOss", {**SIZE, **LOCAL, "sliding_window": 512}),
    "phimoe": ("Phimoe", {**SIZE, **LOCAL, **ANYWHERE}),
    "jetmoe": ("JetMoe", {**SIZE, **LOCAL, "kv_channels": 16}),
    "dbrx": ("Dbrx", {
        "d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 1024,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 64},
    }),
    "llama4_text": ("Llama4Text", {
        **SIZE, "num_local_experts": 4, "intermediate_size_mlp": 96, "moe_layers": [1], "attention_chunk_size": 512,
    }),
    "mamba": ("Mamba", STATE),
    "falcon_mamba": ("FalconMamba", STATE),
    "mamba2": ("Mamba2", {**STATE, "num_heads": 4, "head_dim": 32, "n_groups": 1, "chunk_size": 16}),
    "falcon_h1": ("FalconH1", {**SIZE, **SSM, "mamba_d_ssm": 64, "mamba_d_head": 16, "mamba_chunk_size": 16}),
    "jamba": ("Jamba", {
        **SIZE, "num_experts": 4, "num_experts_per_tok": 2, "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    }),
    "bamba": ("Bamba", {**SIZE, **SSM, "attn_layer_indices": [1], "mamba_chunk_size": 16}),
    "zamba2": ("Zamba2", {
        **SIZE, "mamba_d_state": 8, "mamba_ngroups": 1, "n_mamba_heads": 4, "mamba_headdim": 32, "num_mem_blocks": 1,
        "layers_block_type": ["mamba", "hybrid"], "chunk_size": 16,
    }),
    "recurrent_gemma": ("RecurrentGemma", {
        **SIZE, "num_hidden_layers": 3, "lru_width": 64, "attention_window_size": 512,
    }),
    "lfm2": ("Lfm2", {**SIZE, "block_ff_dim": 96, "layer_types": ["conv", "full_attention"]}),
    "minimax": ("MiniMax", {
        **SIZE, **LOCAL, "block_size": 16, "layer_types": ["linear_attention", "full_attention"],
    }),
    "rwkv": ("Rwkv", {
        "hidden_size": 64, "attention_hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "context_length": 1024, "rescale_every": 1,
    }),
}  # fmt: skip

WRONG_IN_BATCHES = {"minimax", "rwkv"}
"""Of which ``generate`` samples from something else when prompts of several lengths stand in one batch."""


def family_model(name: str, seed: int = 0, rows: int = 10) -> transformers.PreTrainedModel:
    """A random model of that family, float32, in evaluation mode, whose logits are of order one."""
    kind, settings = FAMILIES[name]
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tiny_tokenizer()) + rows, pad_token_id=SPECIAL.index("<pad>"), bos_token_id=None,
        eos_token_id=SPECIAL.index("<|im_end|>"), **settings,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return model


def family_folder(path: Path, name: str, rows: int = 10) -> Path:
    """Such a model and the tests' tokenizer, saved to ``path``."""
    family_model(name, rows=rows).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path
