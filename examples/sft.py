"""
Fine-tune a recommender on a catalogue in MiniOneRec's layout.

On two CPU cores, one pass over the Industrial_and_Scientific sequences:

    python examples/sft.py --config examples/configs/sft_industrial.yaml \
        --data_dir amazon/Industrial_and_Scientific --model_name_or_path HuggingFaceTB/SmolLM2-135M

The whole mixture of TS-Rec, with a first stage that trains the SID rows alone on TS-Align, is
`--tasks all --grounding_epochs 2`; on a GPU `examples/configs/sft_gpu.yaml` holds the paper's settings.

`--freeze_backbone true` trains the SID rows and nothing else. `--use_peft --lora_r 16` trains LoRA and the SID rows;
`--load_in_4bit` (or `--load_in_8bit`) beside it is QLoRA, `--optim adamw_8bit` an optimiser with states of 8 bits. The
output folder is then an adapter, and `_base` in it the recommender that it belongs to.

Several processes: put `accelerate launch --config_file examples/accelerate_configs/two_cpus.yaml`, or another file of
that folder, in the place of `python`. An interrupted run goes on with
`--resume_from_checkpoint outputs/sft/checkpoint-100`.
"""

import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets import Dataset
from transformers import AutoConfig, EarlyStoppingCallback, set_seed
from transformers.utils import find_adapter_config_file
from trl import ModelConfig, TrlParser

from tsrec_hf import (
    SAInitReport,
    TokenSemantics,
    TSRecForCausalLM,
    TSRecSFTConfig,
    TSRecSFTTrainer,
    TSRecTokenizer,
    build_alignment_rows,
    build_sft_mixture,
    load_minionerec,
)
from tsrec_hf.data import BUILT_IN_TASKS, tokenize_rows
from tsrec_hf.trainers import load_recommender, lora_config, quantize, save_base


SEMANTICS_FILE = "description_keywords.json"


