"""
Tables and comparisons of the runs that `reproduce.py` has finished.

    python benchmarks/reproduce_report.py --dataset industrial --document outputs/reproduce/industrial.md
    python benchmarks/reproduce_report.py --dataset industrial scientific \
        --data_dir amazon/Industrial_and_Scientific scientific/Scientific.index.rqvae_native.json

Nothing is trained: ranks of every row were kept. A comparison takes the seeds that both of its runs have, and draws
users with replacement (`paired_bootstrap`), all seeds of a user together; a claim counts as confirmed where the whole
95 % interval of NDCG@10 lies on its side of 0, and so does the difference of each pair, of two or more. With
`--data_dir` the claims are also tested on the rows whose target never followed an item of the history in training,
where counts have nothing; and of several sets of runs together, the users of one data set drawn with all of its runs.
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Runs, markdown_table, run_script, spread, write_text
from reproduce import Recipe

from tsrec_hf import open_dataset, paired_bootstrap
from tsrec_hf.evaluation.slices import find_slices


BEST = "30-layers-3-passes-dropout-0.2"
# What the paper claims, or what decides it: a title, and the runs of which the first is to be better.
CONTRASTS = [
    ("SA-Init (published) against random rows", "initialization/published", "initialization/random"),
    ("its meaning: against shuffled keywords", "initialization/published", "initialization/published-shuffled"),
    ("our default against random rows", "initialization/default", "initialization/random"),
    ("its meaning: against shuffled keywords", "initialization/default", "initialization/default-shuffled"),
    ("our default against the published form", "initialization/default", "initialization/published"),
    ("our default against random rows, 30 layers", f"recipe/{BEST}", f"recipe/{BEST}-random"),
    ("its meaning, 30 layers: against shuffled keywords", f"recipe/{BEST}", f"recipe/{BEST}-shuffled"),
    ("all levels against the first alone", "initialization/default", "initialization/default-level1"),
    ("all levels against the first two", "initialization/default", "initialization/default-levels12"),
    ("LoRA: our default against random rows", "initialization/lora-default", "initialization/lora-random"),
    ("LoRA: its meaning", "initialization/lora-default", "initialization/lora-default-shuffled"),
    (
        "SID rows grounded in the descriptions first, against our default",
        "initialization/grounded",
        "initialization/default",
    ),
    ("TS-Align against the sequence task alone", "alignment/align", "initialization/default"),
    ("its meaning: against shuffled descriptions", "alignment/align", "alignment/align-shuffled"),
    ("the four tasks against the sequence task alone", "alignment/four-tasks", "initialization/default"),
    ("layers of another catalogue's recommender", "transfer/trained", "initialization/default"),
]
SETTINGS = ("num_layers", "num_passes", "learning_rate", "batch_size", "weight_decay", "average_from", "item_dropout")


@dataclass
class ReportArguments:
    """Where the runs are, and where the tables go."""

    output_dir: str = field(default="outputs/reproduce", metadata={"help": "Folder of `reproduce.py`'s results."})
    dataset: list[str] = field(
        default_factory=lambda: ["industrial"], metadata={"help": "Data sets, which are folders of the results."}
    )
    data_dir: list[str] = field(
        default_factory=list, metadata={"help": "The data of each, to tell new transitions from memorised."}
    )
    document: str | None = field(default=None, metadata={"help": "Markdown file to write beside printing."})
    best: str | None = field(default=None, metadata={"help": "Run, `section/name`, to set beside the baselines."})
    baselines_dir: str = field(default="outputs/baselines", metadata={"help": "Folder of `baselines.py`'s results."})
    quick: bool = field(default=False, metadata={"help": "Fewer resamples."})

    def __post_init__(self):
        if self.data_dir and len(self.data_dir) != len(self.dataset):
            raise ValueError(
                f"Expected a `--data_dir` for each of {self.dataset}, in their order, but found {self.data_dir}."
            )


class Results:
    """The finished runs of a data set: `runs["section/name"]` by seed, and the ranks of their rows."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.runs: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        for section in sorted(path for path in (folder / "runs").glob("*") if path.is_dir()):
            for run in Runs(section, {}).finished():
                self.runs[run["name"].rpartition("-seed")[0]][run["seed"]] = run

    def section(self, name: str) -> dict[str, dict[int, dict[str, Any]]]:
        return {run: seeds for run, seeds in self.runs.items() if run.startswith(f"{name}/")}

    def ranks(self, run: str, seed: int, key: str) -> torch.Tensor:
        with np.load(self.folder / "ranks" / f"{run}-seed{seed}.npz") as ranks:
            return torch.from_numpy(ranks[key].astype(np.int64))

    def pairs(
        self, first: str, second: str, key: str, rows: torch.Tensor | slice = slice(None)
    ) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Ranks of two runs and the users, for each seed that both have."""
        seeds = sorted(set(self.runs.get(first, {})) & set(self.runs.get(second, {})))
        return [
            (
                self.ranks(first, seed, key)[rows],
                self.ranks(second, seed, key)[rows],
                self.ranks(first, seed, "users")[rows],
            )
            for seed in seeds
        ]


@dataclass(frozen=True)
class Evidence:
    """Finished runs of a data set, and which rows of its test split count; runs of one `users` have the same users."""

    results: Results
    rows: torch.Tensor | slice = field(default_factory=lambda: slice(None))
    users: str = ""


def mean_of(seeds: dict[int, dict[str, Any]], split: str, metric: str, part: str = "all") -> str:
    """Mean and spread over the seeds that searched for a split."""
    found = [run["results"][split][part][metric] for run in seeds.values() if split in run["results"]]
    return spread(found) if found else "-"


def recipe_table(results: Results) -> str:
    """How to train: what each run changes, judged on the validation split."""
    base = Recipe()
    rows = []
    for name, seeds in results.section("recipe").items():
        run = next(iter(seeds.values()))
        recipe = run["arguments"]
        changed = [f"{key} {recipe[key]}" for key in SETTINGS if recipe[key] != getattr(base, key)]
        rows.append(
            [
                name.partition("/")[2],
                ", ".join(changed) or "-",
                mean_of(seeds, "valid", "sid_hr@10"),
                mean_of(seeds, "valid", "sid_ndcg@10"),
                mean_of(seeds, "test", "sid_hr@10"),
                mean_of(seeds, "test", "sid_ndcg@10"),
                mean_of(seeds, "fused test", "sid_ndcg@10"),
                f"{statistics.mean(one['train_seconds'] for one in seeds.values()) / 3600:.2f}",
            ]
        )
    rows.sort(key=lambda row: row[3], reverse=True)
    header = [
        "run",
        "changes",
        "valid HR@10",
        "valid NDCG@10",
        "test HR@10",
        "test NDCG@10",
        "fused test NDCG@10",
        "h",
    ]
    return markdown_table(header, rows)


def quality_table(results: Results, sections: tuple[str, ...]) -> str:
    """Means and spreads over seeds on the test split, with memorised and unmemorised transitions apart."""
    rows = []
    for section in sections:
        for name, seeds in results.section(section).items():
            rows.append(
                [
                    name,
                    len(seeds),
                    mean_of(seeds, "test", "sid_hr@10"),
                    mean_of(seeds, "test", "sid_ndcg@10"),
                    mean_of(seeds, "test", "ndcg@10", "memorised"),
                    mean_of(seeds, "test", "ndcg@10", "unmemorised"),
                    mean_of(seeds, "fused test", "sid_ndcg@10"),
                ]
            )
    header = ["run", "seeds", "HR@10", "NDCG@10", "memorised (item)", "unmemorised (item)", "fused NDCG@10"]
    return markdown_table(header, rows)


def num_rows_of(results: Results) -> int:
    """Rows of the test split that the runs searched for."""
    return min(run["results"]["test"]["all"]["num_rows"] for seeds in results.runs.values() for run in seeds.values())


def new_transitions(data_dir: str, num_rows: int) -> torch.Tensor:
    """Which of the first rows of the test split have a target that never followed an item of their history."""
    dataset = open_dataset(data_dir)
    rows = dataset.test.select(range(num_rows))
    return find_slices(rows["history"][:], rows["target"][:], dataset.train)["unmemorised"]


def contrast_table(evidence: Sequence[Evidence], num_resamples: int, match: str = "sid") -> str:
    """The claims, each with its control, of all runs together."""
    rows = []
    for title, first, second in CONTRASTS:
        found = [
            (one.users, pair)
            for one in evidence
            for pair in one.results.pairs(first, second, f"test/{match}", one.rows)
        ]
        if not found:
            rows.append([title, 0, "-", "-", "-", "not run"])
            continue
        ranks_a, ranks_b = (torch.cat([pair[side] for _, pair in found]) for side in (0, 1))
        users = [f"{name} {user}" for name, pair in found for user in pair[2].tolist()]
        together = {
            metric: paired_bootstrap(ranks_a, ranks_b, metric, users=users, num_resamples=num_resamples)
            for metric in ("ndcg@10", "hr@10")
        }
        cells = [f"{one.difference:+.4f} [{one.low:+.4f}, {one.high:+.4f}]" for one in together.values()]
        # Users are drawn anew, a training run is not: what pairs do not agree in says nothing about the next one.
        pairs = [paired_bootstrap(*pair[:2], "ndcg@10", num_resamples=1).difference for _, pair in found]
        cells.insert(1, ", ".join(f"{difference:+.4f}" for difference in pairs))
        if len(found) == 1:
            verdict = "not decided by one seed"
        elif together["ndcg@10"].low > 0 and min(pairs) > 0:
            verdict = "confirmed"
        elif together["ndcg@10"].high < 0 and max(pairs) < 0:
            verdict = "the opposite"
        else:
            verdict = "not decided"
        rows.append([title, len(found), *cells, verdict])
    name = {"sid": "SID", "item": "item"}[match]
    header = ["claim", "pairs of runs", f"NDCG@10 by {name}", "of each pair", f"HR@10 by {name}", "verdict"]
    return markdown_table(header, rows)


def baseline_table(results: Results, run: str, folder: Path, num_resamples: int) -> str:
    """A run's fused lists beside its own model and the baselines of `baselines.py`, seed by seed of the baseline."""
    if run not in results.runs:
        raise ValueError(f"Expected `--best` among {sorted(results.runs)}, without a seed, but found {run!r}.")
    seed = min(results.runs[run])
    users = results.ranks(run, seed, "users").tolist()
    others = {"its model alone": {key: results.ranks(run, seed, f"test/{key}") for key in ("item", "sid")}}
    for path in sorted((folder / "ranks").glob("*.npz")):
        with np.load(path) as ranks:
            others[path.stem] = {key: torch.from_numpy(ranks[key].astype(np.int64)) for key in ("item", "sid")}
    rows = []
    for name, ranks in others.items():
        cells = []
        for match in ("sid", "item"):
            fused = results.ranks(run, seed, f"fused test/{match}")
            for metric in ("hr@10", "ndcg@10"):
                found = paired_bootstrap(fused, ranks[match], metric, users=users, num_resamples=num_resamples)
                cells.append(f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]")
        rows.append([name, *cells])
    return markdown_table(["fused minus", "SID HR@10", "SID NDCG@10", "HR@10", "NDCG@10"], rows)


