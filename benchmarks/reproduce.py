"""
Does the meaning of SID tokens help a recommender, and how much, against what is free?

    python benchmarks/reproduce.py --data_dir amazon/Industrial_and_Scientific --dataset industrial --preset cpu

Each run trains one recipe with one seed, searches for the whole validation and test splits, fits a prior on validation
rows and searches for the test split with it, and leaves `runs/<section>/<name>-seed<seed>.json` and the ranks of every
row beside it. Finished runs are not repeated, and a run that was stopped goes on from its last checkpoint, so all can
be made in pieces: `--sections recipe initialization` and `--names` choose some, `--max_runs 1` stops after one.
`reproduce_report.py` makes the tables and the paired comparisons of whatever has finished.

The sections are in the order of what an hour answers: `recipe` (how to train, one seed, judged on validation),
`initialization` and `alignment` (the claims of TS-Rec with their controls, three seeds), and, given another
catalogue's recommender by `--transfer_from`, `transfer` (its layers under new SID tokens, without and with training).

The preset `cpu` keeps ten layers, so that a run takes half an hour of one core with faster in bfloat16; `short` is
`cpu` with one pass, for cores without; `small` keeps six layers for half a pass, for large data; `gpu` takes all
layers and ten seeds; `quick` shows that it runs.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from common import DataArguments, Runs, run_script, timed
from datasets import Dataset, concatenate_datasets
from sa_init_study import draw_random_rows
from small_models import load_semantics, save_backbone, save_language_model_of
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from tsrec_hf import (
    PUBLISHED_SA_INIT,
    NextItemPrior,
    PopularityPrior,
    RecommendationDataset,
    RecommendationEvaluator,
    TokenSemantics,
    TSRecForCausalLM,
    TSRecSFTConfig,
    TSRecSFTTrainer,
    TSRecTokenizer,
    build_sequence_rows,
    build_sft_mixture,
    fit_prior,
    initialize_sid_embeddings,
    open_dataset,
)
from tsrec_hf.data import Task
from tsrec_hf.trainers import cpu_has_bfloat16, ground_sid_rows, lora_config


DEFAULT_SA_INIT: dict[str, Any] = {"pooling": "idf", "center": True, "norm": "match_resize"}
SHUFFLED = {"shuffle_seed": 1234}
# Arguments of SA-Init; "random" draws rows with the vocabulary's mean and variance of every dimension.
INITIALIZATIONS: dict[str, dict[str, Any] | None] = {
    "random": None,
    "default": DEFAULT_SA_INIT,
    "default-shuffled": DEFAULT_SA_INIT | SHUFFLED,
    "default-level1": DEFAULT_SA_INIT | {"levels": 1},
    "default-levels12": DEFAULT_SA_INIT | {"levels": 2},
    "published": dict(PUBLISHED_SA_INIT),
    "published-shuffled": dict(PUBLISHED_SA_INIT) | SHUFFLED,
}


@dataclass(frozen=True)
class Recipe:
    """What a run trains."""

    num_layers: int = 10
    num_passes: float = 3.0
    learning_rate: float = 5e-4
    batch_size: int = 32
    weight_decay: float = 0.0
    initialization: str = "default"
    tasks: tuple[str, ...] = ("sequence",)
    # How often the rows of the tasks beside "sequence" occur.
    task_weight: float = 1.0
    shuffled_descriptions: bool = False
    lora_r: int = 0
    # Part of the steps after which weights are averaged; `None` keeps the last ones.
    average_from: float | None = None
    # Part of every history's items left out at random, anew in each pass but the first.
    item_dropout: float = 0.0
    # Recommender of another catalogue whose layers it starts from; `None` starts from the backbone's.
    start_from: str | None = None
    # Passes over the descriptions that train the SID rows alone, before everything is trained; `None` leaves them out.
    grounding_epochs: float | None = None


FOUR_TASKS = ("sequence", "title", "history_title", "alignment")


def plan(base: Recipe, transfer_from: str | None = None) -> dict[str, dict[str, Recipe]]:
    """The recipes of every section, by the names of their runs."""
    best = replace(base, num_layers=0, num_passes=3.0, learning_rate=3e-4, item_dropout=0.2)
    return {
        "recipe": {
            "base": base,
            "6-layers": replace(base, num_layers=6),
            "16-layers-2-passes": replace(base, num_layers=16, num_passes=2.0),
            "30-layers-2-passes": replace(base, num_layers=0, num_passes=2.0, learning_rate=3e-4),
            "30-layers-1-pass": replace(base, num_layers=0, num_passes=1.0, learning_rate=3e-4),
            "1-pass": replace(base, num_passes=1.0),
            "2-passes": replace(base, num_passes=2.0),
            "4-passes": replace(base, num_passes=4.0),
            "rate-1e-3": replace(base, learning_rate=1e-3),
            "rate-2.5e-4": replace(base, learning_rate=2.5e-4),
            "batch-16": replace(base, batch_size=16),
            "batch-64": replace(base, batch_size=64),
            "decay-0.1": replace(base, weight_decay=0.1),
            "averaged": replace(base, average_from=0.5),
            "dropout-0.2": replace(base, item_dropout=0.2),
            "30-layers-3-passes-dropout-0.2": best,
            # Its controls.
            "30-layers-3-passes-dropout-0.2-random": replace(best, initialization="random"),
            "30-layers-3-passes-dropout-0.2-shuffled": replace(best, initialization="default-shuffled"),
        },
        "initialization": {name: replace(base, initialization=name) for name in INITIALIZATIONS}
        | {
            f"lora-{name}": replace(base, initialization=name, lora_r=16, learning_rate=2 * base.learning_rate)
            for name in ("random", "default", "default-shuffled")
        }
        | {"grounded": replace(base, grounding_epochs=2.0)},
        "alignment": {
            "align": replace(base, tasks=("sequence", "alignment")),
            "align-shuffled": replace(base, tasks=("sequence", "alignment"), shuffled_descriptions=True),
            "four-tasks": replace(base, tasks=FOUR_TASKS, task_weight=0.3),
        },
        "transfer": {
            "trained": replace(base, start_from=transfer_from),
            "untrained": replace(base, start_from=transfer_from, num_passes=0.0),
        },
    }


PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {},
    "short": {"base": Recipe(num_passes=1.0)},
    "small": {"base": Recipe(num_layers=6, num_passes=0.5)},
    "gpu": {"base": Recipe(num_layers=0, num_passes=2.0, learning_rate=3e-4, batch_size=64), "seeds": range(10)},
    "quick": {"base": Recipe(num_layers=1, num_passes=0.01), "seeds": [0], "num_rows": 32, "num_beams": 20},
}


@dataclass(kw_only=True)
class ScriptArguments(DataArguments):
    """Which runs to make."""

    dataset: str = field(default="industrial", metadata={"help": "Name of the data set, a folder of the results."})
    preset: str = field(default="cpu", metadata={"help": f"One of {list(PRESETS)}."})
    quick: bool = field(default=False, metadata={"help": "Short for `--preset quick`."})
    sections: list[str] = field(
        default_factory=lambda: ["recipe", "initialization", "alignment"],
        metadata={"help": f"Sections to run, of {list(plan(Recipe()))}."},
    )
    names: list[str] = field(default_factory=list, metadata={"help": "Names of runs; default: all of the sections."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds; `recipe` takes the first."})
    max_runs: int | None = field(default=None, metadata={"help": "Stop after so many new runs."})
    splits: list[str] = field(default_factory=lambda: ["valid", "test"], metadata={"help": "Splits to search for."})
    num_rows: int | None = field(default=None, metadata={"help": "Rows of a split that are searched for; all."})
    num_beams: int = field(default=50, metadata={"help": "Beams of the search."})
    fused: bool = field(default=True, metadata={"help": "Fit a prior on validation and search for test with it too."})
    keep_models: bool = field(default=False, metadata={"help": "Keep the trained recommenders, with their priors."})
    float32: bool = field(
        default=False, metadata={"help": "Train and search in float32 wherever it runs, beside runs that did."}
    )
    model_name_or_path: str | None = field(default=None, metadata={"help": "Backbone; default: SmolLM2-135M."})
    gguf_file: str | None = field(default=None, metadata={"help": "File in it, for GGUF backbones."})
    transfer_from: str | None = field(
        default=None, metadata={"help": "Recommender of another catalogue that `transfer` starts from."}
    )
    output_dir: str = field(default="outputs/reproduce", metadata={"help": "Folder of the results."})
    base: Recipe = field(default_factory=Recipe, init=False)

    def __post_init__(self):
        self.preset = "quick" if self.quick else self.preset
        if self.preset not in PRESETS:
            raise ValueError(f"Expected `preset` among {list(PRESETS)}, but found {self.preset!r}.")
        for name, value in PRESETS[self.preset].items():
            setattr(self, name, value)
        known = plan(self.base)
        unknown = [section for section in self.sections if section not in known]
        names = {name for section in known.values() for name in section}
        unknown += [name for name in self.names if name not in names]
        if unknown:
            raise ValueError(f"Expected sections among {list(known)} and names among {sorted(names)}: {unknown}.")
        if "transfer" in self.sections and self.transfer_from is None:
            raise ValueError("Expected `transfer_from` with the section 'transfer': the folder of a recommender.")


class AverageCallback(TrainerCallback):
    """Averages the weights of the steps after a part of the training, and ends with the average."""

    def __init__(self, start: float):
        self.start = start
        self.average: AveragedModel | None = None

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step >= self.start * state.max_steps:
            if self.average is None:
                self.average = AveragedModel(model)
            self.average.update_parameters(model)

    @torch.no_grad()
    def on_train_end(self, args, state, control, model=None, **kwargs):
        assert self.average is not None
        for own, mean in zip(model.parameters(), self.average.module.parameters(), strict=True):
            own.copy_(mean)


class LogLastStepCallback(TrainerCallback):
    """Logs after the last step, so that the logs' losses are of all steps."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log |= state.global_step == state.max_steps


