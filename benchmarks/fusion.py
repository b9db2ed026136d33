"""
How far priors, and another recommender's scores, take a model on a whole test split.

    python benchmarks/fusion.py --data_dir amazon/Industrial_and_Scientific --model_name_or_path outputs/sft \
        --similarity true --scores outputs/baselines/scores/sasrec-seed0

The validation split chooses the weights: one search a row, by a mixture with the priors, finds the candidates with the
model's exact probabilities; a grid then ranks them without the model, and the highest NDCG@10 by item wins. With
`--similarity` the grid is repeated with the similarity of titles among the priors, and with `--scores` (the files
`-valid.npy` and `-test.npy` that `baselines.py --save_scores` writes) with those scores as a further factor: `log p +
weight * log(transitions + share * popularity + share * similarity) + power * log scores`. The test split is searched
once for each.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from common import DataArguments, markdown_table, run_script, write_report
from datasets import Dataset
from small_models import load_semantics, save_untrained_recommender, title_similarity

from tsrec_hf import (
    ItemPrior,
    NextItemPrior,
    PopularityPrior,
    RecommendationEvaluator,
    TSRecForCausalLM,
    TSRecTokenizer,
    load_recommender,
    ndcg_at_k,
    open_dataset,
    paired_bootstrap,
)


SHARES = (0.1, 0.3, 1.0, 3.0, 10.0)
SIMILARITY_SHARES = (0.0, 0.3, 1.0, 3.0, 10.0)
WEIGHTS = (0.6, 0.8, 1.0, 1.3, 1.7, 2.2, 3.0, 4.5, 7.0, 12.0)
POWERS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8)
ROWS_TOGETHER = 256
LISTS = ("model", "transitions and popularity", "and similarity", "and scores")
COLUMNS = [f"{match}{metric}@{k}" for match in ("sid_", "") for k in (3, 5, 10) for metric in ("hr", "ndcg")]


@dataclass(kw_only=True)
class FusionArguments(DataArguments):
    """Which recommender, and what is fused with it."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Recommender; default: an untrained one."})
    scores: str | None = field(default=None, metadata={"help": "Beginning of the names of two files of scores."})
    similarity: bool = field(default=False, metadata={"help": "Whether to try the similarity of titles as well."})
    lists: list[str] = field(
        default_factory=list, metadata={"help": f"Rows of the table, of {LISTS}; default: all that can be."}
    )
    num_candidates: int = field(default=120, metadata={"help": "Candidates of a validation row."})
    num_beams: int = field(default=50, metadata={"help": "Beams of the searches for the test split."})
    num_rows: int | None = field(default=None, metadata={"help": "Rows of each split; default: all."})
    valid_rows: int | None = field(default=None, metadata={"help": "Rows drawn of the validation split; all."})
    dtype: str = field(default="bfloat16", metadata={"help": "Type of the weights."})
    quick: bool = field(default=False, metadata={"help": "Few rows: shows that the script runs."})
    output_dir: str = field(default="outputs/fusion", metadata={"help": "Folder of the table and the ranks."})

    def __post_init__(self):
        if set(self.lists) - set(LISTS):
            raise ValueError(f"Expected `--lists` among {LISTS}, but found {self.lists}.")
        if self.scores and self.valid_rows is not None:
            raise ValueError("Expected all validation rows with `--scores`. Leave `--valid_rows` out.")
        if self.quick:
            self.num_rows = self.num_rows or 32
            self.num_candidates = self.num_beams = 20


class Search:
    """A recommender and what is fused with it, for the rows of a split."""

    def __init__(self, args: FusionArguments, model: TSRecForCausalLM, tokenizer: TSRecTokenizer, train: Dataset):
        self.args, self.model, self.tokenizer, self.index = args, model, tokenizer, tokenizer.sid_index
        self.priors: list[ItemPrior] = [kind.fit(train, self.index) for kind in (NextItemPrior, PopularityPrior)]

    def weights(self, histories: list[list[str]]) -> np.ndarray:
        """Weights of transitions, popularity and perhaps similarity, `(priors, rows, items)`."""
        return np.stack([prior.log_weights(histories).exp().numpy() for prior in self.priors])

    def scores(self, split: str, rows: slice) -> np.ndarray:
        """Logarithms of the other recommender's scores, `(rows, items)`."""
        return np.load(f"{self.args.scores}-{split}.npy", mmap_mode="r")[rows].astype(np.float32)

    def candidates(self, rows: Dataset) -> tuple[np.ndarray, ...]:
        """Of every validation row: items, log-probabilities, scores (0 without) and each prior's weights."""
        found: list[tuple[np.ndarray, ...]] = []
        for start in range(0, len(rows), ROWS_TOGETHER):
            part = slice(start, min(start + ROWS_TOGETHER, len(rows)))
            histories = rows["history"][part]
            weights = self.weights(histories)
            items = self.model.recommend(
                self.tokenizer,
                histories,
                top_k=self.args.num_candidates,
                num_beams=self.args.num_candidates,
                prior=weights.mean(0),
                prior_form="mixture",
                prior_weight=1.0,
            )
            places = np.array([self.index.positions_of([item.item_id for item in row]) for row in items])
            log_probs = np.array([[item.log_prob for item in row] for row in items], dtype=np.float32)
            scores = np.zeros_like(log_probs)
            if self.args.scores:
                scores = np.take_along_axis(self.scores("valid", part), places, axis=1)
            pooled = [np.take_along_axis(one, places, axis=1) for one in weights]
            found.append((places, log_probs, scores, *pooled))
        return tuple(np.concatenate(parts) for parts in zip(*found))

    def lists(self, rows: Dataset, choice: "Choice | None", top_k: int) -> list[list[str]]:
        """Recommended items of every test row, by shares, a weight and a power, or by the model alone."""
        lists: list[list[str]] = []
        for start in range(0, len(rows), ROWS_TOGETHER):
            part = slice(start, min(start + ROWS_TOGETHER, len(rows)))
            histories, prior = rows["history"][part], None
            if choice is not None:
                logs = choice.weight * np.log(mixed(self.weights(histories), choice.shares))
                if choice.power:
                    logs += choice.power * self.scores("test", part)
                prior = np.exp(logs - logs.max(axis=1, keepdims=True))
            settings = {"prior_form": "log_linear", "prior_weight": 1.0} if choice is not None else {}
            found = self.model.recommend(
                self.tokenizer, histories, top_k=top_k, num_beams=self.args.num_beams, prior=prior, **settings
            )
            lists += [[item.item_id for item in items] for items in found]
        return lists


