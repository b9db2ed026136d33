"""
Do balanced codes make better semantic IDs than those of plain residual k-means?

    python benchmarks/codings.py --data_dir amazon/Industrial_and_Scientific

A catalogue's texts are embedded by MiniLM and coded by residual k-means, balanced and plain, with as many codes as
`propose_level_sizes` says. `codes.md` has collisions and perplexity of both. Then the SID-only decoder of
`sid_models.py` learns the training split in the SIDs of each, from scratch, so that nothing but the coding differs; a
seed decides both clusters and training. `runs/<coding>-seed<seed>.json` has the metrics on the whole test split and
`ranks/` the places of the targets; finished runs are not repeated. `summary.md` compares them, with a paired bootstrap
over users, all seeds of a user drawn together.

`--data_dir ml-100k` takes MovieLens from the wheel `recbole`, `--train false` describes the codes only.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import (
    DataArguments,
    Runs,
    draw_rows,
    markdown_table,
    replaced,
    run_script,
    spread,
    table_of,
    write_report,
    write_text,
)
from sid_models import DECODER, DECODER_TRAINING, NUM_BEAMS, train_decoder
from small_models import find_encoder

from tsrec_hf import (
    RecommendationDataset,
    RecommendationEvaluator,
    ResidualKMeans,
    SIDIndex,
    chronological_split,
    embed_items,
    load_recbole,
    movielens_from_wheel,
    open_dataset,
    paired_bootstrap,
    resolve_collisions,
    sid_report,
    tidy,
)
from tsrec_hf.recipes.raw_data import as_pairs
from tsrec_hf.sids import propose_level_sizes


CODINGS = {"balanced": True, "plain": False}
METRICS = ("hr@5", "ndcg@5", "hr@10", "ndcg@10")
MOVIELENS = "ml-100k"


@dataclass(kw_only=True)
class CodingArguments(DataArguments):
    """What to code, and how often to train on it."""

    fields: list[str] = field(
        default_factory=lambda: ["title=1", "description=0.5"], metadata={"help": "Columns of text and their weights."}
    )
    level_sizes: list[int] | None = field(default=None, metadata={"help": "Codes at each level; default: proposed."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "A run of each coding a seed."})
    train: bool = field(default=True, metadata={"help": "Whether to train on the codings, besides describing them."})
    num_epochs: int = field(default=DECODER_TRAINING["num_train_epochs"], metadata={"help": "Most passes."})
    num_valid_users: int = field(default=1000, metadata={"help": "Validation users that pick the epoch."})
    num_test_rows: int | None = field(default=None, metadata={"help": "Test rows, drawn at random; default: all."})
    quick: bool = field(default=False, metadata={"help": "One seed, four steps, few rows: shows that it runs."})
    output_dir: str = field(default="outputs/codings", metadata={"help": "Folder of the results."})

    def __post_init__(self):
        if self.quick:
            self.seeds = self.seeds[:1]


def load_dataset(data_dir: str) -> RecommendationDataset:
    """A prepared data set, or MovieLens-100k."""
    if data_dir != MOVIELENS:
        return open_dataset(data_dir)
    return tidy(load_recbole(movielens_from_wheel())).split(chronological_split, name=MOVIELENS)


def coded(
    dataset: RecommendationDataset, embeddings: np.ndarray, balanced: bool, level_sizes: list[int], seed: int
) -> tuple[RecommendationDataset, dict[str, Any]]:
    """The data set with the SIDs of a coding, and what the codes are like."""
    quantizer = ResidualKMeans(level_sizes, seed=seed, balanced=balanced).fit(embeddings)
    codes = resolve_collisions(quantizer.encode(embeddings), embeddings, quantizer)
    before, after = (sid_report(found, embeddings, quantizer) for found in (quantizer.encode(embeddings), codes))
    index = SIDIndex(dataset.items["item_id"][:], quantizer.drop_unused(codes), titles=dataset.items["title"][:])
    facts = {
        "codes": " x ".join(map(str, level_sizes)),
        "collision rate before": before.collision_rate,
        "after": after.collision_rate,
        "perplexity of the levels": " / ".join(f"{one:.1f}" for one in before.perplexity),
    }
    return replace(dataset, sid_index=index), facts


def run(args: CodingArguments, name: str, dataset: RecommendationDataset, seed: int) -> dict[str, Any]:
    """Trains the decoder on a coding, and evaluates it on the test split."""
    assert dataset.sid_index is not None
    model, tokenizer = train_decoder(dataset, seed, args.quick, args.num_epochs, args.num_valid_users)
    evaluator = RecommendationEvaluator(dataset.test, dataset.sid_index, dataset.train, ks=(5, 10))
    histories = dataset.test["history"][:]
    found = model.recommend(tokenizer, histories, top_k=evaluator.top_k, num_beams=NUM_BEAMS, batch_size=32)
    lists = [[item.item_id for item in items] for items in found]
    ranks = Path(args.output_dir, "ranks", f"{name}.npz")
    ranks.parent.mkdir(parents=True, exist_ok=True)
    with replaced(ranks) as part, part.open("wb") as file:
        np.savez_compressed(file, item=evaluator.ranks(lists, "item").numpy().astype(np.int32))
    return {"coding": name.partition("-")[0], "seed": seed, "test": evaluator.evaluate(lists)["all"]}


def summary(args: CodingArguments, results: list[dict[str, Any]], users: list[str]) -> str:
    """Means over seeds of both codings, and the paired differences."""
    rows = [
        [coding, *(spread([one["test"][metric] for one in results if one["coding"] == coding]) for metric in METRICS)]
        for coding in CODINGS
    ]

    def ranks(coding: str) -> torch.Tensor:
        files = [Path(args.output_dir, "ranks", f"{coding}-seed{seed}.npz") for seed in args.seeds]
        return torch.cat([torch.from_numpy(np.load(file)["item"]) for file in files])

    cells = []
    for metric in METRICS:
        found = paired_bootstrap(ranks("balanced"), ranks("plain"), metric, users=users * len(args.seeds))
        cells.append(f"{found.difference:+.4f} [{found.low:.4f}, {found.high:.4f}]")
    return markdown_table(["SIDs", *METRICS], [*rows, ["balanced minus plain", *cells]])


def main(args: CodingArguments) -> None:
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    assert args.data_dir is not None
    dataset = load_dataset(args.data_dir)
    num_rows = 64 if args.quick else args.num_test_rows
    if num_rows is not None:
        dataset = replace(dataset, test=draw_rows(dataset.test, min(num_rows, len(dataset.test))))
    weights = {name: float(weight) for name, weight in as_pairs(args.fields, "fields").items()}
    embeddings = embed_items(dataset.items, find_encoder(folder), fields=weights, cache_dir=folder / "cache")
    sizes = args.level_sizes or propose_level_sizes(len(embeddings))
    runs = Runs(folder / "runs", {"data": Path(args.data_dir).name, "fields": args.fields, "levels": sizes})
    made, facts, results = {}, [], []
    for seed in args.seeds:
        for coding, balanced in CODINGS.items():
            made[coding, seed], found = coded(dataset, embeddings, balanced, sizes, seed)
            facts.append({"SIDs": coding, "seed": seed, "items": len(embeddings)} | found)
    table = markdown_table(*table_of(facts, digits=4))
    write_text(folder / "codes.md", table + "\n")
    print(table, flush=True)
    names = ("quick", "num_epochs", "num_valid_users", "num_test_rows")
    settings = {name: getattr(args, name) for name in names} | {"settings": DECODER | DECODER_TRAINING}
    for seed in args.seeds if args.train else []:
        for coding in CODINGS:
            name, data = f"{coding}-seed{seed}", made[coding, seed]
            assert data.sid_index is not None
            fingerprint = data.sid_index.fingerprint
            results.append(runs.get(name, lambda: run(args, name, data, seed), index=fingerprint, **settings))
            print(name, {metric: round(results[-1]["test"][metric], 4) for metric in METRICS}, flush=True)
    if results:
        text = summary(args, results, dataset.test["user_id"][:])
        write_report(folder / "summary.md", text + "\n", {"runs": results})
        print(text)


if __name__ == "__main__":
    run_script(main, CodingArguments)
