"""Tiny configurations of the causal language models of transformers, made by rule from the defaults of each."""

from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


# Sizes by the names that families give them.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "model_dim", "attention_hidden_size"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim", "encoder_ffn_dim", "d_ff"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_dim", "dim_ff"), 32),
    **dict.fromkeys(("dff", "ffn_hidden_size", "shared_intermediate_size", "mlp_hidden_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "num_decoder_attention_heads", "num_encoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_global_key_value_heads", "multi_query_groups"), 2),
    **dict.fromkeys(("head_dim", "dim_head", "v_head_dim", "qk_nope_head_dim", "global_head_dim"), 8),
    "qk_rope_head_dim": 8,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "context_length"), 512),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "n_shared_experts", "num_shared_experts"), 1),
    **dict.fromkeys(("n_group", "num_expert_group", "topk_group"), 1),
    # Shorter than the prompts.
    **dict.fromkeys(("sliding_window", "window_size", "attention_window_size"), 12),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("linear_num_value_heads", "linear_num_key_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    "lru_width": 32,
    "max_window_layers": 1,
    "use_sliding_window": True,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": None,  # that of the vocabulary
    "pad_token_id": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Attention over latent vectors has as many keys as queries.
LATENT = {"num_key_value_heads": 4}
# What the rules above do not get right.
FAMILIES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "bailing_hybrid", "deepseek_v2", "deepseek_v3", "deepseek_v32"), LATENT),
    **dict.fromkeys(("glm4_moe_lite", "glm_moe_dsa", "minicpm3", "sarvam_mla", "youtu"), LATENT),
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1},
    "bert": {"is_decoder": True},
    "bert-generation": {"is_decoder": True},
    "big_bird": {"is_decoder": True, "attention_type": "original_full"},
    "codegen": {"rotary_dim": 8},
    "camembert": {"is_decoder": True},
    "data2vec-text": {"is_decoder": True},
    "electra": {"is_decoder": True, "embedding_size": 32},
    "ernie": {"is_decoder": True},
    "megatron-bert": {"is_decoder": True},
    "rembert": {"is_decoder": True, "input_embedding_size": 32, "output_embedding_size": 32},
    "roberta": {"is_decoder": True},
    "roberta-prelayernorm": {"is_decoder": True},
    "roc_bert": {"is_decoder": True},
    "roformer": {"is_decoder": True, "embedding_size": 32},
    "xlm-roberta": {"is_decoder": True},
    "xlm-roberta-xl": {"is_decoder": True},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1},
    "falcon_mamba": {"time_step_rank": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"],
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_n_groups": 1,
    },
    "gptj": {"rotary_dim": 8},
    "gpt_oss": {"layer_types": ["sliding_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "kimi_linear": {**LATENT, "linear_head_dim": 8, "linear_num_heads": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba": {"time_step_rank": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "minimax": {"layer_types": ["linear_attention", "full_attention"]},
    "mpt": {"expansion_ratio": 2},
    "nemotron_h": {
        "hybrid_override_pattern": "M*",
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "n_groups": 1,
    },
    "olmo_hybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "dory": {"num_hidden_layers": 4, "n_input_layers": 1, "n_output_layers": 1, "layer_types": None},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_5_moe_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "xlstm": {"num_heads": 4, "chunk_size": 8, "head_dim": None},
}
# Decoders of images, sound or of an encoder's output, and other models that write no text by themselves.
NO_LANGUAGE_MODELS = ("blenderbot", "bigbird_pegasus", "trocr", "whisper")


def tiny_config(model_type: str, vocab_size: int) -> PreTrainedConfig:
    """
    A tiny configuration of a family of models.

    Args:
        model_type (`str`):
            A key of transformers' mapping for causal language models.
        vocab_size (`int`):
            Size of the vocabulary.
    """
    kind = CONFIG_MAPPING[model_type]
    defaults = kind().to_dict()
    settings = {name: value for name, value in SIZES.items() if name in defaults}
    settings |= {name: vocab_size for name in ("vocab_size", "vocab_size_per_layer_input") if name in defaults}
    # Dropout would tell a policy from its reference.
    settings |= {name: 0.0 for name, value in defaults.items() if "drop" in name and isinstance(value, float)}
    for name in ("layer_types", "mlp_layer_types"):
        # The first kinds, in their order.
        if name not in FAMILIES.get(model_type, {}) and defaults.get(name):
            settings[name] = sorted(set(defaults[name]), key=defaults[name].index)[:2] * 2
            settings[name] = settings[name][:2]
    return kind(**settings | FAMILIES.get(model_type, {}))


def model_types() -> list[str]:
    """All families of causal language models."""
    return sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(NO_LANGUAGE_MODELS))
