"""
What the field's own recommenders reach on a data set's splits, catalogue and metrics.

    python benchmarks/baselines.py --data_dir amazon/Industrial_and_Scientific

Popularity, next-item counts, transitions and the similarity of titles are the library's own, as is `all-priors`, the
sum of all, whose shares the validation split chooses; the sequential models are Cornac's (`pip install
tsrec_hf[baselines]`), SASRec also with cross-entropy over the whole catalogue; `sid-decoder` is a small Llama that our
trainer trains from scratch on SIDs alone. `tiger` takes hours on a CPU and runs where `--models` names it.

Validation picks a model's epoch by NDCG@10; the test split is scored once. Each run (a model and a seed) writes
`runs/<model>-seed<seed>.json` with its metrics on all rows and on every slice, and `ranks/<model>-seed<seed>.npz` with
the places of the targets by item and by SID (-1: not among the first ones), which `paired_bootstrap` compares.
Finished runs are not repeated. `summary.md` shows mean and spread over seeds of all finished runs.

`--save_scores` also writes `scores/<model>-seed<seed>-valid.npy` and `-test.npy`: logarithms of a softmax over the
catalogue, float16, rows in the order of the split, columns in that of the SID index. Their exponential is what
`recommend(prior=...)` takes.
"""

from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import DataArguments, Runs, draw_rows, markdown_table, replaced, run_script, spread, write_report
from cornac_models import SETTINGS, Scorer, cornac_is_installed, fit_cornac_model, settings_of
from datasets import Dataset
from sid_models import DECODER, DECODER_TRAINING, UNNAMED, fit_decoder
from small_models import title_similarity

from tsrec_hf import (
    ItemPrior,
    NextItemPrior,
    NextItemRecommender,
    PopularityPrior,
    PopularityRecommender,
    RecommendationDataset,
    RecommendationEvaluator,
    ndcg_at_k,
    open_dataset,
)


COUNTS = ("popularity", "next-item-counts", "transitions")
# A text encoder's, whose vectors are all that is computed.
TITLES = ("similarity", "all-priors")
SLOW = ("tiger",)
MODELS = [*COUNTS, *TITLES, *(name for name in SETTINGS if name not in SLOW), "sid-decoder"]
KS = (1, 3, 5, 10)
SHARES = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
MOST_CHOOSING_ROWS = 5000
ROWS_TOGETHER = 512
QUICK_ROWS = 256
COLUMNS = [f"{match}{metric}@{k}" for match in ("", "sid_") for metric in ("hr", "ndcg") for k in (5, 10)]


@dataclass(kw_only=True)
class BaselineArguments(DataArguments):
    """What to train, and where the results go."""

    models: list[str] = field(default_factory=lambda: list(MODELS), metadata={"help": f"Among {[*MODELS, *SLOW]}."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "A run each, but one for counts."})
    save_scores: bool = field(default=False, metadata={"help": "Also write the scores of both splits as float16."})
    quick: bool = field(default=False, metadata={"help": "One epoch, one seed, few rows: shows that the script runs."})
    output_dir: str = field(default="outputs/baselines", metadata={"help": "Folder of the results."})

    def __post_init__(self):
        unknown = [name for name in self.models if name not in (*MODELS, *SLOW)]
        if unknown:
            raise ValueError(f"Expected models among {[*MODELS, *SLOW]}, but found {unknown}.")
        if self.quick:
            self.seeds = self.seeds[:1]


def fit(name: str, dataset: RecommendationDataset, seed: int, quick: bool, folder: Path) -> Scorer:
    """Trains one baseline; returns what scores the catalogue for rows."""
    assert dataset.sid_index is not None
    if name == "similarity":
        similarity = title_similarity(dataset, folder)
        return lambda rows: similarity.log_weights(rows["history"][:]).numpy()
    if name == "all-priors":
        return _fit_all_priors(dataset, folder)
    if name == "transitions":
        prior = NextItemPrior.fit(dataset.train, dataset.sid_index)
        return lambda rows: prior.log_weights(rows["history"][:]).numpy()
    if name in COUNTS:
        kind = PopularityRecommender if name == "popularity" else NextItemRecommender
        return _ranking_scorer(kind(dataset.train), dataset)
    return (fit_decoder if name == "sid-decoder" else _fit_cornac(name))(dataset, seed, quick)