@dataclass
class ScriptArguments:
    """What to train on, and how the SID tokens start."""

    data_dir: str = field(
        metadata={"help": "Folder in MiniOneRec's layout: train.csv, valid.csv, test.csv, index.json, item.json."}
    )
    semantics_file: str | None = field(
        default=None,
        metadata={
            "help": "Keywords of the SID tokens; default: description_keywords.json in `data_dir`, 'none' for none."
        },
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
    gguf_file: str | None = field(default=None, metadata={"help": "File in `model_name_or_path`, for GGUF backbones."})
    sequence_mode: str = field(default="session", metadata={"help": "'session' (one row a user) or 'window'."})
    pooling: str = field(default="idf", metadata={"help": "SA-Init: 'idf', or 'mean' as published."})
    center: bool = field(default=True, metadata={"help": "SA-Init: subtract the mean row; published: no."})
    norm: str = field(
        default="match_resize",
        metadata={"help": "SA-Init: 'match_resize', 'vocab_mean' as published, 'none', or a number."},
    )
    levels: int | None = field(
        default=None, metadata={"help": "SA-Init: number of levels to initialise; default: all."}
    )
    shuffle_seed: int | None = field(default=None, metadata={"help": "SA-Init: control with permuted keywords."})
    sid_method: str | None = field(default=None, metadata={"help": "How the SIDs were made, for the model card."})
    early_stopping_patience: int | None = field(default=None, metadata={"help": "Evaluations without progress."})

    def __post_init__(self):
        self.tasks = list(BUILT_IN_TASKS) if self.tasks == ["all"] else self.tasks
        if isinstance(self.mixture_weights, str):
            self.mixture_weights = json.loads(self.mixture_weights)

    def sa_init_kwargs(self) -> dict:
        norm = None if self.norm == "none" else self.norm
        if norm not in (None, "vocab_mean", "match_resize"):
            norm = float(norm)
        return {
            "pooling": self.pooling,
            "center": self.center,
            "norm": norm,
            "levels": self.levels,
            "shuffle_seed": self.shuffle_seed,
        }


def load_semantics(script_args: ScriptArguments) -> TokenSemantics | None:
    if script_args.semantics_file == "none":
        return None
    return TokenSemantics.from_json(script_args.semantics_file or Path(script_args.data_dir) / SEMANTICS_FILE)


def load_model(script_args: ScriptArguments, model_args: ModelConfig, sid_index, semantics):
    """The recommender and its tokenizer: a checkpoint or adapter of ours as it is, or a backbone with new SID rows."""
    source = {"revision": model_args.model_revision}
    if script_args.gguf_file:
        source["gguf_file"] = script_args.gguf_file
    loading = {**source, "dtype": model_args.dtype or "float32", "attn_implementation": model_args.attn_implementation}
    name = model_args.model_name_or_path
    is_adapter = find_adapter_config_file(name, revision=model_args.model_revision) is not None
    if is_adapter or AutoConfig.from_pretrained(name, **source).model_type == "tsrec":
        model, tokenizer = load_recommender(name, **loading)
        if tokenizer.sid_index.fingerprint != sid_index.fingerprint:
            raise ValueError(
                f"The checkpoint {name!r} holds {tokenizer.sid_index}, but the data have another index: {sid_index}. "
                "Train on the catalogue of the checkpoint, or start from a backbone."
            )
        return model, tokenizer
    tokenizer = TSRecTokenizer.from_backbone(name, sid_index, **source)
    sa_init_kwargs = None if semantics is None else script_args.sa_init_kwargs()
    model = TSRecForCausalLM.from_backbone(name, tokenizer, semantics, sa_init_kwargs, **loading)
    if semantics is not None:
        print(SAInitReport.from_dict(model.config.sid_initialization))
    return model, tokenizer


def ground(model, tokenizer, semantics, script_args: ScriptArguments, training_args: TSRecSFTConfig) -> None:
    """Trains the SID rows alone on TS-Align."""
    if semantics is None:
        raise ValueError(
            "Expected descriptions for the grounding stage, but found `--semantics_file none`. Pass a file."
        )
    rows = build_alignment_rows(semantics, tokenizer)
    grounding_args = replace(
        training_args,
        output_dir=str(Path(training_args.output_dir, "grounding")),
        freeze_backbone=True,
        num_train_epochs=script_args.grounding_epochs,
        max_steps=-1,
        learning_rate=script_args.grounding_learning_rate,
        # A few short passes: what suits the long run would leave the rows where they are.
        warmup_steps=0,
        weight_decay=0.0,
        task_weights=None,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
    )
    rows = Dataset.from_list(tokenize_rows(rows, tokenizer))
    TSRecSFTTrainer(model, grounding_args, train_dataset=rows, processing_class=tokenizer).train()


def main(script_args: ScriptArguments, training_args: TSRecSFTConfig, model_args: ModelConfig) -> None:
    set_seed(training_args.seed)
    dataset = load_minionerec(script_args.data_dir)
    print(f"{dataset}\nseed: {training_args.seed}")
    semantics = load_semantics(script_args)
    model, tokenizer = load_model(script_args, model_args, dataset.sid_index, semantics)

    # Titles and descriptions have no validation rows of their own: the training ones hold them all.
    validated = [task for task in script_args.tasks if task in ("sequence", "history_title")]
    mixture = {"weights": script_args.mixture_weights, "sequence_mode": script_args.sequence_mode}
    train_rows = build_sft_mixture(dataset, semantics, tokenizer, tasks=script_args.tasks, **mixture)
    valid_rows = build_sft_mixture(
        dataset, semantics, tokenizer, tasks=validated or script_args.tasks, split="valid", **mixture
    )
    callbacks = []
    if script_args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(script_args.early_stopping_patience))
    if script_args.grounding_epochs > 0 and training_args.resume_from_checkpoint is None:
        ground(model, tokenizer, semantics, script_args, training_args)
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
        callbacks=callbacks,
        peft_config=peft_config,
        card_facts={"dataset": dataset, "sid_method": script_args.sid_method},
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    metrics = trainer.evaluate()
    if semantics is not None and trainer.is_world_process_zero():
        # What the tokens mean goes where the recommender goes.
        semantics.to_json(Path(training_args.output_dir, SEMANTICS_FILE))
    trainer.save_model(training_args.output_dir)
    if trainer.is_world_process_zero():
        Path(training_args.output_dir, "metrics.json").write_text(json.dumps(metrics, indent=1))
        print(json.dumps(metrics, indent=1))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    parser = TrlParser((ScriptArguments, TSRecSFTConfig, ModelConfig))
    main(*parser.parse_args_and_config())