@dataclass(frozen=True)
class DroppingSequenceTask:
    """
    The sequence task for several passes at once: the first whole, the others without items drawn at random, so that
    what follows an item after a gap is learned too.
    """

    num_passes: int
    item_dropout: float
    seed: int
    weight: float = 1.0
    name: ClassVar[str] = "sequence"

    def rows(self, dataset: RecommendationDataset, split: str, tokenizer: TSRecTokenizer) -> Dataset:
        whole = getattr(dataset, split)
        generator = np.random.default_rng(self.seed)
        passes = [whole] + [self._dropped(whole, generator) for _ in range(self.num_passes - 1)]
        return concatenate_datasets([build_sequence_rows(rows, tokenizer, targets_per_stretch=1) for rows in passes])

    def _dropped(self, rows: Dataset, generator: np.random.Generator) -> Dataset:
        sessions: dict[str, list[str]] = {}
        for user, history, target in zip(*(rows[name][:] for name in ("user_id", "history", "target")), strict=True):
            sessions.setdefault(user, list(history)).append(target)
        kept = {
            user: [
                item for item, dropped in zip(items, generator.random(len(items)) < self.item_dropout) if not dropped
            ]
            for user, items in sessions.items()
        }
        return Dataset.from_list(
            [
                {"user_id": user, "history": items[:end], "target": items[end]}
                for user, items in kept.items()
                for end in range(1, len(items))
            ]
        )


