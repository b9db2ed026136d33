"""
What does a catalogue of ten million items cost?

    python benchmarks/catalogue_scale.py

Synthetic catalogues of ten thousand to ten million items with three and four levels of 256 codes, each in a process of
its own: building the trie, saving and loading the index, looking items up, preparing a filter that allows half of the
items, and the constraint's share of one decoding step of 50 beams. That step is timed at every depth, since its cost
should grow with the children of the beams and not with the catalogue.

Times are those of one processor core (`time.process_time`), so that other jobs of the machine do not count; nor does
waiting for a disk. Memory is read from `/proc` (Linux).
"""

import json
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from common import in_new_process, markdown_table, resident_bytes, run_script, settings_line, write_report

from tsrec_hf import SIDIndex, SIDTrie
from tsrec_hf.models.filtering_tsrec import ItemFilter, NodeFilter


CODES = 256
VOCABULARY = 50_000
# Times are those of one processor core, so that other jobs of the machine do not count.
timed = partial(common.timed, clock=time.process_time)
# What a million items may cost at most.
BARS = {"trie s": 5.0, "trie MB": 100.0, "load s": 5.0, "filter by mask ms": 50.0}
BAR_ITEMS = 1_000_000


@dataclass
class ScriptArguments:
    """What to measure."""

    items: list[int] = field(
        default_factory=lambda: [10_000, 100_000, 1_000_000, 10_000_000], metadata={"help": "Catalogue sizes."}
    )
    levels: list[int] = field(default_factory=lambda: [3, 4], metadata={"help": "Numbers of levels."})
    beams: int = field(default=50, metadata={"help": "Beams of the step."})
    repeats: int = field(
        default=200, metadata={"help": "Timed steps, after a tenth as many to warm up; the median counts."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the codes."})
    output_dir: str = field(default="outputs/catalogue_scale", metadata={"help": "Folder of the results."})
    quick: bool = field(default=False, metadata={"help": "Up to a hundred thousand items."})
    case: bool = field(default=False, metadata={"help": "Internal: this process measures one case."})

    def __post_init__(self):
        self.items = [items for items in self.items if items <= 100_000] if self.quick else self.items


def steps(trie: SIDTrie, rules: NodeFilter, args: ScriptArguments) -> list[dict[str, float]]:
    """Times the constraint's share of one decoding step at each depth, and counts the children of the beams."""
    generator = torch.Generator().manual_seed(args.seed)
    logits = torch.randn(args.beams, VOCABULARY, generator=generator)
    token_ids = torch.randperm(VOCABULARY, generator=generator)[: trie.num_levels * CODES].view(-1, CODES)

    def step(nodes: torch.Tensor, depth: int, rules: NodeFilter | None = None) -> torch.Tensor:
        children, codes, legal = trie.children(nodes, depth)
        if rules is not None:
            legal = rules(children, legal)
        return logits[: len(nodes)].gather(-1, token_ids[depth][codes]).masked_fill_(~legal, -torch.inf)

    figures = []
    for depth in range(trie.num_levels):
        start, stop = trie.depth_starts[depth], trie.depth_starts[depth + 1]
        seconds, filtered, real = [], [], []
        for _ in range(args.repeats + args.repeats // 10):
            # Other nodes each time, since those of the step before would be in the processor's cache.
            nodes = torch.randint(start, stop, (min(args.beams, stop - start),), generator=generator)
            scores, elapsed = timed(lambda: step(nodes, depth))
            seconds.append(elapsed)
            filtered.append(timed(lambda: step(nodes, depth, rules))[1])
            real.append(int((scores > -torch.inf).sum()))
        figures.append(
            {
                "depth": depth,
                "prefixes": stop - start,
                "slots": len(nodes) * trie.max_children[depth],
                "children": statistics.mean(real),
                "us": 1e6 * statistics.median(seconds[args.repeats // 10 :]),
                "filtered us": 1e6 * statistics.median(filtered[args.repeats // 10 :]),
            }
        )
    return figures


def save_index(codes: np.ndarray, folder: str) -> dict[str, float]:
    """Writes an index with these codes to a folder; returns what that cost."""
    tokens = [[f"<{'abcdefgh'[level]}_{code}>" for code in range(CODES)] for level in range(codes.shape[1])]
    item_ids = [f"B{number:09d}" for number in range(len(codes))]
    before = resident_bytes()
    index, seconds = timed(lambda: SIDIndex(item_ids, codes, tokens=tokens))
    held = (resident_bytes() - before) / 1e6
    path, save_seconds = timed(lambda: index.save(folder))
    return {"index s": seconds, "index MB": held, "save s": save_seconds, "file MB": path.stat().st_size / 1e6}


def measure(items: int, levels: int, args: ScriptArguments) -> dict[str, Any]:
    """Measures one catalogue."""
    generator = np.random.default_rng(args.seed)
    codes = generator.integers(0, CODES, size=(items, levels), dtype=np.int32)
    SIDTrie(codes[:100])  # Warms up.
    before = resident_bytes()
    trie, trie_seconds = timed(lambda: SIDTrie(codes))
    figures: dict[str, Any] = {
        "items": items,
        "levels": levels,
        "sids": trie.num_leaves,
        "trie s": trie_seconds,
        "trie MB": sum(part.nbytes for part in vars(trie).values() if isinstance(part, torch.Tensor)) / 1e6,
        "trie peak MB": (resident_bytes(peak=True) - before) / 1e6,
    }
    del trie
    with tempfile.TemporaryDirectory() as folder:
        figures |= save_index(codes, folder)
        index, figures["load s"] = timed(lambda: SIDIndex.load(folder))
    trie = index.trie

    rows = generator.integers(0, items, size=2000)
    sids = [index.spell(row) for row in index.codes[rows]]
    found, seconds = timed(lambda: [index.items_of(sid) for sid in sids])
    if not all(index.item_ids[row] in ids for row, ids in zip(rows, found)):
        raise ValueError("An item is not among those of its SID: the figures would mean nothing.")
    figures["items_of us"] = 1e6 * seconds / len(sids)

    allowed = [index.item_ids[row] for row in generator.permutation(items)[: items // 2]]
    item_filter, first = timed(lambda: ItemFilter(index, trie, 1, allowed_items=allowed))
    again = [timed(lambda: ItemFilter(index, trie, 1, allowed_items=allowed))[1] for _ in range(5)]
    figures |= {"first filter ms": 1e3 * first, "filter ms": 1e3 * statistics.median(again)}
    mask, seconds = timed(lambda: index.mask_of(allowed))
    figures["mask of ids ms"] = 1e3 * seconds
    figures["filter by mask ms"] = 1e3 * statistics.median(
        [timed(lambda: ItemFilter(index, trie, 1, allowed_items=mask))[1] for _ in range(5)]
    )
    return figures | {"steps": steps(trie, item_filter.batch([0]), args), "peak MB": resident_bytes(peak=True) / 1e6}


def report(cases: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    """The results as Markdown, and whether the bars are met."""
    columns = {
        "trie built, s": ("trie s", ".3f"),
        "trie, MB": ("trie MB", ".1f"),
        "most held while building, MB": ("trie peak MB", ".0f"),
        "index made, s": ("index s", ".2f"),
        "index, its ids aside, MB": ("index MB", ".0f"),
        "saved, s": ("save s", ".2f"),
        "file, MB": ("file MB", ".1f"),
        "loaded, s": ("load s", ".2f"),
        "`items_of`, µs": ("items_of us", ".0f"),
        "filter over half by ids, ms (first)": ("filter ms", ".1f"),
        "mask made of half the ids, ms": ("mask of ids ms", ".1f"),
        "filter by that mask, ms": ("filter by mask ms", ".1f"),
        "peak of the process, MB": ("peak MB", ".0f"),
    }
    rows, step_rows = [], []
    for case in cases:
        name = [f"{case['items']:,}", str(case["levels"])]
        cells = [format(case[key], form) for key, form in columns.values()]
        cells[list(columns).index("filter over half by ids, ms (first)")] += f" ({case['first filter ms']:.1f})"
        rows.append([*name, f"{case['sids']:,}", *cells])
        for step in case["steps"]:
            step_rows.append(
                [
                    *name,
                    str(step["depth"]),
                    f"{step['prefixes']:,}",
                    f"{step['children']:,.0f}",
                    f"{step['slots']:,}",
                    f"{step['us']:.0f}",
                    f"{1000 * step['us'] / step['slots']:.1f}",
                    f"{step['filtered us']:.0f}",
                ]
            )
    lines = [
        settings_line(settings),
        "",
        markdown_table(["items", "levels", "SIDs", *columns], rows),
        "",
        "One decoding step: children looked up, their scores gathered, padding masked. Slots: for every beam, as many "
        "as the widest prefix of the depth has children.",
        "",
        markdown_table(
            [
                "items",
                "levels",
                "depth",
                "prefixes",
                "children of the beams",
                "slots",
                "µs",
                "ns a slot",
                "µs with the filter",
            ],
            step_rows,
        ),
    ]
    for case in cases:
        if case["items"] == BAR_ITEMS:
            told = [
                f"{key} {case[key]:.2f} of {bar:g}: {'met' if case[key] < bar else 'missed'}"
                for key, bar in BARS.items()
            ]
            lines += ["", f"Bars, {case['items']:,} items of {case['levels']} levels: {'; '.join(told)}."]
    return "\n".join(lines) + "\n"


def main(args: ScriptArguments) -> None:
    if args.case:
        torch.set_num_threads(1)
        print(json.dumps(measure(args.items[0], args.levels[0], args)))
        return
    cases = []
    for items in args.items:
        for levels in args.levels:
            options = {
                "items": items,
                "levels": levels,
                "beams": args.beams,
                "repeats": args.repeats,
                "seed": args.seed,
            }
            line = [part for name, value in options.items() for part in (f"--{name}", str(value))]
            cases.append(in_new_process(__file__, "--case", *line)[1])
            print({name: value for name, value in cases[-1].items() if name != "steps"}, flush=True)
    settings = {
        "codes a level": CODES,
        "beams": args.beams,
        "seed": args.seed,
        "threads": 1,
        "torch": torch.__version__,
    }
    text = report(cases, settings)
    print(text)
    write_report(Path(args.output_dir, "catalogue_scale.md"), text, {"settings": settings, "cases": cases})


if __name__ == "__main__":
    run_script(main, ScriptArguments)
