"""
The private methods of TRL and transformers that the trainers override, in one list.

They are no promise of these libraries. A test compares each with its signature here and fails when a release changes
it: read the method anew, adapt our override, which `why` describes, and then the entry.
"""

from dataclasses import dataclass

from transformers import Trainer
from trl import GRPOTrainer, SFTTrainer


@dataclass(frozen=True)
class Hook:
    """
    A private method that a trainer overrides.

    Attributes:
        owner: The class of TRL or transformers that it is overridden of.
        name: Its name.
        parameters: Its parameters, without `self`.
        why: What our override does.
    """

    owner: type
    name: str
    parameters: tuple[str, ...]
    why: str


HOOKS = (
    Hook(
        Trainer,
        "_save",
        ("output_dir", "state_dict"),
        "base.py gives a model sharded by FSDP its own class back while its code is saved",
    ),
    Hook(
        Trainer,
        "_get_train_sampler",
        ("train_dataset",),
        "checkpointing.py draws the order by length anew for every pass, for runs that are resumed in a later one",
    ),
    Hook(
        Trainer,
        "_get_output_dir",
        ("trial",),
        "checkpointing.py names the folder of unfinished checkpoints while one is saved",
    ),
    Hook(
        Trainer,
        "_save_checkpoint",
        ("model", "trial"),
        "checkpointing.py saves into a folder of unfinished ones, renames what is whole, and rotates after that",
    ),
    Hook(
        Trainer,
        "_evaluate",
        ("trial", "ignore_keys_for_eval", "skip_scheduler"),
        "checkpointing.py saves the start that `eval_on_start` measured, and lets it be the best model",
    ),
    Hook(
        Trainer,
        "_push_from_checkpoint",
        ("checkpoint_folder",),
        "checkpointing.py pushes a checkpoint when it is whole, and copies the model's code beside its weights",
    ),
    Hook(
        Trainer,
        "_get_grad_norm",
        ("model", "grad_norm"),
        "finite.py stops before a step whose loss or gradient is no finite number",
    ),
    Hook(
        SFTTrainer,
        "_prepare_dataset",
        ("dataset", "processing_class", "args", "packing", "formatting_func", "dataset_name"),
        "sft_trainer.py drops the oldest items of long rows, where TRL would cut tokens",
    ),
    Hook(
        SFTTrainer,
        "_set_signature_columns_if_needed",
        (),
        "sft_trainer.py keeps the column `task` for the collator",
    ),
    Hook(
        GRPOTrainer,
        "_set_signature_columns_if_needed",
        (),
        "grpo_trainer.py keeps all columns for the rewards",
    ),
    Hook(
        GRPOTrainer,
        "_get_train_sampler",
        ("dataset",),
        "grpo_trainer.py fills the last generation batch of a pass up, where TRL drops its prompts",
    ),
    Hook(
        GRPOTrainer,
        "_tokenize_prompts",
        ("prompts",),
        "grpo_trainer.py encodes prompts without special tokens, since they hold the start token already",
    ),
    Hook(
        GRPOTrainer,
        "_generate_single_turn",
        ("prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images"),
        "grpo_trainer.py takes completions from the constrained tree search",
    ),
    Hook(
        GRPOTrainer,
        "_generate_and_score_completions",
        ("inputs",),
        "grpo_trainer.py draws groups with a signal before it, and makes advantages of tokens after it",
    ),
    Hook(
        GRPOTrainer,
        "_calculate_rewards",
        ("inputs", "prompts", "completions", "completion_ids_list"),
        "grpo_trainer.py keeps the rewards of each level, and logs hits",
    ),
    Hook(
        GRPOTrainer,
        "_prepare_inputs",
        ("generation_batch",),
        "grpo_trainer.py does as TRL does without the shuffle that scatters groups",
    ),
    Hook(
        GRPOTrainer,
        "_get_per_token_logps_and_entropies",
        ("model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy", "*"),
        "grpo_trainer.py runs the completions of a prompt in one forward pass; `*`: all else is passed on",
    ),
    Hook(
        GRPOTrainer,
        "_load_optimizer_and_scheduler",
        ("checkpoint",),
        "grpo_trainer.py restores the reference model",
    ),
)
