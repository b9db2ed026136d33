r"""
Recommend for all users at night, on as many workers as there are.

    pip install ".[ray]"
    python examples/ray/recommend.py --model_name_or_path outputs/demo/checkpoint --input users.parquet \
        --output_dir outputs/lists

The input is Parquet (a file or a folder) or JSON lines with the columns `user_id` and `history`, a list of item ids,
oldest first. The output is a folder of Parquet files with `user_id`, `items` and `scores`, best first, in the order of
the users. The checkpoint's prior is used as in `recommend`; `--exclude_history true` and `--allowed_items_file`, a
text file with an id a line, are its filters.

Ray starts on this machine by itself; `--address` names a cluster, whose machines must see all these files.
A worker that dies is replaced, and a run that was stopped goes on: files are written whole or not at all.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from tsrec_hf.serving import RecommendBatch, plan_shards, run_shards_on_ray


@dataclass
class ScriptArguments:
    """Checkpoint, users and workers."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender."})
    input: str = field(metadata={"help": "Histories: Parquet, JSON lines, or a folder of them."})
    output_dir: str = field(metadata={"help": "Folder of the lists."})
    top_k: int = field(default=10, metadata={"help": "Items a user."})
    num_beams: int = field(default=50, metadata={"help": "Beams of the search."})
    batch_size: int = field(default=16, metadata={"help": "Users searched together."})
    exclude_history: bool = field(default=True, metadata={"help": "Whether to leave out the items of the history."})
    allowed_items_file: str | None = field(default=None, metadata={"help": "Ids that may be recommended, one a line."})
    unknown_items: str = field(
        default="drop", metadata={"help": "Items of histories that the catalogue lacks: 'drop' or 'error'."}
    )
    dtype: str = field(default="float32", metadata={"help": "Type of the weights: float32 or bfloat16."})
    num_workers: int = field(default=1, metadata={"help": "Actors, each with a model of its own."})
    num_gpus: float = field(default=0, metadata={"help": "GPUs of each actor; 0: the CPU."})
    rows_per_shard: int = field(default=10_000, metadata={"help": "Users of a file of the output."})
    address: str | None = field(default=None, metadata={"help": "Address of a Ray cluster."})


def main(args: ScriptArguments) -> None:
    options = {
        name: getattr(args, name) for name in ("top_k", "num_beams", "batch_size", "exclude_history", "unknown_items")
    }
    if args.allowed_items_file is not None:
        options["allowed_items"] = Path(args.allowed_items_file).read_text(encoding="utf-8").split("\n")[:-1]
    recommend = RecommendBatch(args.model_name_or_path, dtype=args.dtype, **options)
    settings = {"model": args.model_name_or_path, "dtype": args.dtype, **options}
    shards = plan_shards(args.input, args.output_dir, args.rows_per_shard, settings)
    done = run_shards_on_ray(
        shards,
        recommend,
        ["user_id", "history"],
        num_workers=args.num_workers,
        num_gpus=args.num_gpus,
        address=args.address,
    )
    print(f"{done:,} users in this run; {len(shards):,} files in {args.output_dir}.")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(*HfArgumentParser(ScriptArguments).parse_args_into_dataclasses())