def document(results: Results, dataset: str) -> str:
    """The tables of a data set as Markdown."""
    runs = [run for seeds in results.runs.values() for run in seeds.values()]
    num_rows = {run["results"]["test"]["all"]["num_rows"] for run in runs}
    hours = sum(run["seconds"] for run in runs) / 3600
    parts = [
        f"## {dataset}",
        f"{len(runs)} runs, {hours:.1f} core-hours; {', '.join(map(str, sorted(num_rows)))} test rows. SID match "
        "unless a column says item; mean ± standard deviation over seeds. *Fused* is with transitions and popularity "
        "inside the search, their weights chosen on validation rows.",
        "### How to train",
        "Chosen by the validation split; one seed.",
        recipe_table(results),
        "### Initialisation and tasks",
        quality_table(results, ("initialization", "alignment")),
    ]
    return "\n\n".join(parts) + "\n"


def claims(args: ReportArguments, results: Sequence[Results], num_resamples: int) -> str:
    """The claims by all data sets together as Markdown, on all rows and, with their data, on new transitions."""
    names = args.data_dir or args.dataset
    everything = [Evidence(one, users=name) for one, name in zip(results, names, strict=True)]
    slices = {"all test rows": everything}
    if args.data_dir:
        slices["new transitions"] = [
            replace(one, rows=new_transitions(one.users, num_rows_of(one.results))) for one in everything
        ]
    parts = ["## The claims", f"Runs of {', '.join(args.dataset)} together."]
    for name, evidence in slices.items():
        for match in ("sid", "item"):
            parts += [f"### {name[0].upper()}{name[1:]}", contrast_table(evidence, num_resamples, match)]
    return "\n\n".join(parts) + "\n"


def main(args: ReportArguments) -> None:
    folders = [Path(args.output_dir, dataset) for dataset in args.dataset]
    for folder in folders:
        if not (folder / "runs").is_dir():
            print(f"Skipped: there are no runs in {folder}. Make some with `reproduce.py --dataset {folder.name}`.")
            return
    results, num_resamples = [Results(folder) for folder in folders], 200 if args.quick else 10_000
    text = "\n".join(map(document, results, args.dataset)) + "\n" + claims(args, results, num_resamples)
    if args.best:
        table = baseline_table(results[0], args.best, Path(args.baselines_dir), num_resamples)
        text += f"\n### {args.best} beside the baselines\n\n{table}\n"
    print(text)
    if args.document:
        write_text(Path(args.document), text)


if __name__ == "__main__":
    run_script(main, ReportArguments)