def start(recipe: Recipe, seed: int, backbone: str, tokenizer: TSRecTokenizer, semantics: TokenSemantics):
    """The recommender before training."""
    model = TSRecForCausalLM.from_backbone(backbone, tokenizer, dtype=torch.float32)
    kwargs = INITIALIZATIONS[recipe.initialization]
    if kwargs is None:
        draw_random_rows(model, tokenizer, seed)
    else:
        initialize_sid_embeddings(model, tokenizer, semantics, **kwargs)
    return model


def shuffled(semantics: TokenSemantics, seed: int) -> TokenSemantics:
    """The descriptions of the tokens of a level, dealt out anew among them: the control of TS-Align."""
    generator = np.random.default_rng(seed)
    dealt = []
    for level in sorted({token.split("_")[0] for token in semantics}):
        tokens = [token for token in semantics if token.split("_")[0] == level]
        order = generator.permutation(len(tokens))
        dealt += [replace(semantics[tokens[other]], token=token) for token, other in zip(tokens, order, strict=True)]
    return TokenSemantics(dealt, semantics.fingerprint)


def train(
    recipe: Recipe, seed: int, model, tokenizer, dataset: RecommendationDataset, semantics, folder: Path, bf16: bool
) -> dict[str, float]:
    """Trains a recommender in place; goes on from the last checkpoint in `folder`."""
    described = shuffled(semantics, SHUFFLED["shuffle_seed"]) if recipe.shuffled_descriptions else semantics
    weights = {task: recipe.task_weight for task in recipe.tasks[1:]}
    tasks: list[str | Task] = list(recipe.tasks)
    num_passes = recipe.num_passes
    if recipe.item_dropout:
        tasks[0] = DroppingSequenceTask(round(num_passes), recipe.item_dropout, seed)
        num_passes = 1
    # Every target with its whole history, as when the published figures were made.
    rows = build_sft_mixture(dataset, described, tokenizer, tasks=tasks, weights=weights, targets_per_stretch=1)
    steps = max(2, round(num_passes * len(rows) / recipe.batch_size))
    settings = TSRecSFTConfig(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, min(steps // 10, 50)),
        weight_decay=recipe.weight_decay,
        activation_checkpointing=False,
        train_sampling_strategy="group_by_length",
        save_strategy="steps",
        save_steps=max(1, steps // 6),
        save_total_limit=1,
        logging_steps=max(1, steps // 20),
        report_to="none",
        seed=seed,
        bf16=bf16,
    )
    checkpoint = get_last_checkpoint(folder) if folder.is_dir() else None
    if recipe.grounding_epochs is not None and checkpoint is None:
        ground_sid_rows(model, tokenizer, described, settings, recipe.grounding_epochs)
    peft_config = None
    if recipe.lora_r:
        from trl import ModelConfig

        peft_config = lora_config(model, tokenizer, ModelConfig(use_peft=True, lora_r=recipe.lora_r, lora_alpha=32))
    callbacks: list[TrainerCallback] = [LogLastStepCallback()]
    if recipe.average_from is not None:
        callbacks.append(AverageCallback(recipe.average_from))
    trainer = TSRecSFTTrainer(
        model,
        settings,
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=callbacks,
        peft_config=peft_config,
        card_facts={"dataset": dataset},
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    if recipe.lora_r:
        trainer.model.merge_and_unload()
    # Of the logs, since what `train` returns is of the last piece alone where a run was stopped and went on.
    logs = [row for row in trainer.state.log_history if "loss" in row]
    logged = np.diff([row["step"] for row in logs], prepend=0)
    loss = float(np.average([row["loss"] for row in logs], weights=logged))
    return {"steps": steps, "train_loss": loss, "tokens": logs[-1]["num_tokens"]}


class Judge:
    """Searches for rows of a split, and keeps metrics by slice and the ranks of every row."""

    def __init__(self, dataset: RecommendationDataset, num_rows: int | None, num_beams: int):
        self.dataset, self.num_rows, self.num_beams = dataset, num_rows, num_beams
        self.ranks: dict[str, np.ndarray] = {}

    def rows(self, split: str):
        rows = getattr(self.dataset, split)
        return rows if self.num_rows is None else rows.select(range(min(self.num_rows, len(rows))))

    def __call__(self, name: str, split: str, model, tokenizer: TSRecTokenizer, **search: Any) -> dict[str, Any]:
        rows = self.rows(split)
        evaluator = RecommendationEvaluator(rows, tokenizer.sid_index, self.dataset.train)
        # Where many items share a SID, exact metrics by SID would need more items than there are beams: the evaluator
        # warns of lists that hold too few SIDs.
        top_k = min(evaluator.top_k, self.num_beams)
        found = model.recommend(
            tokenizer, rows["history"][:], top_k=top_k, num_beams=self.num_beams, batch_size=64, **search
        )
        lists = [[item.item_id for item in items] for items in found]
        for match in ("item", "sid"):
            self.ranks[f"{name}/{match}"] = evaluator.ranks(lists, match).numpy().astype(np.int16)
        return evaluator.evaluate(lists)


def run(args: ScriptArguments, recipe: Recipe, seed: int, name: str, dataset, semantics) -> dict[str, Any]:
    """One run: trains, searches for validation and test, fits a prior and searches for test with it."""
    folder = Path(args.output_dir, args.dataset)
    work, ranks_file = folder / "work" / name, folder / "ranks" / f"{name}.npz"
    backbone = save_backbone(
        Path(args.output_dir, f"backbone-{recipe.num_layers or 'all'}"),
        recipe.num_layers,
        args.model_name_or_path,
        args.gguf_file,
    )
    if recipe.start_from is not None:
        backbone = save_language_model_of(recipe.start_from, backbone, work / "backbone")
    set_seed(seed)
    tokenizer = TSRecTokenizer.from_backbone(backbone, dataset.sid_index, max_history=dataset.max_history or 10)
    model = start(recipe, seed, backbone, tokenizer, semantics)
    bf16 = not args.float32 and (torch.cuda.is_available() or cpu_has_bfloat16())
    facts, train_seconds = {}, 0.0
    if recipe.num_passes:
        facts, train_seconds = timed(lambda: train(recipe, seed, model, tokenizer, dataset, semantics, work, bf16))
    model = model.to(torch.bfloat16 if bf16 else torch.float32).eval()
    judge = Judge(dataset, args.num_rows, args.num_beams)
    results = {split: judge(split, split, model, tokenizer) for split in args.splits}
    prior = None
    if args.fused:
        priors = [kind.fit(dataset.train, tokenizer.sid_index) for kind in (NextItemPrior, PopularityPrior)]
        fit = fit_prior(model, tokenizer, priors, judge.rows("valid"))
        prior = {"form": fit.form, "weight": fit.weight, "shares": fit.shares}
        results["fused test"] = judge("fused test", "test", model, tokenizer)
    ranks_file.parent.mkdir(parents=True, exist_ok=True)
    # The rows of a user are drawn together when two runs are compared.
    users = np.unique(judge.rows("test")["user_id"][:], return_inverse=True)[1].astype(np.int32)
    np.savez_compressed(ranks_file, **judge.ranks, users=users)
    if args.keep_models:
        model.save_pretrained(folder / "models" / name)
        tokenizer.save_pretrained(folder / "models" / name)
    shutil.rmtree(work, ignore_errors=True)
    return {"name": name, "seed": seed, "results": results, "prior": prior, "train_seconds": train_seconds} | facts


def main(args: ScriptArguments) -> None:
    dataset = open_dataset(args.data_dir)
    semantics = load_semantics(args.data_dir, dataset)
    base = {"rows": args.num_rows, "beams": args.num_beams, "backbone": args.model_name_or_path}
    base["float32"] = args.float32 or None  # as in the runs that were made before there was a choice
    made = 0
    for section in args.sections:
        runs = Runs(Path(args.output_dir, args.dataset, "runs", section), base)
        # Seed by seed, so that every recipe has its first result early.
        for seed in list(args.seeds)[: 1 if section == "recipe" else None]:
            for name, recipe in plan(args.base, args.transfer_from)[section].items():
                if args.names and name not in args.names:
                    continue
                if args.max_runs is not None and made >= args.max_runs:
                    return
                full = f"{name}-seed{seed}"
                made += not (runs.folder / f"{full}.json").exists()
                make: Callable[[], dict[str, Any]] = partial(
                    run, args, recipe, seed, f"{section}/{full}", dataset, semantics
                )
                result = runs.get(full, make, **asdict(recipe))
                print(full, {split: slices["all"]["sid_ndcg@10"] for split, slices in result["results"].items()})


if __name__ == "__main__":
    run_script(main, ScriptArguments)
