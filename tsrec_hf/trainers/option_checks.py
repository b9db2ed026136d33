"""
What becomes of every option of TRL's and transformers' settings: the trainers use it, hand it on, or refuse it.

A test walks the options of both classes, so that a new one is noticed: read what it does, then enter it here.
"""

import dataclasses
from typing import Any


# Read by the code of the trainers, or by what they override of TRL.
USED = frozenset(
    """
    beta dataset_num_proc freeze_backbone generation_batch_size gradient_accumulation_steps hub_model_id
    label_smoothing_factor load_best_model_at_end loss_type max_length multi_objective_aggregation num_generations
    num_generations_eval num_iterations output_dir packing padding_free pad_to_multiple_of
    per_device_eval_batch_size per_device_train_batch_size push_to_hub resume_from_checkpoint reward_weights
    save_only_model save_total_limit scale_rewards seed steps_per_generation temperature top_entropy_quantile use_cpu
    weight_decay dataloader_drop_last max_steps num_train_epochs eval_strategy save_strategy hub_strategy
    mask_truncated_completions
    """.split()
)
# Handed on: they mean what TRL, transformers and accelerate say.
DELEGATED = frozenset(
    """
    accelerator_config activation_checkpointing activation_checkpointing_kwargs activation_offloading adam_beta1
    adam_beta2 adam_epsilon auto_find_batch_size average_tokens_across_devices batch_eval_metrics bf16 bf16_full_eval
    data_seed dataloader_in_order dataloader_multiprocessing_context dataloader_num_workers
    dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers
    ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout debug deepspeed delta disable_dropout
    disable_tqdm do_eval do_predict do_train enable_jit_checkpoint entropy_coef entropy_coef_delta entropy_coef_max
    entropy_coef_min entropy_target epsilon epsilon_high eval_accumulation_steps eval_delay eval_do_concat_batches
    eval_on_start eval_steps eval_use_gather_object fp16 fp16_full_eval fsdp fsdp_config full_determinism
    gradient_checkpointing gradient_checkpointing_kwargs greater_is_better hub_always_push hub_private_repo
    hub_revision hub_token ignore_data_skip importance_sampling_level include_for_metrics
    include_num_input_tokens_seen label_names learning_rate length_column_name local_rank log_completions
    log_completions_hub_repo log_level log_level_replica log_multimodal log_on_each_node log_unique_prompts
    logging_first_step logging_nan_inf_filter logging_steps logging_strategy lr_scheduler_kwargs lr_scheduler_type
    max_grad_norm metric_for_best_model model_init_kwargs neftune_noise_alpha num_completions_to_print
    off_policy_mask_threshold optim optim_args optim_target_modules parallelism_config prediction_loss_only project
    ref_model_mixup_alpha ref_model_sync_steps remove_unused_columns report_to
    restore_callback_states_from_checkpoint router_aux_loss_coef run_name sapo_temperature_neg sapo_temperature_pos
    save_on_each_node save_steps shuffle_dataset skip_memory_metrics sync_ref_model tf32 torch_compile
    torch_compile_backend torch_compile_mode torch_empty_cache_steps trackio_bucket_id trackio_space_id
    trackio_static_space_id train_sampling_strategy trust_remote_code use_adaptive_entropy use_bias_correction_kl
    use_cache vespo_k_neg vespo_k_pos vespo_lambda_neg vespo_lambda_pos warmup_steps
    """.split()
)

_SEARCH = "completions are SIDs of equal length that the constrained tree search finds"
_STEERED = f"{_SEARCH}, which `rollout`, `scoring` and `temperature` steer"
_TOKENIZER = "the recommender's tokenizer decides it"
_ROWS = "rows come tokenised, with their labels"
_KERNELS = "its kernels are made for classes of models that a recommender is none of"
# Refused at any value but the default, and why.
REFUSED_BY_ALL = {"use_liger_kernel": _KERNELS, "liger_kernel_config": _KERNELS}
REFUSED_BY_SFT = REFUSED_BY_ALL | {
    "assistant_only_loss": _ROWS,
    "chat_template_path": _TOKENIZER,
    "completion_only_loss": _ROWS,
    "dataset_kwargs": _ROWS,
    "dataset_text_field": _ROWS,
    "eos_token": _TOKENIZER,
    "eval_packing": "packed batches drop the rows' tasks and positions",
    "packing_strategy": "packed batches drop the rows' tasks and positions",
    "pad_token": _TOKENIZER,
    "truncation_mode": "long rows lose their oldest items, whole",
}
REFUSED_BY_GRPO = REFUSED_BY_ALL | {
    "auto_find_batch_size": "a smaller batch would split groups",
    "cache_implementation": _SEARCH,
    "cast_lm_head_to_fp32": "TRL looks for a head that a recommender keeps in its backbone",
    "chat_template_kwargs": "prompts are no conversations",
    "ds3_gather_for_generation": _SEARCH,
    "generation_kwargs": _STEERED,
    "max_tool_calling_iterations": _SEARCH,
    "min_p": _STEERED,
    "repetition_penalty": _STEERED,
    "top_k": _STEERED,
    "top_p": _STEERED,
    "train_sampling_strategy": "TRL takes prompts in an order of its own, which `shuffle_dataset` and `seed` steer",
    "transformers_continuous_batching_config": _SEARCH,
    "use_transformers_continuous_batching": _SEARCH,
    "use_transformers_paged": _SEARCH,
    "use_vllm": _SEARCH,
    **{
        f"vllm_{name}": _SEARCH
        for name in """
        enable_sleep_mode gpu_memory_utilization group_port importance_sampling_cap importance_sampling_clip_max
        importance_sampling_clip_min importance_sampling_correction importance_sampling_mode max_model_length mode
        model_impl server_base_url server_host server_port server_timeout structured_outputs_regex
        tensor_parallel_size
        """.split()
    },
}
# Set by the trainer, whatever was asked for: a SID has as many tokens as the index has levels.
SET_BY_GRPO = frozenset({"max_completion_length"})


def check_options(args: Any, refused: dict[str, str]) -> None:
    """Raises `ValueError` for an option that does not apply, by its name; before TRL fills any in."""
    for field in dataclasses.fields(args):
        value = getattr(args, field.name)
        if field.name in refused and value != field.default:
            raise ValueError(
                f"`{field.name}`={value} does not apply: {refused[field.name]}. Leave it at its default, "
                f"{field.default}."
            )
