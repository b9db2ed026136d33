r"""
Build the training rows of a log in any order, on as many workers as there are.

    pip install ".[ray]"
    python examples/ray/build_rows.py --model_name_or_path outputs/demo/checkpoint --input log.parquet \
        --output_dir outputs/rows

The log is Parquet or JSON lines (a file or a folder) with `user_id`, `item_id` and `timestamp`. A group-by on users
puts each user's sessions together, in the order of time, ties in the order of the log; the output is a folder of
Parquet files, each with the rows of `build_sequence_rows` of its users, sorted by user. Train on it as a stream:

    load_dataset("parquet", data_files="outputs/rows/*.parquet", split="train", streaming=True).shuffle(seed=0)

A run that was stopped goes on with the files that are not there yet.
"""

import logging
from dataclasses import dataclass, field

from transformers import HfArgumentParser

from tsrec_hf import TSRecTokenizer
from tsrec_hf.serving.ray_rows import build_rows_on_ray


@dataclass
class ScriptArguments:
    """Tokenizer, log and workers."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender, for its tokenizer."})
    input: str = field(metadata={"help": "The log: Parquet, JSON lines, or a folder of them."})
    output_dir: str = field(metadata={"help": "Folder of the rows."})
    num_files: int = field(default=64, metadata={"help": "Files of the output; the users of one are held at once."})
    targets_per_stretch: int | None = field(
        default=None, metadata={"help": "Targets of each further stretch of a long user."}
    )
    num_workers: int = field(default=1, metadata={"help": "Processes that build rows."})
    rows_per_shard: int = field(default=200_000, metadata={"help": "Interactions that are read at once."})
    address: str | None = field(default=None, metadata={"help": "Address of a Ray cluster."})


def main(args: ScriptArguments) -> None:
    rows = build_rows_on_ray(
        args.input,
        args.output_dir,
        TSRecTokenizer.from_pretrained(args.model_name_or_path),
        num_files=args.num_files,
        targets_per_stretch=args.targets_per_stretch,
        num_workers=args.num_workers,
        rows_per_shard=args.rows_per_shard,
        address=args.address,
    )
    print(f"{rows:,} rows made in this run, in {args.output_dir}.")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(*HfArgumentParser(ScriptArguments).parse_args_into_dataclasses())
