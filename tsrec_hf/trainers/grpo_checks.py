"""Checks at the start of GRPO: what cannot work is refused before the first step."""

from typing import Any

from datasets import Dataset
from peft import PeftModel

from tsrec_hf.models import TSRecTokenizer

from .grpo_config import TSRecGRPOConfig


def check_catalogue(args: TSRecGRPOConfig, tokenizer: TSRecTokenizer) -> None:
    """Raises `ValueError` for a catalogue with fewer SIDs than a group has completions."""
    num_generations = max(args.num_generations or 0, args.num_generations_eval or 0)
    num_sids = tokenizer.sid_index.trie.num_leaves
    if num_generations > num_sids:
        raise ValueError(
            f"Expected a catalogue of at least `num_generations`={num_generations} SIDs, since a group's "
            f"completions are distinct, but found {num_sids}. Set `num_generations` to {num_sids} or less."
        )


def check_rows(rows: Dataset, name: str, tokenizer: TSRecTokenizer) -> None:
    """Raises an error for rows without prompts as text or without targets of the catalogue."""
    if not isinstance(rows, Dataset):
        raise TypeError(
            f"Expected the {name} dataset to be a `datasets.Dataset`, but found `{type(rows).__name__}`, whose rows "
            "cannot be checked."
        )
    missing = {"prompt", "target"} - set(rows.column_names)
    if missing:
        raise ValueError(
            f"Expected a {name} dataset with `prompt` and `target`, but {sorted(missing)} are missing from "
            f"{rows.column_names}. Build it with `build_grpo_rows`."
        )
    if len(rows) == 0:
        raise ValueError(f"Expected a {name} dataset with rows, but found none. Pass a split that has some.")
    if not isinstance(rows[0]["prompt"], str):
        raise TypeError(
            f"Expected prompts of the {name} dataset as strings, but found `{type(rows[0]['prompt']).__name__}`. A "
            "recommender's prompts are no conversations: build them with `build_grpo_rows`."
        )
    tokenizer.sid_index.positions_of(rows.unique("target"))


def check_adapter_name(model: Any, args: TSRecGRPOConfig) -> None:
    """
    Raises `ValueError` for an adapter whose copy cannot be the reference: TRL 1.16 looks for it by PEFT's usual name.
    """
    if isinstance(model, PeftModel) and args.beta != 0.0 and "default" not in model.peft_config:
        names = sorted(model.peft_config)
        raise ValueError(
            f"Expected an adapter of the name 'default', whose copy becomes the reference of `beta`={args.beta}, but "
            f"found {names}. Save it and load it by `PeftModel.from_pretrained(base, 'folder/{names[0]}', "
            "is_trainable=True)`, which names it so, or set `beta=0`."
        )