def _fit_all_priors(dataset: RecommendationDataset, folder: Path) -> Scorer:
    """Transitions with shares of popularity and of similarity, by the highest NDCG@10 on validation rows."""
    index = dataset.sid_index
    assert index is not None
    counts: list[ItemPrior] = [kind.fit(dataset.train, index) for kind in (NextItemPrior, PopularityPrior)]
    priors = [*counts, title_similarity(dataset, folder)]

    def weights(rows: Dataset) -> torch.Tensor:
        """Of all priors, `(priors, rows, items)`."""
        return torch.stack([prior.log_weights(rows["history"][:]).exp() for prior in priors])

    rows = draw_rows(dataset.valid, min(MOST_CHOOSING_ROWS, len(dataset.valid)))
    ranks: defaultdict[tuple[float, float], list[torch.Tensor]] = defaultdict(list)
    for start in range(0, len(rows), ROWS_TOGETHER):
        some = rows.select(range(start, min(start + ROWS_TOGETHER, len(rows))))
        found, targets = weights(some), torch.tensor(index.positions_of(some["target"][:])).unsqueeze(1)
        for shares in product(SHARES, SHARES):
            total = torch.tensordot(torch.tensor([1.0, *shares]), found, dims=1)
            ranks[shares].append((total > total.gather(1, targets)).sum(1))
    chosen = max(ranks, key=lambda shares: ndcg_at_k(torch.cat(ranks[shares]), 10).item())
    print(f"all-priors: transitions + {chosen[0]:g} popularity + {chosen[1]:g} similarity", flush=True)
    return lambda rows: torch.tensordot(torch.tensor([1.0, *chosen]), weights(rows), dims=1).log().numpy()


def _fit_cornac(name: str) -> Callable[[RecommendationDataset, int, bool], Scorer]:
    return lambda dataset, seed, quick: fit_cornac_model(name, dataset, seed, quick)


def _ranking_scorer(recommender: Any, dataset: RecommendationDataset) -> Scorer:
    """Scores of a recommender that only makes lists: the negative place in the list of the whole catalogue."""
    index = dataset.sid_index

    def score(rows: Dataset) -> np.ndarray:
        lists = recommender.recommend(rows["history"][:], top_k=len(index))
        scores = np.full((len(rows), len(index)), UNNAMED)
        for row, items in enumerate(lists):
            scores[row, index.positions_of(items)] = -np.arange(len(items))
        return scores

    return score


def run_settings(name: str, dataset: RecommendationDataset, quick: bool) -> dict[str, Any]:
    """What a run depends on."""
    assert dataset.sid_index is not None
    facts = {
        "index": dataset.sid_index.fingerprint,
        "rows": [len(dataset.train), len(dataset.valid), len(dataset.test)],
    }
    if name == "sid-decoder":
        return facts | {"quick": quick, "settings": DECODER | DECODER_TRAINING}
    return facts | {"quick": quick, "settings": settings_of(name, quick) if name in SETTINGS else {}}


def ranked(
    scorer: Scorer, rows: Dataset, top_k: int, dataset: RecommendationDataset, scores_file: Path | None
) -> list[list[str]]:
    """Ranks the catalogue for rows, some at a time; writes the scores to a file if one is named."""
    assert dataset.sid_index is not None
    ids, lists = dataset.sid_index.item_ids, []
    written = scores_file and np.lib.format.open_memmap(scores_file, "w+", np.float16, (len(rows), len(ids)))
    for start in range(0, len(rows), ROWS_TOGETHER):
        some = rows.select(range(start, min(start + ROWS_TOGETHER, len(rows))))
        scores = torch.from_numpy(np.ascontiguousarray(scorer(some), dtype=np.float32))
        # A stable sort: items of equal score stand in index order.
        values, best = (part[:, :top_k] for part in scores.sort(dim=-1, descending=True, stable=True))
        lengths = (values > float(UNNAMED)).sum(1).tolist()
        lists += [[ids[item] for item in row[:length]] for row, length in zip(best.tolist(), lengths)]
        if written is not None:
            written[start : start + len(some)] = scores.log_softmax(-1).clamp(min=float(UNNAMED)).half().numpy()
    return lists


