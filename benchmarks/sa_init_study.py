"""
Does the initialisation of SID embeddings matter? Same data, seed and number of steps, different initialisations.

    python benchmarks/sa_init_study.py --data_dir amazon/Industrial_and_Scientific

Each run (a variant and a seed) trains on the sequence task, and on TS-Align where the variant's name ends in `+align`,
and writes `runs/<variant>-seed<seed>.json`. Finished runs are not repeated, so the study can be stopped and resumed;
the tables and the plot show all finished runs:

- `curves.csv`: validation loss of the sequence task against steps, a row per run and evaluation;
- `summary.csv` and `summary.md`: per variant, mean and spread over seeds of the last loss, HR@10, NDCG@10, and the
  steps to reach the loss that `random` ends with;
- `curves.png`: the curves, mean over seeds with the spread as a band.

The default preset, `cpu`, keeps the backbone's first six layers so that a run takes minutes; `gpu` takes all layers,
larger batches and three passes; `quick` only shows that the script runs.
"""

import statistics
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from common import (
    DataArguments,
    Runs,
    draw_band,
    draw_rows,
    markdown_table,
    run_script,
    spread,
    write_csv,
    write_text,
)
from datasets import Dataset, concatenate_datasets
from small_models import load_semantics, save_backbone
from transformers import TrainerCallback, set_seed

from tsrec_hf import (
    PUBLISHED_SA_INIT,
    RecommendationEvaluator,
    TSRecForCausalLM,
    TSRecSFTConfig,
    TSRecSFTTrainer,
    TSRecTokenizer,
    build_alignment_rows,
    build_sequence_rows,
    initialize_sid_embeddings,
    load_minionerec,
)
from tsrec_hf.data import tokenize_rows


PUBLISHED: dict[str, Any] = dict(PUBLISHED_SA_INIT)
CENTERED: dict[str, Any] = {"pooling": "idf", "center": True, "norm": "vocab_mean"}
SHUFFLE_SEED = 1234

# Name -> arguments of SA-Init. "random" draws from a normal with the vocabulary's mean and variance of every
# dimension; "resize" is what `resize_token_embeddings` leaves, the vocabulary's mean row.
INITIALIZATIONS: dict[str, dict[str, Any] | None] = {
    "random": None,
    "resize": None,
    "published": PUBLISHED,
    "idf-centered": CENTERED,
    "published-shuffled": {**PUBLISHED, "shuffle_seed": SHUFFLE_SEED},
    "idf-centered-shuffled": {**CENTERED, "shuffle_seed": SHUFFLE_SEED},
    "idf-centered-match_resize": {**CENTERED, "norm": "match_resize"},
    "idf-centered-match_resize-shuffled": {**CENTERED, "norm": "match_resize", "shuffle_seed": SHUFFLE_SEED},
    "published-match_resize": {**PUBLISHED, "norm": "match_resize"},
    "idf-centered-norm_none": {**CENTERED, "norm": None},
    "published-norm_none": {**PUBLISHED, "norm": None},
    "idf-centered-norm_1": {**CENTERED, "norm": 1.0},
    "idf": {**CENTERED, "center": False},
    "mean-centered": {**PUBLISHED, "center": True},
    "published-levels_1": {**PUBLISHED, "levels": 1},
    "published-levels_2": {**PUBLISHED, "levels": 2},
    "idf-centered-levels_1": {**CENTERED, "levels": 1},
    "idf-centered-levels_2": {**CENTERED, "levels": 2},
}
ALIGN = "+align"
FIRST_VARIANTS = [
    "random",
    "resize",
    "published",
    "idf-centered",
    "idf-centered-match_resize",
    "published-shuffled",
    "idf-centered-shuffled",
    "idf-centered-match_resize-shuffled",
]
PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {},
    "gpu": {
        "num_layers": 0,
        "batch_size": 128,
        "num_passes": 3.0,
        "eval_rows": 1000,
        "eval_users": 1000,
        "num_beams": 50,
    },
    "quick": {"num_layers": 2, "max_steps": 4, "eval_rows": 16, "eval_users": 8, "num_beams": 10, "evaluations": 2},
}


# Arguments that a finished run does not depend on.
FREE = ("data_dir", "preset", "quick", "variants", "seeds", "output_dir")


