"""
Give many embedded items their semantic IDs, on as many workers as there are.

    pip install ".[ray,sids]"
    python examples/ray/encode_items.py --input outputs/embeddings --output_dir outputs/codes --level_sizes 256 256 256

The input is what `embed_items.py` writes. Residual k-means is fitted on a sample and saved; workers code the items by
it; collisions are then resolved in a group-by on prefixes that do not touch each other: the
codes of one process (`resolve_collisions`). The output is `codes.parquet` with `item_id` and `codes`, in the order of
the items, beside the quantiser. A run that was stopped goes on: the sample and finished shards are not made again.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import HfArgumentParser

from tsrec_hf import ResidualKMeans
from tsrec_hf.models.replacing_tsrec import replaced
from tsrec_hf.serving import EncodeBatch, Shard, plan_shards, read_results, run_shards_on_ray
from tsrec_hf.serving.ray_collisions import resolve_collisions_on_ray
from tsrec_hf.serving.vectors import as_lists, as_vectors


@dataclass
class ScriptArguments:
    """Embeddings, quantiser and workers."""

    input: str = field(metadata={"help": "Embeddings: Parquet, or a folder of it."})
    output_dir: str = field(metadata={"help": "Folder of the codes."})
    level_sizes: list[int] = field(default_factory=lambda: [256] * 3, metadata={"help": "Codes at each level."})
    sample: int = field(default=500_000, metadata={"help": "Items that the quantiser is fitted on."})
    collisions: str = field(default="reassign", metadata={"help": "Policy of `resolve_collisions`."})
    seed: int = field(default=0, metadata={"help": "Seed of the sample and of the quantiser."})
    num_workers: int = field(default=1, metadata={"help": "Actors."})
    rows_per_shard: int = field(default=50_000, metadata={"help": "Items of a shard."})
    address: str | None = field(default=None, metadata={"help": "Address of a Ray cluster."})


def draw(shards: list[Shard], size: int, seed: int) -> np.ndarray:
    """The embeddings of a sample of items; of all where there are no more."""
    total = sum(shard.stop - shard.start for shard in shards)
    rows = np.sort(np.random.default_rng(seed).choice(total, min(size, total), replace=False))
    drawn = []
    for shard in shards:
        own = rows[(rows >= shard.first_row) & (rows < shard.first_row + shard.stop - shard.start)]
        if len(own):
            drawn.append(as_vectors(shard.read(["embedding"])["embedding"].take(pa.array(own - shard.first_row))))
    return np.concatenate(drawn)


def main(args: ScriptArguments) -> None:
    output = Path(args.output_dir)
    settings = {"level_sizes": args.level_sizes, "sample": args.sample, "seed": args.seed}
    shards = plan_shards(args.input, output / "shards", args.rows_per_shard, settings)
    if not (output / ResidualKMeans.file_name).is_file():
        ResidualKMeans(args.level_sizes, seed=args.seed).fit(draw(shards, args.sample, args.seed)).save(output)
    done = run_shards_on_ray(
        shards, EncodeBatch(output), ["item_id", "embedding"], num_workers=args.num_workers, address=args.address
    )
    table = read_results(shards)
    codes = resolve_collisions_on_ray(
        shards, as_vectors(table["codes"]).astype(np.int32), ResidualKMeans.load(output), args.collisions, args.address
    )
    with replaced(output / "codes.parquet") as part:
        pq.write_table(pa.table({"item_id": table["item_id"], "codes": as_lists(codes)}), part)
    print(f"{done:,} items coded in this run; {len(codes):,} in {output / 'codes.parquet'}.")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(*HfArgumentParser(ScriptArguments).parse_args_into_dataclasses())
