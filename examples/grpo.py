"""
Reinforcement learning of a fine-tuned recommender on a prepared catalogue.

On two CPU cores, from a checkpoint that `examples/sft.py` wrote:

    python examples/grpo.py --config examples/configs/grpo_industrial.yaml \
        --data_dir amazon/Industrial_and_Scientific --model_name_or_path outputs/sft

`--rewards exact_match ranking --reward_weights 1.0 0.5` chooses and weighs the rewards, and `--advantage_level token`
gives every token its own advantage where a reward has levels. `--dynamic_sampling true` draws other prompts in the
place of those whose completions are all rewarded alike, and logs how many were drawn. On a GPU
`examples/configs/grpo_gpu.yaml` holds the paper's settings.

`--use_peft`, `--load_in_4bit`, `--freeze_backbone` and `--optim adamw_8bit` mean what they mean in `examples/sft.py`;
the reference of LoRA is the recommender without it. An adapter that `examples/sft.py` wrote is merged first.

Several processes: put `accelerate launch --config_file examples/accelerate_configs/two_cpus.yaml`, or another file of
that folder, in the place of `python`. An interrupted run goes on with `--resume_from_checkpoint last`, from the newest
whole checkpoint, or with the folder of another one. The catalogue may have grown since the recommender was
fine-tuned, by `build_sids.py --extend_dir`.
"""

import json
import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from transformers import set_seed
from trl import ModelConfig, TrlParser

from tsrec_hf import (
    TokenSemantics,
    TSRecGRPOConfig,
    TSRecGRPOTrainer,
    build_grpo_rows,
    load_recommender,
    open_dataset,
)
from tsrec_hf.models.replacing_tsrec import write_text
from tsrec_hf.rewards import REWARDS, rewards_by_name
from tsrec_hf.sids import mean_pooled_embeddings
from tsrec_hf.trainers import lora_config, quantize


SEMANTICS_FILE = "description_keywords.json"


@dataclass
class ScriptArguments:
    """What to train on, and what is rewarded."""

    data_dir: str = field(metadata={"help": "Folder of `build_sids.py`, or one in MiniOneRec's layout."})
    semantics_file: str | None = field(
        default=None,
        metadata={
            "help": "Descriptions of the SID tokens, for the reward 'semantic'; default: description_keywords.json in "
            "`data_dir`."
        },
    )
    rewards: list[str] = field(
        default_factory=lambda: ["exact_match", "ranking"],
        metadata={"help": f"Some of {', '.join(REWARDS)}; weighed by `reward_weights`."},
    )
    level_weights: list[float] | None = field(
        default=None, metadata={"help": "Weights of the levels in 'prefix' and 'semantic'; default: equal ones."}
    )


def semantics_path(script_args: ScriptArguments) -> Path:
    return Path(script_args.semantics_file or Path(script_args.data_dir) / SEMANTICS_FILE)


def print_settings(script_args: ScriptArguments, args: TSRecGRPOConfig) -> None:
    """What is on."""
    weights = args.reward_weights or [1.0] * len(script_args.rewards)
    settings = {
        "rewards": ", ".join(f"{weight:g} {name}" for weight, name in zip(weights, script_args.rewards)),
        "rollout": f"{args.rollout}, {args.num_generations} SIDs a prompt, temperature {args.temperature:g}",
        "scoring": args.scoring,
        "advantages": f"of a {args.advantage_level}, scaled by {args.scale_rewards}",
        "one pass a group": "yes" if args.shared_prefix else "no",
        "dynamic sampling": f"at most {args.dynamic_sampling_max_draws} draws" if args.dynamic_sampling else "off",
        "KL to the reference": f"beta {args.beta:g}, reference {'synchronised' if args.sync_ref_model else 'fixed'}",
        "seed": args.seed,
    }
    print("\n".join(f"{name}: {value}" for name, value in settings.items()), flush=True)


def main(script_args: ScriptArguments, training_args: TSRecGRPOConfig, model_args: ModelConfig) -> None:
    set_seed(training_args.seed)
    dataset = open_dataset(script_args.data_dir)
    model, tokenizer = load_recommender(
        model_args.model_name_or_path,
        model_args.model_revision,
        dataset.sid_index,
        dtype=model_args.dtype or "float32",
        attn_implementation=model_args.attn_implementation,
    )
    if training_args.process_index == 0:
        print(dataset)
        print_settings(script_args, training_args)
    semantics = None
    if "semantic" in script_args.rewards:
        semantics = TokenSemantics.from_json(semantics_path(script_args))
        model.to(training_args.device)  # it embeds the descriptions
    rewards = rewards_by_name(
        script_args.rewards,
        script_args.level_weights,
        # Levels are told apart only where tokens have advantages of their own; else a completion gets their sum.
        per_level=training_args.advantage_level == "token",
        sid_index=tokenizer.sid_index,
        semantics=semantics,
        embed=partial(mean_pooled_embeddings, model, tokenizer),
        train=dataset.train,
    )
    peft_config = lora_config(model, tokenizer, model_args)
    trainer = TSRecGRPOTrainer(
        model=quantize(model, tokenizer, model_args, training_args),
        reward_funcs=rewards,
        args=training_args,
        train_dataset=build_grpo_rows(dataset.train, tokenizer),
        eval_interactions=dataset.valid,
        processing_class=tokenizer,
        peft_config=peft_config,
        card_facts={"dataset": dataset},
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    if trainer.is_world_process_zero() and semantics_path(script_args).is_file():
        # What the tokens mean goes where the recommender goes.
        TokenSemantics.from_json(semantics_path(script_args)).to_json(Path(training_args.output_dir, SEMANTICS_FILE))
    # First: whatever the evaluation does, what was trained stays.
    trainer.save_model(training_args.output_dir)
    metrics = trainer.evaluate()
    trainer.create_model_card()  # with its figures
    if training_args.push_to_hub:
        trainer.push_to_hub()
    if trainer.is_world_process_zero():
        write_text(Path(training_args.output_dir, "metrics.json"), json.dumps(metrics, indent=1))
        print(json.dumps(metrics, indent=1))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    parser = TrlParser((ScriptArguments, TSRecGRPOConfig, ModelConfig))
    main(*parser.parse_args_and_config())