@dataclass(frozen=True, order=True)
class Choice:
    """How everything is combined, and what that reached on the validation rows."""

    ndcg: float
    shares: tuple[float, ...]
    weight: float
    power: float


def mixed(weights: Sequence[np.ndarray], shares: tuple[float, ...]) -> np.ndarray:
    """Transitions with shares of the other priors, of which those without a share are left out."""
    return weights[0] + sum(share * one for share, one in zip(shares, weights[1:]) if share)


def choose(
    candidates: tuple[np.ndarray, ...],
    targets: np.ndarray,
    similarity_shares: Sequence[float],
    powers: Sequence[float],
) -> Choice:
    """The combination of the highest NDCG@10 on the validation rows."""
    places, log_probs, scores, *weights = candidates
    is_target = places == targets[:, None]
    column, known = is_target.argmax(axis=1)[:, None], is_target.any(axis=1)
    best = None
    for *shares, weight, power in product(SHARES, similarity_shares, WEIGHTS, powers):
        total = log_probs + weight * np.log(mixed(weights, tuple(shares))) + power * scores
        own = np.take_along_axis(total, column, axis=1)
        ranks = torch.from_numpy(np.where(known, (total > own).sum(axis=1), -1))
        found = Choice(ndcg_at_k(ranks, 10).item(), tuple(shares), weight, power)
        best = found if best is None else max(best, found)
    assert best is not None
    return best


def main(args: FusionArguments) -> None:
    dataset = open_dataset(args.data_dir)
    with TemporaryDirectory() as folder:
        name = args.model_name_or_path
        if name is None:
            name = save_untrained_recommender(Path(folder), dataset, load_semantics(args.data_dir))
        model, tokenizer = load_recommender(name, sid_index=dataset.sid_index, dtype=args.dtype)
    search = Search(args, model, tokenizer, dataset.train)
    valid, test = (
        rows if args.num_rows is None else rows.select(range(args.num_rows)) for rows in (dataset.valid, dataset.test)
    )
    if args.valid_rows is not None:
        drawn = np.sort(np.random.default_rng(0).permutation(len(valid))[: args.valid_rows])
        valid = valid.select(drawn)
    if args.similarity:
        search.priors.append(title_similarity(dataset, Path(args.output_dir)))
    candidates = search.candidates(valid)
    targets = np.array(search.index.positions_of(valid["target"][:]))
    model_alone, counts, with_similarity, with_scores = LISTS
    choices: dict[str, Choice | None] = {model_alone: None}
    choices[counts] = choose(candidates, targets, (0.0,), (0.0,))
    shares = SIMILARITY_SHARES if args.similarity else (0.0,)
    if args.similarity:
        choices[with_similarity] = choose(candidates, targets, shares, (0.0,))
    if args.scores:
        choices[with_scores] = choose(candidates, targets, shares, POWERS)
    for name, choice in choices.items():
        print(name, choice, flush=True)
    choices = {name: choice for name, choice in choices.items() if not args.lists or name in args.lists}
    evaluator = RecommendationEvaluator(test, search.index, dataset.train)
    rows, ranks, facts = [], {}, {}
    for name, choice in choices.items():
        lists = search.lists(test, choice, evaluator.top_k)
        metrics = evaluator.evaluate(lists)
        ranks[name] = {match: evaluator.ranks(lists, match) for match in ("item", "sid")}
        facts[name] = {"chosen": None if choice is None else asdict(choice), "metrics": metrics}
        cells, first = [], next(iter(ranks.values()))
        for match in ("sid", "item"):
            users = test["user_id"][:]
            found = paired_bootstrap(ranks[name][match], first[match], users=users)
            cells.append(f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]")
        rows.append([name, *(f"{metrics['all'][column]:.4f}" for column in COLUMNS), *cells])
    header = ["fused with", *COLUMNS, "SID NDCG@10 - first's", "NDCG@10 - first's"]
    table = markdown_table(header, rows)
    print(table)
    folder = Path(args.output_dir)
    write_report(folder / "fusion.md", table + "\n", facts)
    for name, found in ranks.items():
        np.savez_compressed(folder / f"ranks-{name.replace(' ', '-')}.npz", **{k: v.numpy() for k, v in found.items()})


if __name__ == "__main__":
    run_script(main, FusionArguments)