def run(args: BaselineArguments, name: str, seed: int, dataset: RecommendationDataset) -> dict[str, Any]:
    """Trains one baseline with one seed, and evaluates it on the validation and the test split."""
    assert dataset.sid_index is not None
    folder = Path(args.output_dir)
    scorer, metrics = fit(name, dataset, seed, args.quick, folder), {}
    (folder / "ranks").mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:
        for split in ("valid", "test"):
            rows = getattr(dataset, split)
            evaluator = RecommendationEvaluator(rows, dataset.sid_index, dataset.train, ks=KS)
            file = scores_file(folder, name, seed, split)
            part = files.enter_context(replaced(file)) if args.save_scores else None
            lists = ranked(scorer, rows, evaluator.top_k, dataset, part)
            metrics[split] = evaluator.evaluate(lists)
        places = {match: evaluator.ranks(lists, match).numpy().astype(np.int32) for match in ("item", "sid")}
        with replaced(folder / "ranks" / f"{name}-seed{seed}.npz") as part, part.open("wb") as file:
            np.savez_compressed(file, **places)
    test = metrics["test"]["all"]
    print(f"{name}, seed {seed}: HR@10 {test['hr@10']:.4f}, NDCG@10 {test['ndcg@10']:.4f}", flush=True)
    return {"model": name, "seed": seed, "metrics": metrics}


def scores_file(folder: Path, name: str, seed: int, split: str) -> Path:
    """Where `--save_scores` puts the scores of a run on a split."""
    return folder / "scores" / f"{name}-seed{seed}-{split}.npy"


def summary(results: list[dict[str, Any]]) -> str:
    """The table of all finished runs: mean and spread over the seeds of each model, best NDCG@10 last."""
    runs: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        runs[result["model"]].append(result)
    lines = []
    for name, found in runs.items():
        tests = [result["metrics"]["test"]["all"] for result in found]
        means = [spread([test[column] for test in tests]) for column in COLUMNS]
        valid = spread([result["metrics"]["valid"]["all"]["ndcg@10"] for result in found])
        seconds = round(sum(result["seconds"] for result in found) / len(found))
        lines.append([name, len(found), *means, valid, seconds])
    lines.sort(key=lambda line: line[2 + COLUMNS.index("ndcg@10")])
    return markdown_table(["model", "seeds", *COLUMNS, "ndcg@10, validation", "seconds"], lines)


def figures(result: dict[str, Any]) -> dict[str, Any]:
    """A run without its slices, which its own file holds."""
    return result | {"metrics": {split: slices["all"] for split, slices in result["metrics"].items()}}


def main(args: BaselineArguments) -> None:
    dataset = open_dataset(args.data_dir)
    if dataset.sid_index is None:
        raise ValueError(f"Expected a SID index in {args.data_dir!r}, but found none. Make one with `build_sids.py`.")
    if args.quick:
        valid, test = (rows.select(range(min(QUICK_ROWS, len(rows)))) for rows in (dataset.valid, dataset.test))
        dataset = replace(dataset, valid=valid, test=test)
    print(dataset)
    folder = Path(args.output_dir)
    runs = Runs(folder / "runs", {})
    for name in args.models:
        if name in SETTINGS and not cornac_is_installed():
            print(f"{name} skipped: it needs Cornac, `pip install '.[baselines]'` in a clone of the repository.")
            continue
        for seed in args.seeds[:1] if name in (*COUNTS, *TITLES, "item-knn") else args.seeds:
            if args.save_scores and not scores_file(folder, name, seed, "test").exists():
                # Only training again gives the scores of a run that did not keep them.
                (runs.folder / f"{name}-seed{seed}.json").unlink(missing_ok=True)
            settings = run_settings(name, dataset, args.quick)
            runs.get(f"{name}-seed{seed}", lambda: run(args, name, seed, dataset), **settings)
            finished = runs.finished()
            write_report(folder / "summary.md", summary(finished) + "\n", {"runs": [figures(one) for one in finished]})
    print((folder / "summary.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    run_script(main, BaselineArguments)