@dataclass(kw_only=True)
class StudyArguments(DataArguments):
    """What to compare and how long to train."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Backbone; default: SmolLM2-135M, from its wheel if it is installed."}
    )
    gguf_file: str | None = field(default=None, metadata={"help": "File in `model_name_or_path`, for GGUF backbones."})
    preset: str = field(
        default="cpu", metadata={"help": f"One of {list(PRESETS)}; its values replace the defaults below."}
    )
    quick: bool = field(default=False, metadata={"help": "Short for `--preset quick`."})
    variants: list[str] = field(
        default_factory=lambda: list(FIRST_VARIANTS),
        metadata={"help": f"Among {list(INITIALIZATIONS)}, each also with '{ALIGN}' appended."},
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "One run per variant and seed."})
    num_layers: int = field(default=6, metadata={"help": "First layers of the backbone to keep; 0 for all."})
    num_passes: float = field(
        default=1.0, metadata={"help": "Passes over the session rows that set the number of steps."}
    )
    max_steps: int | None = field(default=None, metadata={"help": "Number of steps instead of passes."})
    batch_size: int = field(default=32, metadata={"help": "Rows a step."})
    learning_rate: float = field(default=5e-4, metadata={"help": "Peak rate; cosine, after a tenth of the steps."})
    evaluations: int = field(default=8, metadata={"help": "Evaluations of the loss during a run."})
    eval_rows: int = field(default=160, metadata={"help": "Validation session rows for the loss."})
    eval_users: int = field(default=256, metadata={"help": "Validation rows to recommend for at the end."})
    num_beams: int = field(default=20, metadata={"help": "Beams of the search."})
    output_dir: str = field(default="outputs/sa_init_study", metadata={"help": "Folder of the results."})

    def __post_init__(self):
        self.preset = "quick" if self.quick else self.preset
        if self.preset not in PRESETS:
            raise ValueError(f"Expected `preset` among {list(PRESETS)}, but found {self.preset!r}.")
        for name, value in PRESETS[self.preset].items():
            setattr(self, name, value)
        if self.quick:
            self.seeds = self.seeds[:1]
        unknown = [name for name in self.variants if name.removesuffix(ALIGN) not in INITIALIZATIONS]
        if unknown:
            raise ValueError(f"Expected variants among {list(INITIALIZATIONS)}, but found {unknown}.")

    def settings(self) -> dict[str, Any]:
        """What a run depends on."""
        return {name: value for name, value in asdict(self).items() if name not in FREE}

    def backbone(self, folder: Path) -> str:
        """Folder of the backbone that all runs start from, made on first use."""
        target = folder / f"backbone-{self.num_layers or 'all'}"
        return save_backbone(target, self.num_layers, self.model_name_or_path, self.gguf_file)


class CurveCallback(TrainerCallback):
    """Collects the validation loss of every evaluation."""

    def __init__(self):
        self.curve: list[dict[str, float]] = []

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        self.curve.append({"step": state.global_step, "eval_loss": metrics["eval_loss"]})


@torch.no_grad()
def draw_random_rows(model: TSRecForCausalLM, tokenizer: TSRecTokenizer, seed: int) -> None:
    """Draws SID rows from a normal distribution with the vocabulary's mean and variance of every dimension."""
    token_ids = torch.tensor([token_id for level in tokenizer.sid_token_ids for token_id in level])
    generator = torch.Generator().manual_seed(seed)
    matrices = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    # Tied matrices are one.
    for weight in matrices[: 1 if matrices[0] is matrices[1] else 2]:
        old = weight[: int(token_ids.min())].float()
        noise = torch.randn(len(token_ids), old.shape[1], generator=generator)
        weight[token_ids] = (old.mean(dim=0) + old.std(dim=0) * noise).to(weight.dtype)


