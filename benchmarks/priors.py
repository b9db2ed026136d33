"""
What do priors cost, and do beams with a prior find what an exact search finds?

    python benchmarks/priors.py
    python benchmarks/priors.py --data_dir ... --model_name_or_path outputs/fused

The first line measures synthetic data: fitting transitions on millions of interactions, and compiling dense and sparse
weights over a million items for a batch of 16 users. Its times are those of one processor core. The second line also
takes a checkpoint with a prior (`examples/fit_prior.py` makes one) and compares the ten best items of beams with those
of an exact search, for users of the test split.
"""

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import common
import numpy as np
import pyarrow as pa
import torch
from common import draw_rows, environment, markdown_table, resident_bytes, run_script, settings_line, write_report
from datasets import Dataset

from tsrec_hf import NextItemPrior, SIDIndex, SIDTrie, TSRecForCausalLM, TSRecTokenizer, load_minionerec
from tsrec_hf.models import PriorWeights
from tsrec_hf.models.prior_search_tsrec import Fusion, SearchPrior


timed = partial(common.timed, clock=time.process_time)
TOP_K = 10
USERS_IN_A_BATCH = 16
INTERACTIONS_OF_A_USER = 20


@dataclass
class ScriptArguments:
    """What to measure."""

    interactions: int = field(default=10_000_000, metadata={"help": "Synthetic interactions to fit transitions on."})
    items: int = field(default=1_000_000, metadata={"help": "Items whose weights are compiled."})
    entries: int = field(default=2_000, metadata={"help": "Entries of a user's sparse weights."})
    data_dir: str | None = field(default=None, metadata={"help": "Data set in MiniOneRec's layout."})
    model_name_or_path: str | None = field(default=None, metadata={"help": "A checkpoint with a fitted prior."})
    dtype: str = field(default="float32", metadata={"help": "Type of the checkpoint's weights."})
    users: int = field(default=256, metadata={"help": "Test users that are searched for."})
    beams: list[int] = field(default_factory=lambda: [20, 50], metadata={"help": "Numbers of beams."})
    seed: int = field(default=0, metadata={"help": "Seed of synthetic data and of the users drawn."})
    output_file: str | None = field(default=None, metadata={"help": "Markdown file; a JSON file is written beside."})
    quick: bool = field(default=False, metadata={"help": "A hundred times less of everything."})

    def __post_init__(self):
        if self.quick:
            self.interactions, self.items, self.users = self.interactions // 100, self.items // 100, self.users // 32


def random_index(num_items: int, rng: np.random.Generator) -> SIDIndex:
    return SIDIndex(list(map(str, range(num_items))), rng.integers(0, 256, (num_items, 3)))


