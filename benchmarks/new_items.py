"""
Does a recommender find items that training never showed, and what helps?

    python benchmarks/new_items.py --data_dir amazon/Industrial_and_Scientific --model_name_or_path outputs/sft

Rows of the test split whose target is new, and a sample of the others. Lists of ten by the model, by the model with a
prior of transitions, popularity and similarity that `fit_prior` weighs on validation rows, and by similarity alone;
then with some of the ten places kept for new items, which the model or similarity fills (`allowed_items`). New are the
items that no row of the training split holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import DataArguments, draw_rows, environment, markdown_table, run_script, settings_line, write_report
from datasets import Dataset
from small_models import title_similarity

from tsrec_hf import (
    NextItemPrior,
    PopularityPrior,
    SimilarityPrior,
    TSRecForCausalLM,
    TSRecTokenizer,
    fit_prior,
    open_dataset,
)
from tsrec_hf.evaluation.slices import find_slices


TOP_K = 10
PLACES = (1, 2, 3)


@dataclass(kw_only=True)
class ScriptArguments(DataArguments):
    """What to measure."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Folder of the trained recommender."})
    encoder: str | None = field(default=None, metadata={"help": "Encoder of titles; default: all-MiniLM-L6-v2."})
    num_rows: int = field(default=1000, metadata={"help": "Rows of known targets, drawn."})
    validation_rows: int = field(default=600, metadata={"help": "Rows that the prior is weighed on."})
    num_beams: int = field(default=50, metadata={"help": "Beams of all searches."})
    seed: int = field(default=0, metadata={"help": "Seed of the draws."})
    output: str | None = field(default=None, metadata={"help": "Report to write; a JSON file beside it."})
    work_dir: str = field(default="outputs/new_items", metadata={"help": "Folder of the embeddings' cache."})
    quick: bool = field(default=False, metadata={"help": "A few rows and beams: does the script run?"})

    def __post_init__(self):
        if self.quick:
            self.num_rows, self.validation_rows, self.num_beams = 8, 8, 20


def seen_items(rows: Dataset) -> set[str]:
    return set(rows["target"][:]).union(*rows["history"][:])


def hit_rate(lists: Sequence[Sequence[str]], targets: Sequence[str]) -> float:
    return float(np.mean([target in found for found, target in zip(lists, targets, strict=True)]))


class Lists:
    """Lists of ids for the rows of one kind."""

    def __init__(self, args: ScriptArguments, rows: Dataset, model: TSRecForCausalLM, tokenizer: TSRecTokenizer):
        self.args, self.model, self.tokenizer = args, model, tokenizer
        self.histories, self.targets = rows["history"][:], rows["target"][:]

    def search(self, top_k: int = TOP_K, **options: Any) -> list[list[str]]:
        found = self.model.recommend(
            self.tokenizer, self.histories, top_k=top_k, num_beams=self.args.num_beams, batch_size=64, **options
        )
        return [[item.item_id for item in items] for items in found]

    def similar(self, prior: SimilarityPrior, among: np.ndarray) -> list[list[str]]:
        weights = prior.log_weights(self.histories).masked_fill(~torch.from_numpy(among), -torch.inf)
        ids = self.tokenizer.sid_index.item_ids
        return [[ids[row] for row in rows] for rows in weights.topk(TOP_K).indices.tolist()]


def main(args: ScriptArguments) -> None:
    if args.model_name_or_path is None:
        print("Skipped: name a trained recommender by --model_name_or_path.")
        return
    dataset = open_dataset(args.data_dir)
    model = TSRecForCausalLM.from_pretrained(args.model_name_or_path, dtype=torch.float32).eval()
    tokenizer = TSRecTokenizer.from_pretrained(args.model_name_or_path)
    tokenizer.set_prior(None)
    index = tokenizer.sid_index
    is_new = ~index.mask_of(seen_items(dataset.train) & set(index.item_ids))
    new = [item_id for item_id, one in zip(index.item_ids, is_new) if one]
    cold = find_slices(dataset.test["history"][:], dataset.test["target"][:], dataset.train)["cold"].numpy()
    kinds = {
        "new": dataset.test.select(np.flatnonzero(cold)),
        "known": draw_rows(
            dataset.test.select(np.flatnonzero(~cold)), min(args.num_rows, int((~cold).sum())), args.seed
        ),
    }
    similarity = title_similarity(dataset, Path(args.work_dir), args.encoder)

    results: dict[str, dict[str, float]] = {}

    def note(name: str, kind: str, found: Sequence[Sequence[str]]) -> None:
        results.setdefault(name, {})[kind] = hit_rate(found, lists.targets)
        print(name, kind, results[name][kind], flush=True)

    for kind, rows in kinds.items():
        lists = Lists(args, rows, model, tokenizer)
        everything, of_new = lists.search(), lists.search(allowed_items=is_new)
        similar, similar_new = (lists.similar(similarity, among) for among in (np.ones_like(is_new), is_new))
        note("model", kind, everything)
        note("similarity alone", kind, similar)
        for places in PLACES:
            kept = [found[: TOP_K - places] for found in everything]
            for name, fill in (("the model", of_new), ("similarity", similar_new)):
                filled = [[*one, *other[:places]] for one, other in zip(kept, fill, strict=True)]
                note(f"model, {places} of ten places for new items by {name}", kind, filled)
        note("among new items alone: model", kind, of_new)
        note("among new items alone: similarity", kind, similar_new)
    priors = [kind.fit(dataset.train, index) for kind in (NextItemPrior, PopularityPrior)]
    fit = fit_prior(model, tokenizer, [*priors, similarity], dataset.valid, num_rows=args.validation_rows)
    for kind, rows in kinds.items():
        lists = Lists(args, rows, model, tokenizer)
        note("model and prior (transitions, popularity, similarity)", kind, lists.search())

    settings = environment() | {"rows": {kind: len(rows) for kind, rows in kinds.items()}, "new items": len(new)}
    settings |= {"catalogue": len(index), "beams": args.num_beams, "prior": f"{fit.form} {fit.weight} {fit.shares}"}
    body = [[name, *(f"{found[kind]:.4f}" for kind in kinds)] for name, found in results.items()]
    header = [f"HR@{TOP_K}", *(f"rows of {kind} targets" for kind in kinds)]
    text = f"{settings_line(settings)}\n\n{markdown_table(header, body)}\n"
    print(text)
    if args.output:
        write_report(args.output, text, {"settings": settings, "results": results})


if __name__ == "__main__":
    run_script(main, ScriptArguments)
