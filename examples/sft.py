"""
Fine-tune a recommender on a prepared catalogue.

On two CPU cores, one pass over the Industrial_and_Scientific sequences:

    python examples/sft.py --config examples/configs/sft_industrial.yaml \
        --data_dir amazon/Industrial_and_Scientific --model_name_or_path HuggingFaceTB/SmolLM2-135M

The whole mixture of TS-Rec, with a first stage that trains the SID rows alone on TS-Align, is
`--tasks all --grounding_epochs 2`; on a GPU `examples/configs/sft_gpu.yaml` holds the paper's settings.

`--freeze_backbone true` trains the SID rows and nothing else. `--use_peft --lora_r 16` trains LoRA and the SID rows;
`--load_in_4bit` (or `--load_in_8bit`) beside it is QLoRA, `--optim adamw_8bit` an optimiser with states of 8 bits. The
output folder is then an adapter, and `_base` in it the recommender that it belongs to.

Several processes: put `accelerate launch --config_file examples/accelerate_configs/two_cpus.yaml`, or another file of
that folder, in the place of `python`. An interrupted run goes on with `--resume_from_checkpoint last`, from the newest
whole checkpoint, or with the folder of another one. A catalogue that `build_sids.py --extend_dir` has grown takes the
recommender of the smaller one as `--model_name_or_path`.

A language model whose vocabulary holds the SID tokens already, as that of other recommenders and of exported ones, is
taken over with their rows by `--existing_tokens keep`, and then evaluated and rewarded as any recommender.
"""

import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import datasets
import transformers
from transformers import EarlyStoppingCallback, set_seed
from trl import ModelConfig, TrlParser

from tsrec_hf import (
    TokenSemantics,
    TSRecSFTConfig,
    TSRecSFTTrainer,
    build_sft_mixture,
    open_dataset,
)
from tsrec_hf.data import BUILT_IN_TASKS
from tsrec_hf.data.text_length import MAX_TEXT_TOKENS
from tsrec_hf.hub import load_or_start_recommender
from tsrec_hf.hub.results import results_text
from tsrec_hf.models.replacing_tsrec import write_text
from tsrec_hf.trainers import ground_sid_rows, lora_config, quantize, save_base


SEMANTICS_FILE = "description_keywords.json"


@dataclass
class ScriptArguments:
    """What to train on, and how the SID tokens start."""

    data_dir: str = field(metadata={"help": "Folder of `build_sids.py`, or one in MiniOneRec's layout."})
    semantics_file: str = field(
        default="",
        metadata={"help": f"Keywords of the SID tokens; default: {SEMANTICS_FILE} in `data_dir`; or 'none'."},
    )
    tasks: list[str] = field(
        default_factory=lambda: ["sequence"],
        metadata={"help": "'all', or some of 'sequence', 'title', 'history_title', 'alignment'."},
    )
    mixture_weights: dict | str | None = field(
        default=None,
        metadata={"help": """How often each task's rows occur, as JSON: '{"history_title": 0.1}'; 1 where absent."""},
    )
    grounding_epochs: float = field(
        default=0.0,
        metadata={"help": "Passes over TS-Align that train the SID rows alone, before everything is trained."},
    )
    grounding_learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of that stage."})
    existing_tokens: Literal["error", "keep"] = field(
        default="error",
        metadata={"help": "'keep' takes SID tokens over that the backbone has already, with their rows."},
    )
    gguf_file: str | None = field(default=None, metadata={"help": "File in `model_name_or_path`, for GGUF backbones."})
    sequence_mode: str = field(default="session", metadata={"help": "'session' (one row a user) or 'window'."})
    targets_per_stretch: int | None = field(
        default=None,
        metadata={"help": "Targets in each further session row of a long history; 1: each sees its whole history."},
    )
    pooling: str = field(default="idf", metadata={"help": "SA-Init: 'idf', or 'mean' as published."})
    center: bool = field(default=True, metadata={"help": "SA-Init: subtract the mean row; published: no."})
    norm: str = field(
        default="match_resize",
        metadata={"help": "SA-Init: 'match_resize', 'vocab_mean' as published, 'none', or a number."},
    )
    levels: int | None = field(default=None, metadata={"help": "SA-Init: levels to initialise; default: all."})
    shuffle_seed: int | None = field(default=None, metadata={"help": "SA-Init: control with permuted keywords."})
    sid_method: str | None = field(default=None, metadata={"help": "How the SIDs were made, for the model card."})
    early_stopping_patience: int | None = field(default=None, metadata={"help": "Evaluations without progress."})

    def __post_init__(self):
        self.tasks = list(BUILT_IN_TASKS) if self.tasks == ["all"] else self.tasks
        if isinstance(self.mixture_weights, str):
            self.mixture_weights = json.loads(self.mixture_weights)

    def sa_init_kwargs(self) -> dict:
        known = {"none": None, "vocab_mean": "vocab_mean", "match_resize": "match_resize"}
        norm = known[self.norm] if self.norm in known else float(self.norm)
        return {
            "norm": norm,
            **{name: getattr(self, name) for name in ("pooling", "center", "levels", "shuffle_seed")},
        }


def load_semantics(script_args: ScriptArguments) -> TokenSemantics | None:
    if script_args.semantics_file == "none":
        return None
    return TokenSemantics.from_json(script_args.semantics_file or Path(script_args.data_dir) / SEMANTICS_FILE)


def main(script_args: ScriptArguments, training_args: TSRecSFTConfig, model_args: ModelConfig) -> None:
    set_seed(training_args.seed)
    dataset = open_dataset(script_args.data_dir)
    first = training_args.process_index == 0  # the others say nothing twice
    if first:
        print(f"{dataset}\nseed: {training_args.seed}")
    semantics = load_semantics(script_args)
    model, tokenizer = load_or_start_recommender(
        model_args.model_name_or_path,
        dataset.sid_index,
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
        mixture["max_text_tokens"] = min(MAX_TEXT_TOKENS, max(1, training_args.max_length // 2))
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
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    if semantics is not None and trainer.is_world_process_zero():
        # What the tokens mean goes where the recommender goes.
        semantics.to_json(Path(training_args.output_dir, SEMANTICS_FILE))
    # First: whatever the evaluation does, what was trained stays.
    trainer.save_model(training_args.output_dir)
    metrics = trainer.evaluate()
    trainer.create_model_card()  # with its figures
    if training_args.push_to_hub:
        trainer.push_to_hub()
    if first:
        write_text(Path(training_args.output_dir, "metrics.json"), json.dumps(metrics, indent=1))
        print("\n\n".join(map(results_text, trainer.card.evaluation(trainer.recommendation_metrics))))
        print(
            f"eval_loss {metrics['eval_loss']:.4f}. Recommender, card, plots and metrics: {training_args.output_dir}"
        )


if __name__ == "__main__":
    first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if first else logging.ERROR, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if not first:
        transformers.utils.logging.disable_progress_bar()
        datasets.disable_progress_bars()
    parser = TrlParser((ScriptArguments, TSRecSFTConfig, ModelConfig))
    main(*parser.parse_args_and_config())
