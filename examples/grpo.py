"""
Train a recommender further by reinforcement learning (GRPO), after SFT, on a catalogue in MiniOneRec's layout.

    python examples/grpo.py --config examples/configs/grpo_industrial.yaml \
        --data_dir amazon/Industrial_and_Scientific --model_name_or_path outputs/sft

`--rewards` names what is rewarded, `--reward_weights` how much each counts. On a GPU,
`examples/configs/grpo_gpu.yaml` holds the paper's settings. Several processes: put `accelerate launch` in the place of
`python`; on a CPU with `--config_file examples/configs/accelerate_two_cpus.yaml`.
"""

import json
import logging
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from datasets import Dataset
from transformers import set_seed
from trl import ModelConfig, TrlParser, get_peft_config

from tsrec_hf import (
    TokenSemantics,
    TSRecForCausalLM,
    TSRecGRPOConfig,
    TSRecGRPOTrainer,
    TSRecTokenizer,
    build_grpo_rows,
    collaborative_reward,
    description_similarities,
    exact_match_reward,
    load_minionerec,
    prefix_reward,
    ranking_reward,
    semantic_reward,
)
from tsrec_hf.sids import mean_pooled_embeddings


REWARDS = ("exact_match", "ranking", "prefix", "semantic", "collaborative")


@dataclass
class ScriptArguments:
    """What to train on, and for what."""

    data_dir: str = field(
        metadata={"help": "Folder in MiniOneRec's layout: train.csv, valid.csv, test.csv, index.json, item.json."}
    )
    rewards: list[str] = field(
        default_factory=lambda: ["exact_match", "ranking"], metadata={"help": f"Some of {REWARDS}."}
    )
    semantics_file: str | None = field(
        default=None,
        metadata={"help": "Descriptions for the semantic reward; default: description_keywords.json in `data_dir`."},
    )
    max_rows: int | None = field(default=None, metadata={"help": "Training rows to draw; default: all."})

    def __post_init__(self):
        unknown = sorted(set(self.rewards) - set(REWARDS))
        if unknown or not self.rewards:
            raise ValueError(f"Expected `--rewards` to be some of {REWARDS}, but found {unknown or self.rewards}.")


def co_occurrence(rows: Dataset) -> dict[str, dict[str, float]]:
    """For each item, how often others were chosen by those who chose it, as a share of its own choices."""
    together, times = defaultdict(Counter), Counter()
    for history, target in zip(rows["history"][:], rows["target"][:]):
        times[target] += 1
        together[target].update(set(history) - {target})
    return {
        target: {target: 1.0, **{item: count / times[target] for item, count in counts.items()}}
        for target, counts in together.items()
    }


def make_rewards(script_args: ScriptArguments, dataset, model: TSRecForCausalLM, tokenizer: TSRecTokenizer) -> list:
    """The reward functions, in the order of their names."""
    rewards = {"exact_match": exact_match_reward, "ranking": ranking_reward}
    rewards["prefix"] = partial(prefix_reward, per_level=True)
    if "semantic" in script_args.rewards:
        path = script_args.semantics_file or Path(script_args.data_dir) / "description_keywords.json"
        similarities = description_similarities(
            TokenSemantics.from_json(path), tokenizer.sid_index, partial(mean_pooled_embeddings, model, tokenizer)
        )
        rewards["semantic"] = partial(semantic_reward, similarities=similarities)
    if "collaborative" in script_args.rewards:
        rewards["collaborative"] = partial(collaborative_reward, table=co_occurrence(dataset.train))
    return [rewards[name] for name in script_args.rewards]


def main(script_args: ScriptArguments, training_args: TSRecGRPOConfig, model_args: ModelConfig) -> None:
    set_seed(training_args.seed)
    dataset = load_minionerec(script_args.data_dir)
    name = model_args.model_name_or_path
    tokenizer = TSRecTokenizer.from_pretrained(name, revision=model_args.model_revision)
    if not dataset.sid_index.fits(tokenizer.sid_index.fingerprint):
        raise ValueError(
            f"The checkpoint {name!r} holds {tokenizer.sid_index}, but the data have another index: "
            f"{dataset.sid_index}. Train on the catalogue of the checkpoint."
        )
    model = TSRecForCausalLM.from_pretrained(
        name,
        revision=model_args.model_revision,
        dtype=model_args.dtype or "float32",
        attn_implementation=model_args.attn_implementation,
    )
    train = dataset.train
    if script_args.max_rows is not None and script_args.max_rows < len(train):
        train = train.shuffle(seed=training_args.seed).select(range(script_args.max_rows)).flatten_indices()
    rewards = make_rewards(script_args, dataset, model, tokenizer)
    trainer = TSRecGRPOTrainer(
        model=model,
        reward_funcs=rewards,
        args=training_args,
        train_dataset=build_grpo_rows(train, tokenizer, model.config.max_history),
        eval_interactions=dataset.valid,
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
    )
    if trainer.is_world_process_zero():
        weights = dict(zip(script_args.rewards, trainer.reward_weights.tolist()))
        print(f"{dataset}\nseed: {training_args.seed}; prompts: {len(train):,}; rewards: {weights}")
        print(
            f"rollout: {training_args.rollout}, {training_args.num_generations} a prompt; scoring: "
            f"{training_args.scoring}; shared prefix: {training_args.shared_prefix}; advantages: "
            f"{training_args.advantage_level}; beta: {training_args.beta}; dynamic sampling: "
            f"{training_args.dynamic_sampling}"
        )
    before = trainer.evaluate(metric_key_prefix="start")
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    metrics = {**before, **trainer.evaluate()}
    trainer.save_model(training_args.output_dir)
    if trainer.is_world_process_zero():
        Path(training_args.output_dir, "metrics.json").write_text(json.dumps(metrics, indent=1))
        print(json.dumps(metrics, indent=1))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    parser = TrlParser((ScriptArguments, TSRecGRPOConfig, ModelConfig))
    main(*parser.parse_args_and_config())
