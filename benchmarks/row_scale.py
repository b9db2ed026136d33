"""
Are training rows made at flat memory?

    python benchmarks/row_scale.py

Writes synthetic logs, sorted by user, to Parquet, of a fifth of the interactions and of all, and makes their session
rows: read as a stream by `load_table(streaming=True)` (`stream`), and as a memory-mapped data set (`mapped`). Each
case is a process of its own, with an empty cache; what it holds is read from `/proc` (Linux): the most in all
(`VmHWM`), which counts pages of mapped files as well, and the most without them (`RssAnon`, looked up 20 times a
second).
"""

import json
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import in_new_process, markdown_table, resident_bytes, run_script, settings_line, write_report
from transformers import PreTrainedTokenizerFast


NUM_ITEMS, MEAN_ITEMS, USERS_A_BLOCK = 100_000, 20, 10_000
WAYS = ("stream", "mapped")
ITEM_COLUMNS = ("item_id", "title")


@dataclass
class ScriptArguments:
    """What to measure."""

    interactions: int = field(default=20_000_000, metadata={"help": "Interactions of the log."})
    max_history: int = field(default=20, metadata={"help": "Longest history, and targets of a further stretch."})
    output_dir: str = field(default="outputs/row_scale", metadata={"help": "Folder of the results."})
    quick: bool = field(default=False, metadata={"help": "200,000 interactions."})
    case: str = field(default="", metadata={"help": "Internal: this process measures one case."})
    log: str = field(default="", metadata={"help": "Internal: the log of the case."})

    def __post_init__(self):
        self.interactions = min(self.interactions, 200_000) if self.quick else self.interactions


def write_log(path: Path, size: int) -> None:
    """A log of users with 2 to 200 items, geometric around 20, sorted by user and time."""
    generator = np.random.default_rng(0)
    columns = {"user_id": pa.string(), "item_id": pa.string(), "timestamp": pa.float64()}
    written = first_user = 0
    with pq.ParquetWriter(path, pa.schema(columns)) as writer:
        while written < size:
            lengths = np.clip(generator.geometric(1 / MEAN_ITEMS, USERS_A_BLOCK), 2, 200)
            lengths = lengths[: np.searchsorted(np.cumsum(lengths), size - written) + 1]
            users = np.repeat(np.arange(first_user, first_user + len(lengths)), lengths)[: size - written]
            popular = (NUM_ITEMS * generator.random(len(users)) ** 3).astype(int)
            times = np.arange(written, written + len(users), dtype=float)
            ids = [pa.array([f"{sign}{n:08d}" for n in part]) for sign, part in (("u", users), ("i", popular))]
            writer.write_table(pa.table([*ids, times], schema=pa.schema(columns)))
            written, first_user = written + len(users), first_user + len(lengths)


def make_tokenizer(folder: Path, max_history: int) -> Any:
    """A tokenizer of words with the SIDs of all items."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    from tsrec_hf import SIDIndex, TSRecTokenizer

    words = ["<unk>", "</s>", "<pad>", "Items", "chosen", "in", "order", ":"]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    plain = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", pad_token="<pad>")
    plain.save_pretrained(folder)
    numbers = np.arange(NUM_ITEMS)
    codes = np.stack([numbers // 4096, numbers // 64 % 64, numbers % 64], axis=1)
    index = SIDIndex([f"i{number:08d}" for number in numbers], codes)
    return TSRecTokenizer.from_backbone(str(folder), index, max_history=max_history)


class MostAnonymous(threading.Thread):
    """Looks up how much memory of its own this process holds, and keeps the most."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0

    def run(self) -> None:
        while True:
            [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line]
            self.most = max(self.most, int(line.split()[1]) * 1024)
            time.sleep(0.05)


def measure(args: ScriptArguments) -> dict[str, Any]:
    """Rows of one log, read in one way."""
    from tsrec_hf import build_sequence_rows, load_table

    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder)
        tokenizer = make_tokenizer(Path(folder, "tokenizer"), args.max_history)
        before = resident_bytes()
        anonymous = MostAnonymous()
        anonymous.start()
        started, cpu = time.perf_counter(), time.process_time()
        if args.case == "stream":
            items = datasets.Dataset.from_dict(
                {name: [f"i{n:08d}" for n in range(NUM_ITEMS)] for name in ITEM_COLUMNS}
            )
            log = load_table(args.log, items, streaming=True)
        else:
            log = datasets.Dataset.from_parquet(args.log, cache_dir=folder)
        rows = build_sequence_rows(log, tokenizer, targets_per_stretch=args.max_history)
        return {
            "read as": args.case,
            "interactions": pq.ParquetFile(args.log).metadata.num_rows,
            "rows": len(rows),
            "tokens": sum(
                len(batch["input_ids"].values) for batch in map(_flat, rows.with_format("arrow").iter(10_000))
            ),
            "on disk (GB)": sum(Path(file["filename"]).stat().st_size for file in rows.cache_files) / 1e9,
            "before (MB)": before / 1e6,
            "peak (MB)": resident_bytes(peak=True) / 1e6,
            "peak without mapped files (MB)": anonymous.most / 1e6,
            "wall s": time.perf_counter() - started,
            "CPU s": time.process_time() - cpu,
        }


def _flat(table: pa.Table) -> dict[str, Any]:
    return {"input_ids": table["input_ids"].combine_chunks()}


def main(args: ScriptArguments) -> None:
    if args.case:
        print(json.dumps(measure(args)))
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for size in (args.interactions // 5, args.interactions):
            log = Path(folder, f"{size}.parquet")
            write_log(log, size)
            for way in WAYS:
                options = ["--max_history", str(args.max_history), "--case", way, "--log", str(log)]
                results.append(in_new_process(__file__, *options)[1])
                print(json.dumps(results[-1]), flush=True)
    header = list(results[0])
    rows = [[f"{one[name]:,.1f}" if isinstance(one[name], float) else one[name] for name in header] for one in results]
    text = (
        f"{settings_line({'max_history': args.max_history, 'items': NUM_ITEMS})}\n\n{markdown_table(header, rows)}\n"
    )
    print(text)
    write_report(Path(args.output_dir, "row_scale.md"), text, {"cases": results})


if __name__ == "__main__":
    run_script(main, ScriptArguments)
