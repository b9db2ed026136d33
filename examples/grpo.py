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
that folder, in the place of `python`. An interrupted run goes on with
`--resume_from_checkpoint outputs/grpo/checkpoint-50`.
"""

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from datasets import Dataset
from transformers import AutoConfig, set_seed
from transformers.utils import find_adapter_config_file
from trl import ModelConfig, TrlParser

from tsrec_hf import (
    RecommendationDataset,
    TokenSemantics,
    TSRecForCausalLM,
    TSRecGRPOConfig,
    TSRecGRPOTrainer,
    TSRecTokenizer,
    build_grpo_rows,
    collaborative_reward,
    description_similarities,
    exact_match_reward,
    open_dataset,
    prefix_reward,
    ranking_reward,
    semantic_reward,
)
from tsrec_hf.sids import mean_pooled_embeddings
from tsrec_hf.trainers import load_recommender, lora_config, quantize


SEMANTICS_FILE = "description_keywords.json"
REWARDS = ("exact_match", "ranking", "prefix", "semantic", "collaborative")


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

    def __post_init__(self):
        unknown = [name for name in self.rewards if name not in REWARDS]
        if unknown or len(set(self.rewards)) < len(self.rewards) or not self.rewards:
            raise ValueError(f"Expected `rewards` among {REWARDS}, each once, but found {self.rewards}.")


def load_model(model_args: ModelConfig, dataset: RecommendationDataset) -> tuple[TSRecForCausalLM, TSRecTokenizer]:
    """The recommender that is trained on, which must know the catalogue of the data."""
    name, source = model_args.model_name_or_path, {"revision": model_args.model_revision}
    if find_adapter_config_file(name, **source) is None:
        model_type = AutoConfig.from_pretrained(name, **source).model_type
        if model_type != "tsrec":
            raise ValueError(
                f"Expected a recommender after SFT, but {name!r} is a model of type {model_type!r}. Fine-tune it by "
                "`examples/sft.py` and pass the folder that it writes."
            )
    loading = {"dtype": model_args.dtype or "float32", "attn_implementation": model_args.attn_implementation}
    model, tokenizer = load_recommender(name, **source, **loading)
    if tokenizer.sid_index.fingerprint != dataset.sid_index.fingerprint:
        raise ValueError(
            f"The checkpoint {name!r} holds {tokenizer.sid_index}, but the data have another index: "
            f"{dataset.sid_index}. Pass the data that the checkpoint was trained on."
        )
    return model, tokenizer


def companions(train: Dataset) -> dict[str, dict[str, float]]:
    """
    How well items go together, `[target][item]` from 0 to 1: how many rows with this target have the item in their
    history, over the number for the item that has most; 1 for the target itself.
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for history, target in zip(train["history"][:], train["target"][:]):
        counts[target].update(set(history) - {target})
    return {
        target: {item: count / max(beside.values()) for item, count in beside.items()} | {target: 1.0}
        for target, beside in counts.items()
    }


def semantics_path(script_args: ScriptArguments) -> Path:
    return Path(script_args.semantics_file or Path(script_args.data_dir) / SEMANTICS_FILE)


def make_rewards(
    script_args: ScriptArguments,
    training_args: TSRecGRPOConfig,
    dataset: RecommendationDataset,
    model: TSRecForCausalLM,
    tokenizer: TSRecTokenizer,
) -> list[Callable]:
    """The reward functions by their names, with what they look things up in."""
    # Levels are told apart only where tokens have advantages of their own; else a completion gets their sum.
    levels = {"level_weights": script_args.level_weights, "per_level": training_args.advantage_level == "token"}
    functions: dict[str, Callable] = {
        "exact_match": exact_match_reward,
        "ranking": ranking_reward,
        "prefix": partial(prefix_reward, **levels),
    }
    if "semantic" in script_args.rewards:
        semantics = TokenSemantics.from_json(semantics_path(script_args))
        model.to(training_args.device)
        embed = partial(mean_pooled_embeddings, model, tokenizer)
        similarities = description_similarities(semantics, tokenizer.sid_index, embed)
        functions["semantic"] = partial(semantic_reward, similarities=similarities, **levels)
    if "collaborative" in script_args.rewards:
        functions["collaborative"] = partial(collaborative_reward, table=companions(dataset.train))
    return [functions[name] for name in script_args.rewards]


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
    model, tokenizer = load_model(model_args, dataset)
    if training_args.process_index == 0:
        print(dataset)
        print_settings(script_args, training_args)
    rewards = make_rewards(script_args, training_args, dataset, model, tokenizer)
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
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero() and semantics_path(script_args).is_file():
        # What the tokens mean goes where the recommender goes.
        TokenSemantics.from_json(semantics_path(script_args)).to_json(Path(training_args.output_dir, SEMANTICS_FILE))
    trainer.save_model(training_args.output_dir)
    if trainer.is_world_process_zero():
        Path(training_args.output_dir, "metrics.json").write_text(json.dumps(metrics, indent=1))
        print(json.dumps(metrics, indent=1))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    parser = TrlParser((ScriptArguments, TSRecGRPOConfig, ModelConfig))
    main(*parser.parse_args_and_config())
