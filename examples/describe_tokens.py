"""
Describe the tokens of semantic IDs: from a catalogue and its SID index to `description_keywords.json`.

Without a language model, by the words that set a token's items apart:

    python examples/describe_tokens.py --data_dir amazon/Industrial_and_Scientific --output_file keywords.json

With a chat model on this machine, or one behind an OpenAI-compatible server or a provider of the Hub:

    python examples/describe_tokens.py --config examples/configs/describe_tokens_local.yaml --data_dir ... \
        --model_name_or_path Qwen/Qwen2.5-7B-Instruct
    python examples/describe_tokens.py --config examples/configs/describe_tokens_server.yaml --data_dir ... \
        --model_name_or_path my-model --base_url http://localhost:8000/v1

Another catalogue than MiniOneRec's layout: `--items_file items.csv --sid_index sids/`, where the table has the columns
`item_id` and `title`, and perhaps `description`. The service's key is read from the environment variable `API_KEY`.

A killed run goes on where it stopped: every answer is in the cache file. After `build_sids.py --extend_dir` the known
tokens keep what the catalogue before said of them, and no teacher is asked of them again:

    python examples/describe_tokens.py --data_dir data/june --earlier_file data/shop/description_keywords.json \
        --output_file data/june/description_keywords.json
"""

import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset
from trl import TrlParser

from tsrec_hf import KeywordTeacher, SIDIndex, TokenSemantics, describe_tokens, open_dataset
from tsrec_hf.semantics import InferenceClientTeacher, TransformersTeacher
from tsrec_hf.sids.catalogue import load_embeddings


TEACHERS = ("keywords", "transformers", "inference")


@dataclass
class ScriptArguments:
    """What to describe, and who does it."""

    data_dir: str | None = field(
        default=None, metadata={"help": "Folder of a data set, such as `build_sids.py` makes."}
    )
    items_file: str | None = field(
        default=None, metadata={"help": "Instead of `data_dir`: items as .csv, .jsonl or .parquet."}
    )
    sid_index: str | None = field(
        default=None, metadata={"help": "With `items_file`: folder of a saved SIDIndex, or an index.json."}
    )
    embeddings_file: str | None = field(
        default=None, metadata={"help": "Embeddings as .npy, a row an item of the index: typical items go first."}
    )
    earlier_file: str | None = field(
        default=None, metadata={"help": "Descriptions of the catalogue before it grew; they stay as they are."}
    )
    output_file: str = field(default="outputs/description_keywords.json", metadata={"help": "Where to write."})
    teacher: str = field(default="keywords", metadata={"help": f"One of {', '.join(TEACHERS)}."})
    model_name_or_path: str | None = field(default=None, metadata={"help": "The teacher's model."})
    gguf_file: str | None = field(default=None, metadata={"help": "File in `model_name_or_path`, for GGUF models."})
    dtype: str = field(default="auto", metadata={"help": "Type of a local model's weights."})
    device_map: str | None = field(default=None, metadata={"help": "Where a local model goes, such as 'auto'."})
    batch_size: int = field(default=8, metadata={"help": "Conversations generated together by a local model."})
    base_url: str | None = field(default=None, metadata={"help": "OpenAI-compatible server."})
    provider: str | None = field(default=None, metadata={"help": "Inference provider of the Hub."})
    concurrency: int = field(default=8, metadata={"help": "Most requests under way at once."})
    timeout: float = field(default=120.0, metadata={"help": "Seconds of silence after which a try is given up."})
    max_new_tokens: int = field(default=512, metadata={"help": "Tokens after which an answer is cut off."})
    temperature: float = field(default=0.0, metadata={"help": "Temperature of sampling; 0 for none."})
    repetition_penalty: float = field(default=1.0, metadata={"help": "Above 1 for small local models."})
    sample_tokens: int = field(default=1500, metadata={"help": "Tokens of sampled items in a prompt."})
    sample_items: int = field(default=40, metadata={"help": "Most sampled items in a prompt."})
    max_retries: int = field(default=2, metadata={"help": "How often a bad answer is sent back."})
    cache_file: str | None = field(
        default=None, metadata={"help": "Answers, a JSON line each; default: beside `output_file`."}
    )

    def __post_init__(self):
        if self.teacher not in TEACHERS:
            raise ValueError(f"Expected `teacher` among {TEACHERS}, but found {self.teacher!r}.")
        if self.teacher != "keywords" and self.model_name_or_path is None:
            raise ValueError(f"Expected `--model_name_or_path` for the teacher {self.teacher!r}, but found none.")
        if (self.data_dir is None) == (self.items_file is None) or (self.items_file is None) != (
            self.sid_index is None
        ):
            raise ValueError("Expected either `--data_dir`, or `--items_file` with `--sid_index`.")
        self.cache_file = self.cache_file or str(Path(self.output_file).with_suffix(".answers.jsonl"))


def read_items(path: str) -> list[dict] | Dataset:
    if path.endswith(".csv"):
        # As text: "007" is an id, and "NA" a title.
        return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")
    items = Dataset.from_parquet(path) if path.endswith(".parquet") else Dataset.from_json(path)
    return items.map(lambda item: {"item_id": str(item["item_id"])})


def make_teacher(args: ScriptArguments):
    if args.teacher == "keywords":
        return KeywordTeacher()
    shared = {
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
    loading = {"dtype": args.dtype, "device_map": args.device_map, "gguf_file": args.gguf_file}
    return TransformersTeacher(
        args.model_name_or_path,
        batch_size=args.batch_size,
        repetition_penalty=args.repetition_penalty,
        max_new_tokens=args.max_new_tokens,
        loading_kwargs={name: value for name, value in loading.items() if value is not None},
        **shared,
    )


def main(args: ScriptArguments) -> None:
    if args.data_dir is not None:
        dataset = open_dataset(args.data_dir)
        items, sid_index = dataset.items, dataset.sid_index
    else:
        items = read_items(args.items_file)
        is_json = args.sid_index.endswith(".json")
        sid_index = SIDIndex.from_json(args.sid_index) if is_json else SIDIndex.load(args.sid_index)
    print(sid_index)
    embeddings = None
    if args.embeddings_file is not None:
        path = Path(args.embeddings_file)
        if path.name == "embeddings.npy" and path.with_suffix(".json").is_file():
            embeddings = load_embeddings(path.parent, sid_index)  # those of `build_sids.py`, which know their index
        else:
            embeddings = np.load(path, mmap_mode="r", allow_pickle=False)
    teacher = make_teacher(args)
    earlier = None if args.earlier_file is None else TokenSemantics.from_json(args.earlier_file)
    semantics = describe_tokens(items, sid_index, teacher, embeddings, earlier)

    output = Path(args.output_file)
    output.parent.mkdir(parents=True, exist_ok=True)
    semantics.to_json(output)
    for token in list(semantics)[:3]:
        print(f"{token}: {semantics[token].description}\n    {', '.join(semantics[token].keywords)}")
    if args.teacher != "keywords":
        print(teacher.report)
    of_those = "" if earlier is None else f", {len(earlier)} as before"
    print(f"{output}: {len(semantics)} tokens{of_those}, described by {json.dumps(semantics.count_teachers())}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    main(*TrlParser(ScriptArguments).parse_args_and_config())
