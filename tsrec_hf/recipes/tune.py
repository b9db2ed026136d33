"""Reinforcement learning (GRPO) of a fine-tuned recommender on a prepared catalogue."""

import json
from functools import partial
from pathlib import Path

from transformers import set_seed
from trl import ModelConfig

from tsrec_hf.data import build_grpo_rows
from tsrec_hf.evaluation import ndcg_at_k, paired_bootstrap
from tsrec_hf.hub import load_recommender
from tsrec_hf.hub.results import results_text
from tsrec_hf.models.replacing_tsrec import write_text
from tsrec_hf.rewards import rewards_by_name
from tsrec_hf.semantics import TokenSemantics
from tsrec_hf.sids import mean_pooled_embeddings
from tsrec_hf.trainers import ProgressBarCallback, TSRecGRPOConfig, TSRecGRPOTrainer, lora_config, quantize
from tsrec_hf.trainers.recommendation_metrics import RecommendationMetrics

from .indexed import open_indexed
from .options import SEMANTICS_FILE, TuneOptions


def semantics_path(script_args: TuneOptions) -> Path:
    return Path(script_args.semantics_file or Path(script_args.data_dir) / SEMANTICS_FILE)


def print_settings(script_args: TuneOptions, args: TSRecGRPOConfig) -> None:
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


def compare_with_start(found: RecommendationMetrics, step: int) -> str:
    """What training changed for the validation users: rewards may rise while lists get worse."""
    changed = paired_bootstrap(found.ranks[step], found.ranks[0])
    before, after = (ndcg_at_k(found.ranks[one], 10).item() for one in (0, step))
    advice = "The lists got worse: keep the recommender you started from. " if changed.high < 0 else ""
    return (
        f"NDCG@10 of {len(found.ranks[0])} validation users: {before:.4f} at the start, {after:.4f} now, difference "
        f"{changed.difference:+.4f} [{changed.low:+.4f}, {changed.high:+.4f}] over users. {advice}".rstrip()
    )


def main(script_args: TuneOptions, training_args: TSRecGRPOConfig, model_args: ModelConfig) -> None:
    set_seed(training_args.seed)
    if training_args.eval_num_users:
        training_args.eval_on_start = True
    dataset, index = open_indexed(script_args.data_dir)
    folder = str(training_args.output_dir)
    model, tokenizer = load_recommender(
        str(model_args.model_name_or_path),
        model_args.model_revision,
        index,
        dtype=model_args.dtype or "float32",
        attn_implementation=model_args.attn_implementation,
    )
    if training_args.process_index == 0:
        print(dataset)
        print_settings(script_args, training_args)
    semantics = None
    if "semantic" in script_args.rewards:
        semantics = TokenSemantics.from_json(semantics_path(script_args))
        # It embeds the descriptions.
        model.to(training_args.device)  # type: ignore[arg-type]  # a decorator of transformers hides what it takes
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
    if not training_args.disable_tqdm:
        ProgressBarCallback().replace_in(trainer)
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    if trainer.is_world_process_zero() and semantics_path(script_args).is_file():
        # What the tokens mean goes where the recommender goes.
        TokenSemantics.from_json(semantics_path(script_args)).to_json(Path(folder, SEMANTICS_FILE))
    # First: whatever the evaluation does, what was trained stays.
    trainer.save_model(folder)
    metrics = trainer.evaluate() if training_args.eval_num_users else {}
    trainer.create_model_card()  # with its figures
    if training_args.push_to_hub:
        trainer.push_to_hub()
    if trainer.is_world_process_zero():
        write_text(Path(folder, "metrics.json"), json.dumps(metrics, indent=1))
        print("\n\n".join(map(results_text, trainer.card.evaluation(trainer.recommendation_metrics))))
        found = trainer.recommendation_metrics
        # A run that went on has not seen its start.
        if isinstance(found, RecommendationMetrics) and 0 in found.ranks:
            print(compare_with_start(found, trainer.state.global_step))
        reward = f"eval_reward {metrics['eval_reward']:.4f}. " if metrics else ""
        print(f"{reward}Recommender, card, plots and metrics: {folder}")
