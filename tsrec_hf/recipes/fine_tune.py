"""Supervised fine-tuning of a recommender on a prepared catalogue."""

import json
from pathlib import Path

from transformers import EarlyStoppingCallback, set_seed
from trl import ModelConfig

from tsrec_hf.data import build_sft_mixture
from tsrec_hf.data.text_length import text_tokens_of
from tsrec_hf.hub import load_or_start_recommender
from tsrec_hf.hub.results import results_text
from tsrec_hf.models.replacing_tsrec import write_text
from tsrec_hf.semantics import TokenSemantics
from tsrec_hf.trainers import (
    ProgressBarCallback,
    TSRecSFTConfig,
    TSRecSFTTrainer,
    ground_sid_rows,
    lora_config,
    quantize,
    save_base,
)

from .indexed import open_indexed
from .options import SEMANTICS_FILE, FineTuneOptions


def load_semantics(script_args: FineTuneOptions) -> TokenSemantics | None:
    if script_args.semantics_file == "none":
        return None
    return TokenSemantics.from_json(script_args.semantics_file or Path(script_args.data_dir) / SEMANTICS_FILE)


def main(script_args: FineTuneOptions, training_args: TSRecSFTConfig, model_args: ModelConfig) -> None:
    set_seed(training_args.seed)
    dataset, index = open_indexed(script_args.data_dir)
    folder = str(training_args.output_dir)
    first = training_args.process_index == 0  # the others say nothing twice
    if first:
        print(f"{dataset}\nseed: {training_args.seed}")
    semantics = load_semantics(script_args)
    model, tokenizer = load_or_start_recommender(
        str(model_args.model_name_or_path),
        index,
        semantics,
        script_args.sa_init_kwargs(),
        max_history=dataset.max_history or 10,
        revision=model_args.model_revision,
        gguf_file=script_args.gguf_file,
        existing_tokens=script_args.existing_tokens,
        dtype=model_args.dtype or "float32",
        attn_implementation=model_args.attn_implementation,
    )

    # Titles and descriptions have no validation rows of their own: the training ones hold them all.
    validated = [task for task in script_args.tasks if task in ("sequence", "history_title")]
    mixture = {name: getattr(script_args, name) for name in ("sequence_mode", "targets_per_stretch")} | {
        "weights": script_args.mixture_weights
    }
    if training_args.max_length is not None:
        mixture["max_text_tokens"] = text_tokens_of(training_args.max_length)
    train_rows = build_sft_mixture(dataset, semantics, tokenizer, tasks=script_args.tasks, **mixture)
    valid_rows = build_sft_mixture(
        dataset, semantics, tokenizer, tasks=validated or script_args.tasks, split="valid", **mixture
    )
    patience = script_args.early_stopping_patience
    if script_args.grounding_epochs != 0 and training_args.resume_from_checkpoint is None:
        if semantics is None:
            raise ValueError("Expected descriptions for the grounding stage, but found none. Pass `--semantics_file`.")
        epochs, learning_rate = script_args.grounding_epochs, script_args.grounding_learning_rate
        ground_sid_rows(model, tokenizer, semantics, training_args, epochs, learning_rate)
        if model_args.use_peft:
            save_base(model, tokenizer, training_args)  # no checkpoint holds the rows as they are now
    peft_config = lora_config(model, tokenizer, model_args)
    trainer = TSRecSFTTrainer(
        model=quantize(model, tokenizer, model_args, training_args),
        args=training_args,
        train_dataset=train_rows,
        eval_dataset=valid_rows,
        eval_interactions=dataset.valid,
        processing_class=tokenizer,
        callbacks=[] if patience is None else [EarlyStoppingCallback(patience)],
        peft_config=peft_config,
        card_facts={"dataset": dataset, "sid_method": script_args.sid_method},
    )
    if not training_args.disable_tqdm:
        ProgressBarCallback().replace_in(trainer)
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    if semantics is not None and trainer.is_world_process_zero():
        # What the tokens mean goes where the recommender goes.
        semantics.to_json(Path(folder, SEMANTICS_FILE))
    # First: whatever the evaluation does, what was trained stays.
    trainer.save_model(folder)
    metrics = trainer.evaluate()
    trainer.create_model_card()  # with its figures
    if training_args.push_to_hub:
        trainer.push_to_hub()
    if first:
        write_text(Path(folder, "metrics.json"), json.dumps(metrics, indent=1))
        print("\n\n".join(map(results_text, trainer.card.evaluation(trainer.recommendation_metrics))))
        print(f"eval_loss {metrics['eval_loss']:.4f}. Recommender, card, plots and metrics: {folder}")
