"""What the tokens of semantic IDs mean: from a catalogue and its index to `description_keywords.json`."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from tsrec_hf.models import SIDIndex
from tsrec_hf.semantics import (
    InferenceClientTeacher,
    KeywordTeacher,
    TokenSemantics,
    TransformersTeacher,
    describe_tokens,
)
from tsrec_hf.sids.catalogue import load_embeddings

from .indexed import open_indexed
from .options import DescribeOptions
from .screen import quiet


def read_items(path: str) -> list[dict] | Dataset:
    if path.endswith(".csv"):
        # As text: "007" is an id, and "NA" a title.
        return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")
    items = Dataset.from_parquet(path) if path.endswith(".parquet") else Dataset.from_json(path)
    return items.map(lambda item: {"item_id": str(item["item_id"])})


def make_teacher(args: DescribeOptions):
    if args.teacher == "keywords":
        return KeywordTeacher()
    assert args.model_name_or_path is not None  # by the options' own check
    shared: dict[str, Any] = {
        "temperature": args.temperature,
        "sample_tokens": args.sample_tokens,
        "sample_items": args.sample_items,
        "max_retries": args.max_retries,
        "cache_file": args.cache_file,
    }
    if args.teacher == "inference":
        return InferenceClientTeacher(
            args.model_name_or_path,
            provider=args.provider,
            base_url=args.base_url,
            token=os.environ.get("API_KEY"),
            max_tokens=args.max_new_tokens,
            concurrency=args.concurrency,
            timeout=args.timeout,
            **shared,
        )
    loading: dict[str, Any] = {"dtype": args.dtype, "device_map": args.device_map, "gguf_file": args.gguf_file}
    return TransformersTeacher(
        args.model_name_or_path,
        batch_size=args.batch_size,
        repetition_penalty=args.repetition_penalty,
        max_new_tokens=args.max_new_tokens,
        loading_kwargs={name: value for name, value in loading.items() if value is not None},
        **shared,
    )


def main(args: DescribeOptions) -> None:
    items: list[dict] | Dataset
    if args.data_dir is not None:
        dataset, sid_index = open_indexed(args.data_dir)
        items = dataset.items
    else:
        assert args.items_file is not None and args.sid_index is not None  # by the options' own check
        items = read_items(args.items_file)
        is_json = args.sid_index.endswith(".json")
        sid_index = SIDIndex.from_json(args.sid_index) if is_json else SIDIndex.load(args.sid_index)
    print(f"{sid_index}, described by {args.teacher}", flush=True)
    embeddings = None
    if args.embeddings_file is not None:
        path = Path(args.embeddings_file)
        if path.name == "embeddings.npy" and path.with_suffix(".json").is_file():
            embeddings = load_embeddings(path.parent, sid_index)  # those of `build_sids.py`, which know their index
        else:
            embeddings = np.load(path, mmap_mode="r", allow_pickle=False)
    teacher = make_teacher(args)
    earlier = None if args.earlier_file is None else TokenSemantics.from_json(args.earlier_file)
    with quiet(logging.WARNING):  # bars tell of the levels, and the report of bad answers
        semantics = describe_tokens(items, sid_index, teacher, embeddings, earlier)

    assert args.output_file is not None  # the options have set it
    output = Path(args.output_file)
    output.parent.mkdir(parents=True, exist_ok=True)
    semantics.to_json(output)
    for token in list(semantics)[:3]:
        print(f"{token}: {semantics[token].description}\n    {', '.join(semantics[token].keywords)}")
    if args.teacher != "keywords":
        print(teacher.report)
    of_those = "" if earlier is None else f", {len(earlier)} as before"
    print(f"{output}: {len(semantics)} tokens{of_those}, described by {json.dumps(semantics.count_teachers())}")
