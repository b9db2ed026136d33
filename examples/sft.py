"""
Fine-tune a recommender on a catalogue in MiniOneRec's layout.

On two CPU cores, one pass over the Industrial_and_Scientific sequences:

    python examples/sft.py --config examples/configs/sft_industrial.yaml \
        --data_dir amazon/Industrial_and_Scientific --model_name_or_path HuggingFaceTB/SmolLM2-135M

Several processes: put `accelerate launch` in the place of `python`. An interrupted run goes on with
`--resume_from_checkpoint outputs/sft/checkpoint-100`.
"""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoConfig, EarlyStoppingCallback, set_seed
from trl import ModelConfig, TrlParser

from tsrec_hf import (
    SAInitReport,
    TokenSemantics,
    TSRecForCausalLM,
    TSRecSFTConfig,
    TSRecSFTTrainer,
    TSRecTokenizer,
    build_sequence_rows,
    load_minionerec,
)


@dataclass
class ScriptArguments:
    """What to train on, and how the SID tokens start."""

    data_dir: str = field(metadata={"help": "Folder in MiniOneRec's layout: train.csv, valid.csv, test.csv, index.json, item.json."})
    semantics_file: str | None = field(
        default=None,
        metadata={"help": "Keywords of the SID tokens; default: description_keywords.json in `data_dir`, 'none' for none."},
    )
    gguf_file: str | None = field(default=None, metadata={"help": "File in `model_name_or_path`, for GGUF backbones."})
    sequence_mode: str = field(default="session", metadata={"help": "'session' (one row a user) or 'window'."})
    pooling: str = field(default="mean", metadata={"help": "SA-Init: 'mean' as published, or 'idf'."})
    center: bool = field(default=False, metadata={"help": "SA-Init: subtract the mean row."})
    norm: str = field(default="vocab_mean", metadata={"help": "SA-Init: 'vocab_mean', 'match_resize', 'none' or a number."})
    levels: int | None = field(default=None, metadata={"help": "SA-Init: number of levels to initialise; default: all."})
    shuffle_seed: int | None = field(default=None, metadata={"help": "SA-Init: control with permuted keywords."})
    early_stopping_patience: int | None = field(default=None, metadata={"help": "Evaluations without progress."})

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


def load_model(script_args: ScriptArguments, model_args: ModelConfig, sid_index):
    """The recommender and its tokenizer: a checkpoint of ours as it is, or a backbone with new SID rows."""
    source = {
        name: value
        for name, value in {"revision": model_args.model_revision, "gguf_file": script_args.gguf_file}.items()
        if value not in (None, "main")
    }
    loading = {**source, "dtype": model_args.dtype or "float32", "attn_implementation": model_args.attn_implementation}
    name = model_args.model_name_or_path
    if AutoConfig.from_pretrained(name, **source).model_type == "tsrec":
        tokenizer = TSRecTokenizer.from_pretrained(name, **source)
        if tokenizer.sid_index != sid_index and tokenizer.sid_index.fingerprint != sid_index.fingerprint:
            raise ValueError(
                f"The checkpoint {name!r} holds {tokenizer.sid_index}, but the data have another index: {sid_index}. Train "
                "on the catalogue of the checkpoint, or start from a backbone."
            )
        return TSRecForCausalLM.from_pretrained(name, **loading), tokenizer
    tokenizer = TSRecTokenizer.from_backbone(name, sid_index, **source)
    path = Path(script_args.semantics_file or Path(script_args.data_dir) / "description_keywords.json")
    if script_args.semantics_file == "none":
        return TSRecForCausalLM.from_backbone(name, tokenizer, **loading), tokenizer
    semantics = TokenSemantics.from_json(path)
    model = TSRecForCausalLM.from_backbone(name, tokenizer, semantics, script_args.sa_init_kwargs(), **loading)
    print(SAInitReport.from_dict(model.config.sid_initialization))
    return model, tokenizer


def main(script_args: ScriptArguments, training_args: TSRecSFTConfig, model_args: ModelConfig) -> None:
    set_seed(training_args.seed)
    dataset = load_minionerec(script_args.data_dir)
    print(f"{dataset}\nseed: {training_args.seed}")
    model, tokenizer = load_model(script_args, model_args, dataset.sid_index)
    callbacks = []
    if script_args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(script_args.early_stopping_patience))

    trainer = TSRecSFTTrainer(
        model=model,
        args=training_args,
        train_dataset=build_sequence_rows(dataset.train, tokenizer, mode=script_args.sequence_mode),
        eval_dataset=build_sequence_rows(dataset.valid, tokenizer, mode=script_args.sequence_mode),
        eval_interactions=dataset.valid,
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    metrics = trainer.evaluate()
    trainer.save_model(training_args.output_dir)
    if trainer.is_world_process_zero():
        Path(training_args.output_dir, "metrics.json").write_text(json.dumps(metrics, indent=1))
        print(json.dumps(metrics, indent=1))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    parser = TrlParser((ScriptArguments, TSRecSFTConfig, ModelConfig))
    main(*parser.parse_args_and_config())