def run(args: StudyArguments, variant: str, seed: int, backbone: str, dataset, semantics, tokenizer) -> dict[str, Any]:
    """Trains one variant with one seed and evaluates it."""
    set_seed(seed)
    name = variant.removesuffix(ALIGN)
    model = TSRecForCausalLM.from_backbone(backbone, tokenizer, dtype=torch.float32)
    if name == "random":
        draw_random_rows(model, tokenizer, seed)
    elif INITIALIZATIONS[name] is not None:
        print(initialize_sid_embeddings(model, tokenizer, semantics, **INITIALIZATIONS[name]))
    rows = build_sequence_rows(dataset.train, tokenizer)
    steps = args.max_steps or round(args.num_passes * len(rows) / args.batch_size)
    batch_size = args.batch_size
    if variant.endswith(ALIGN):
        # Larger batches by as much as there are more rows: the same sequence rows in the same number of steps.
        alignment = tokenize_rows(build_alignment_rows(semantics, tokenizer), tokenizer)
        batch_size = round(batch_size * (len(rows) + len(alignment)) / len(rows))
        rows = concatenate_datasets([rows, Dataset.from_list(alignment, features=rows.features)])
    eval_rows = draw_rows(build_sequence_rows(dataset.valid, tokenizer), args.eval_rows)
    curve = CurveCallback()
    with tempfile.TemporaryDirectory() as folder:
        training_args = TSRecSFTConfig(
            folder,
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=32,
            learning_rate=args.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, steps // 10),
            activation_checkpointing=False,
            train_sampling_strategy="group_by_length",
            eval_strategy="steps",
            eval_steps=max(1, steps // args.evaluations),
            eval_on_start=True,
            save_strategy="no",
            logging_steps=max(1, steps // 20),
            report_to="none",
            disable_tqdm=True,
            seed=seed,
        )
        trainer = TSRecSFTTrainer(
            model,
            training_args,
            train_dataset=rows,
            eval_dataset=eval_rows,
            processing_class=tokenizer,
            callbacks=[curve],
        )
        trainer.train()
    users = draw_rows(dataset.valid, args.eval_users)
    evaluator = RecommendationEvaluator(users, dataset.sid_index, dataset.train, ks=(10,))
    final = evaluator.evaluate_model(model, tokenizer, num_beams=args.num_beams, batch_size=32)["all"]
    return {
        "variant": variant,
        "seed": seed,
        "steps": steps,
        "curve": curve.curve,
        "eval_loss": curve.curve[-1]["eval_loss"],
        "hr@10": final["hr@10"],
        "ndcg@10": final["ndcg@10"],
    }


def steps_to_reach(curve: list[dict[str, float]], target: float) -> float | None:
    """Steps until the loss falls to `target`, by straight lines between evaluations; `None` if it never does."""
    for before, after in zip(curve, curve[1:]):
        if after["eval_loss"] <= target:
            part = (before["eval_loss"] - target) / (before["eval_loss"] - after["eval_loss"])
            return before["step"] + max(part, 0.0) * (after["step"] - before["step"])
    return None


def summarize(results: list[dict[str, Any]], folder: Path) -> str:
    """Writes the tables and returns the summary as Markdown."""
    points = [
        [result["variant"], result["seed"], p["step"], p["eval_loss"]] for result in results for p in result["curve"]
    ]
    write_csv(folder / "curves.csv", ["variant", "seed", "step", "eval_loss"], points)
    by_variant: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        by_variant[result["variant"]].append(result)
    goal = {result["seed"]: result["eval_loss"] for result in by_variant.get("random", [])}
    header = ["variant", "seeds", "validation loss", "HR@10", "NDCG@10", "steps to random's last loss"]
    rows = []
    for variant, runs in by_variant.items():
        reached = [steps_to_reach(result["curve"], goal[result["seed"]]) for result in runs if result["seed"] in goal]
        if not reached:
            steps = "-"
        elif None in reached:
            steps = f"not in {runs[0]['steps']} ({reached.count(None)} of {len(reached)})"
        else:
            steps = f"{statistics.mean(reached):.0f} of {runs[0]['steps']}"
        figures = [spread([result[name] for result in runs]) for name in ("eval_loss", "hr@10", "ndcg@10")]
        rows.append([variant, str(len(runs)), *figures, steps])
    write_csv(folder / "summary.csv", header, rows)
    table = markdown_table(header, rows)
    write_text(folder / "summary.md", table + "\n")
    return table


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Plots the validation loss against steps: mean over seeds, and the spread between them as a band."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    for variant in dict.fromkeys(result["variant"] for result in results):
        curves = [result["curve"] for result in results if result["variant"] == variant]
        losses = [[point["eval_loss"] for point in curve] for curve in curves]
        style = "--" if "shuffled" in variant else "-"
        draw_band(axes, [point["step"] for point in curves[0]], losses, variant, linestyle=style)
    last = [result["eval_loss"] for result in results]
    # The first steps fall from 25 to 45: what tells the variants apart comes after.
    axes.set(xlabel="step", ylabel="validation loss of the sequence task", ylim=(0.97 * min(last), 1.15 * max(last)))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main(args: StudyArguments) -> None:
    folder = Path(args.output_dir)
    dataset = load_minionerec(args.data_dir)
    semantics = load_semantics(args.data_dir)
    backbone = args.backbone(folder)
    tokenizer = TSRecTokenizer.from_backbone(backbone, dataset.sid_index)
    runs = Runs(folder / "runs", args.settings())
    # Seed by seed, so that every variant has its first result early.
    for seed in args.seeds:
        for variant in args.variants:
            result = runs.get(
                f"{variant}-seed{seed}",
                lambda: run(args, variant, seed, backbone, dataset, semantics, tokenizer),
            )
            print({name: result[name] for name in ("eval_loss", "hr@10", "ndcg@10", "seconds")}, flush=True)
    order = list(INITIALIZATIONS)
    results = runs.finished()
    results.sort(key=lambda r: (order.index(r["variant"].removesuffix(ALIGN)), r["variant"], r["seed"]))
    plot(results, folder / "curves.png")
    print(summarize(results, folder))


if __name__ == "__main__":
    run_script(main, StudyArguments)
