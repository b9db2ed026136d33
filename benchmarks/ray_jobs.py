"""
What does a second worker bring a job on Ray Data, and how much memory do a million users take?

    pip install ".[ray]"
    python benchmarks/ray_jobs.py

Workers: an untrained decoder recommends for the same users by one actor and by two, in turns within one run. Besides
the whole job its rate is given from the first finished shard to the last, without the start of Ray and of the actors.
Memory: a fifth of the users and all of them pass through one actor that answers without a model, with ten items that
are the same for everyone, so that reading, sending and writing are what is measured; each size is a process of its
own. Memory is what the system says is resident, of the driver and of the actor, looked up ten times a second (Linux).
"""

import json
import os
import tempfile
import threading
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from common import in_new_process, markdown_table, run_script, settings_line, table_of, write_report
from row_scale import NUM_ITEMS, make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from tsrec_hf.serving import RecommendBatch, Shard, plan_shards, run_shards_on_ray


USERS_A_BLOCK, LONGEST = 50_000, 20
DECODER: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4}


@dataclass
class ScriptArguments:
    """What to measure."""

    users: int = field(default=1_000_000, metadata={"help": "Users whose memory is measured."})
    rows_per_shard: int = field(default=10_000, metadata={"help": "Users of a shard of theirs."})
    recommended: int = field(default=3_000, metadata={"help": "Users that the decoder recommends for."})
    rounds: int = field(default=2, metadata={"help": "Times that one and two workers take turns."})
    output: str = field(default="outputs/ray_jobs/ray_jobs.md", metadata={"help": "Report to write."})
    quick: bool = field(default=False, metadata={"help": "Few users: does the script run?"})
    case: str = field(default="", metadata={"help": "Internal: this process measures the memory of this file."})

    def __post_init__(self):
        if self.quick:
            self.users, self.rows_per_shard, self.recommended, self.rounds = 20_000, 1_000, 160, 1


class SameListForAll:
    """A recommender without a model."""

    def __call__(self, table: pa.Table) -> pa.Table:
        items = pa.array([[f"i{number:08d}" for number in range(10)]] * len(table), pa.list_(pa.string()))
        scores = pa.array([[0.0] * 10] * len(table), pa.list_(pa.float32()))
        return pa.table({"user_id": table["user_id"], "items": items, "scores": scores})


def write_users(path: Path, number: int) -> None:
    """Users with 1 to 20 items."""
    generator = np.random.default_rng(0)
    schema = pa.schema({"user_id": pa.string(), "history": pa.list_(pa.string())})
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, number, USERS_A_BLOCK):
            users = [f"u{user:08d}" for user in range(start, min(start + USERS_A_BLOCK, number))]
            offsets = np.cumsum([0, *generator.integers(1, LONGEST + 1, len(users))], dtype=np.int32)
            items = [f"i{item:08d}" for item in generator.integers(NUM_ITEMS, size=offsets[-1])]
            writer.write_table(pa.table([users, pa.ListArray.from_arrays(offsets, items)], schema=schema))


def save_recommender(folder: Path) -> None:
    """An untrained decoder of the SIDs of all items."""
    from tsrec_hf import TSRecForCausalLM

    tokenizer = make_tokenizer(folder / "backbone", LONGEST)
    config = LlamaConfig(vocab_size=8, num_attention_heads=4, tie_word_embeddings=True, **DECODER)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "backbone")
    TSRecForCausalLM.from_backbone(folder / "backbone", tokenizer, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def start_ray(cpus: int) -> None:
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray's workers give way to every other process: on a machine that others share, this would measure those.
    os.environ["RAY_worker_niceness"] = "0"
    ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)


class MostResident(threading.Thread):
    """Looks up how much memory this process and its largest actor hold, and keeps the most of each."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.driver = self.actor = 0

    def run(self) -> None:
        process = psutil.Process()
        while True:
            self.driver = max(self.driver, process.memory_info().rss)
            for child in process.children(recursive=True):
                try:
                    # Ray gives its processes the names of what they do.
                    if "ShardActor" in " ".join(child.cmdline()):
                        self.actor = max(self.actor, child.memory_info().rss)
                except psutil.Error:
                    continue
            time.sleep(0.1)


def measure_memory(users: Path, rows_per_shard: int) -> dict[str, Any]:
    """The job of one actor that answers without a model."""
    start_ray(cpus=1)
    with tempfile.TemporaryDirectory() as folder:
        shards = plan_shards(users, folder, rows_per_shard)
        before = psutil.Process().memory_info().rss
        most = MostResident()
        most.start()
        started = time.perf_counter()
        done = run_shards_on_ray(shards, SameListForAll(), ["user_id", "history"])
        return {
            "users": done,
            "shards": len(shards),
            "input (MB)": users.stat().st_size / 1e6,
            "driver before (MB)": before / 1e6,
            "driver, most (MB)": most.driver / 1e6,
            "actor, most (MB)": most.actor / 1e6,
            "wall (s)": time.perf_counter() - started,
        }


def steady_rate(shards: list[Shard]) -> float:
    """Users a second from the first finished shard to the last."""
    finished = sorted(os.stat(shard.target).st_mtime for shard in shards)
    users = sum(shard.stop - shard.start for shard in shards) * (len(shards) - 1) / len(shards)
    return users / (finished[-1] - finished[0])


def measure_workers(args: ScriptArguments, folder: Path) -> list[dict[str, Any]]:
    """One and two actors in turns."""
    save_recommender(folder / "model")
    write_users(folder / "few.parquet", args.recommended)
    recommend = RecommendBatch(folder / "model", device="cpu", exclude_history=True)
    start_ray(cpus=2)
    results = []
    for turn in range(args.rounds):
        for workers in (1, 2):
            output = folder / f"lists-{turn}-{workers}"
            shards = plan_shards(folder / "few.parquet", output, max(1, args.recommended // 20))
            started = time.perf_counter()
            run_shards_on_ray(shards, recommend, num_workers=workers)
            wall = time.perf_counter() - started
            results.append({"workers": workers, "whole job (s)": wall, "users a second": steady_rate(shards)})
            print(json.dumps(results[-1]), flush=True)
    return results


def main(args: ScriptArguments) -> None:
    if find_spec("ray") is None:
        print('Skipped: `pip install ".[ray]"`.')
        return
    if args.case:
        print(json.dumps(measure_memory(Path(args.case), args.rows_per_shard)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        memory = []
        for users in (args.users // 5, args.users):
            path = folder / f"{users}.parquet"
            write_users(path, users)
            options = ["--rows_per_shard", str(args.rows_per_shard), "--case", str(path)]
            memory.append(in_new_process(__file__, *options)[1])
            print(json.dumps(memory[-1]), flush=True)
        workers = measure_workers(args, folder)
    best = [max(one["users a second"] for one in workers if one["workers"] == number) for number in (1, 2)]
    ratio = best[1] / best[0]
    settings = {
        "items": NUM_ITEMS,
        "decoder": DECODER,
        "users of the decoder": args.recommended,
        "cores": os.cpu_count(),
    }
    text = (
        f"{settings_line(settings)}\n\nMemory, without a model:\n\n{markdown_table(*table_of(memory, 1))}\n\n"
        f"Workers, with the decoder:\n\n{markdown_table(*table_of(workers, 1))}\n\n"
        f"Two workers recommend for {ratio:.2f} times as many users a second as one (the best turn of each).\n"
    )
    print(text)
    write_report(args.output, text, {"memory": memory, "workers": workers, "ratio": ratio})


if __name__ == "__main__":
    run_script(main, ScriptArguments)
