"""
Embed the texts of many items, on as many workers as there are.

    pip install ".[ray,sids]"
    python examples/ray/embed_items.py --input items.parquet --output_dir outputs/embeddings --num_workers 2

The input is Parquet or JSON lines (a file or a folder) with `item_id` and the columns of `--fields`. The output is a
folder of Parquet files with `item_id` and `embedding`, in the order of the items, which `encode_items.py` reads. Ray
starts by itself, or `--address` names a cluster; a run that was stopped goes on where it stopped.
"""

import logging
from dataclasses import dataclass, field

from transformers import HfArgumentParser

from tsrec_hf.recipes.raw_data import as_pairs
from tsrec_hf.serving import EmbedBatch, plan_shards, run_shards_on_ray


@dataclass
class ScriptArguments:
    """Items, encoder and workers."""

    input: str = field(metadata={"help": "Items: Parquet, JSON lines, or a folder of them."})
    output_dir: str = field(metadata={"help": "Folder of the embeddings."})
    encoder: str = field(
        default="sentence-transformers/all-MiniLM-L6-v2", metadata={"help": "Folder or Hub id of the text encoder."}
    )
    fields: list[str] = field(
        default_factory=lambda: ["title=1"], metadata={"help": "Columns of text and weights: title=1 description=0.5."}
    )
    batch_size: int = field(default=32, metadata={"help": "Texts in one forward pass."})
    num_workers: int = field(default=1, metadata={"help": "Actors, each with an encoder of its own."})
    num_gpus: float = field(default=0, metadata={"help": "GPUs of each actor; 0: the CPU."})
    rows_per_shard: int = field(default=10_000, metadata={"help": "Items of a file of the output."})
    address: str | None = field(default=None, metadata={"help": "Address of a Ray cluster."})


def main(args: ScriptArguments) -> None:
    fields = {name: float(weight) for name, weight in as_pairs(args.fields, "fields").items()}
    embed = EmbedBatch(args.encoder, fields, batch_size=args.batch_size)
    settings = {"encoder": args.encoder, "fields": fields, "batch_size": args.batch_size}
    shards = plan_shards(args.input, args.output_dir, args.rows_per_shard, settings)
    done = run_shards_on_ray(
        shards,
        embed,
        ["item_id", *fields],
        num_workers=args.num_workers,
        num_gpus=args.num_gpus,
        address=args.address,
    )
    print(f"{done:,} items in this run; {len(shards):,} files in {args.output_dir}.")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(*HfArgumentParser(ScriptArguments).parse_args_into_dataclasses())