def synthetic_rows(num_interactions: int, num_items: int, rng: np.random.Generator) -> Dataset:
    """Rows of users whose next item is mostly near their last one; a few items take most of the interactions."""
    starts = (rng.pareto(1.1, num_interactions // INTERACTIONS_OF_A_USER) * 50).astype(np.int64)
    jumps = (rng.pareto(1.0, len(starts) * INTERACTIONS_OF_A_USER) * 3).astype(np.int64)
    items = (np.repeat(starts, INTERACTIONS_OF_A_USER) + jumps) % num_items
    places = np.arange(len(items)) % INTERACTIONS_OF_A_USER
    targets = np.flatnonzero(places > 0)
    lengths = np.minimum(places[targets], 10)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    members = np.repeat(targets - lengths - offsets[:-1], lengths) + np.arange(offsets[-1])
    names = pa.array(list(map(str, range(num_items))))
    histories = pa.LargeListArray.from_arrays(offsets, names.take(pa.array(items[members])))
    return Dataset(pa.table({"history": histories, "target": names.take(pa.array(items[targets]))}))


def fitting_cost(args: ScriptArguments) -> dict[str, float]:
    rng = np.random.default_rng(args.seed)
    num_items = max(args.items // 10, 1_000)
    index = random_index(num_items, rng)
    rows = synthetic_rows(args.interactions, num_items, rng)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of making the rows (Linux)
    before = resident_bytes()
    prior, seconds = timed(lambda: NextItemPrior.fit(rows, index))
    return {
        "interactions": len(rows) + args.interactions // INTERACTIONS_OF_A_USER,
        "items": num_items,
        "transitions kept": len(prior.values),
        "s": seconds,
        "MB above the rows": (resident_bytes(peak=True) - before) / 1e6,
    }


def compiling_cost(args: ScriptArguments) -> dict[str, float]:
    """Seconds to turn a batch's weights over items into bounds on the nodes of the trie."""
    rng = np.random.default_rng(args.seed)
    compiler = SearchPrior(SIDTrie(rng.integers(0, 256, (args.items, 3))), Fusion())
    users, shared = list(range(USERS_IN_A_BATCH)), torch.rand(args.items)
    entries = USERS_IN_A_BATCH * args.entries
    sparse = PriorWeights(
        shared,
        torch.randint(USERS_IN_A_BATCH, (entries,)),
        torch.randint(args.items, (entries,)),
        torch.rand(entries),
        USERS_IN_A_BATCH,
    )
    dense = PriorWeights.of_all(shared, USERS_IN_A_BATCH)
    dense.dense = torch.rand(USERS_IN_A_BATCH, args.items)
    found: dict[str, float] = {"items": args.items}
    for name, weights in (("dense", dense), ("sparse", sparse)):
        compiler.batch(weights, users)  # what the trie keeps is made once
        found[f"{name} s"] = timed(lambda weights=weights: compiler.batch(weights, users))[1]
    return found


def exactness(args: ScriptArguments) -> list[dict[str, float]]:
    """How often beams with the prior miss one of the true ten best items."""
    tokenizer = TSRecTokenizer.from_pretrained(args.model_name_or_path)
    model = TSRecForCausalLM.from_pretrained(args.model_name_or_path, dtype=args.dtype)
    if tokenizer.prior is None:
        raise SystemExit(
            "Expected a checkpoint with a prior, but it has none. Run `examples/fit_prior.py` on it first."
        )
    rows = draw_rows(load_minionerec(args.data_dir).test, args.users, args.seed)
    histories = rows["history"][:]

    def search(**options) -> tuple[list[list[tuple[str, float]]], float]:
        lists, seconds = timed(lambda: model.recommend(tokenizer, histories, top_k=TOP_K, progress=True, **options))
        return [[(item.item_id, item.score) for item in items] for items in lists], seconds

    best, seconds = search(search="exact")
    found = [{"search": "exact", "missed": 0, "users": len(best), "s a user": seconds / len(best)}]
    for num_beams in args.beams:
        lists, seconds = search(num_beams=num_beams)
        # An item below the true tenth score by more than rounding is a miss; among equals any will do.
        missed = sum(own[-1][1] < exact[-1][1] - 1e-3 for own, exact in zip(lists, best, strict=True))
        found.append(
            {"search": f"{num_beams} beams", "missed": missed, "users": len(best), "s a user": seconds / len(best)}
        )
    return found


def main(args: ScriptArguments) -> None:
    settings = environment() | {"seed": args.seed, "dtype": args.dtype}
    fitting, compiling = fitting_cost(args), compiling_cost(args)
    results = {"settings": settings, "fitting": fitting, "compiling": compiling}
    parts = [
        settings_line(settings),
        f"Transitions of {fitting['interactions']:,} interactions with {fitting['items']:,} items, "
        f"{fitting['transitions kept']:,} kept: {fitting['s']:.1f} s of one core, "
        f"{fitting['MB above the rows']:.0f} MB above the rows themselves.",
        f"Weights over {compiling['items']:,} items for {USERS_IN_A_BATCH} users, of one core: dense "
        f"{compiling['dense s']:.2f} s, sparse with {args.entries:,} entries a user {compiling['sparse s']:.2f} s.",
    ]
    if args.data_dir and args.model_name_or_path:
        results["exactness"] = rows = exactness(args)
        header = ["search", "users for whom one of the true ten best is missing", "CPU s a user"]
        body = [[row["search"], f"{row['missed']} of {row['users']}", f"{row['s a user']:.2f}"] for row in rows]
        parts.append(markdown_table(header, body))
    text = "\n\n".join(parts) + "\n"
    print(text)
    if args.output_file:
        write_report(args.output_file, text, results)


if __name__ == "__main__":
    run_script(main, ScriptArguments)
