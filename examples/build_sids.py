"""
Give the items of your own catalogue semantic IDs: from a table of items to a folder that every other script reads.

    python examples/build_sids.py --items_file items.csv --interactions_file interactions.csv --output_dir data/shop

Items have the columns `item_id`, `title` and perhaps `description`; interactions have `user_id`, `item_id` and
`timestamp`. Other names are told: `--item_columns item_id=sku title=name description=short,long`. Files are CSV, TSV,
JSON lines or Parquet; Amazon's reviews and metadata are read by `--format amazon`, RecBole's atomic files by
`--format recbole --items_file folder`. Without interactions the items alone get SIDs.

The steps are: read and clean, embed by sentence-transformers (`--fields title=1 description=0.5`; `--image_column`
adds images), quantise, part the items that share a SID, report. The folder is in MiniOneRec's layout, ready as
`--data_dir` of `describe_tokens.py`, `sft.py`, `evaluate.py` and `grpo.py`, and holds besides the quantiser, the
embeddings and the report. A killed run goes on where it stopped: every vector is in the cache.

Items that come later get codes of the same quantiser, while the others keep theirs:

    python examples/build_sids.py --items_file items.csv --extend_dir data/shop --output_dir data/shop_june
"""

import importlib.util
import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import Dataset, Features, List, Value
from trl import TrlParser

from tsrec_hf import (
    RQVAE,
    InteractionLog,
    RecommendationDataset,
    ResidualKMeans,
    SIDIndex,
    chronological_split,
    embed_items,
    k_core,
    load_amazon,
    load_recbole,
    load_table,
    resolve_collisions,
    save_minionerec,
    sid_report,
    tidy,
)
from tsrec_hf.items import leave_one_out_split


logger = logging.getLogger(__name__)

SPLITTERS = {"chronological": chronological_split, "leave_one_out": leave_one_out_split}
QUANTIZERS = {"residual_kmeans": ResidualKMeans, "rqvae": RQVAE}
SETTINGS_NAME = "build_sids.json"
ROW_FEATURES = Features({"user_id": Value("string"), "history": List(Value("string")), "target": Value("string")})
# What new items must share with the old ones, for their vectors to mean the same.
EMBEDDING_SETTINGS = ("encoder", "image_encoder", "fields", "image_column", "image_weight", "quantizer", "collisions")


@dataclass
class ScriptArguments:
    """What to read, how to embed it, and how to make codes of it."""

    items_file: str = field(metadata={"help": "Items: a table, Amazon's metadata, or the folder of RecBole's files."})
    output_dir: str = field(metadata={"help": "Folder to write to, the `--data_dir` of the other scripts."})
    interactions_file: str | None = field(
        default=None, metadata={"help": "Interactions: a table, or Amazon's reviews."}
    )
    format: Literal["table", "amazon", "recbole"] = field(default="table", metadata={"help": "What the files are."})
    item_columns: list[str] = field(
        default_factory=list, metadata={"help": "Where columns have other names: title=name description=short,long."}
    )
    interaction_columns: list[str] = field(default_factory=list, metadata={"help": "Likewise: user_id=customer."})
    untitled: Literal["drop", "keep"] = field(default="drop", metadata={"help": "What happens to untitled items."})
    same_title: Literal["keep", "merge"] = field(default="keep", metadata={"help": "Merge items of one title?"})
    repeats: Literal["keep", "first"] | None = field(
        default=None, metadata={"help": "A user's later takes of an item; default: 'first' for Amazon, else 'keep'."}
    )
    min_rating: float | None = field(default=None, metadata={"help": "Least rating of an interaction that counts."})
    user_k: int = field(default=1, metadata={"help": "Fewest interactions of a user."})
    item_k: int = field(default=0, metadata={"help": "Fewest interactions of an item; 0 keeps those nobody took."})
    split: str = field(default="chronological", metadata={"help": f"One of {', '.join(SPLITTERS)}."})
    max_history: int = field(default=10, metadata={"help": "Longest history of a row."})
    encoder: str = field(
        default="sentence-transformers/all-MiniLM-L6-v2",
        metadata={"help": "Sentence-transformers model of the texts."},
    )
    fields: list[str] = field(
        default_factory=lambda: ["title=1", "description=0.5"],
        metadata={"help": "Columns of text and their weights; 'none' for images alone."},
    )
    image_column: str | None = field(
        default=None, metadata={"help": "Column of images, or of their file names beside the file of items."}
    )
    image_encoder: str | None = field(default=None, metadata={"help": "CLIP-type model; default: `encoder`."})
    image_weight: float = field(default=1.0, metadata={"help": "What images count against texts, which count 1."})
    batch_size: int = field(default=32, metadata={"help": "Texts or images embedded together."})
    cache_dir: str | None = field(default=None, metadata={"help": "Folder of vectors; default: in `output_dir`."})
    quantizer: str = field(default="residual_kmeans", metadata={"help": f"One of {', '.join(QUANTIZERS)}."})
    level_sizes: list[int] | None = field(
        default=None, metadata={"help": "Codes at each level; default: three levels by the number of items."}
    )
    balanced: bool = field(default=False, metadata={"help": "Residual k-means: use all codes alike."})
    collisions: str = field(
        default="reassign", metadata={"help": "Items of one SID: 'reassign', 'sinkhorn', 'suffix' or 'keep'."}
    )
    extend_dir: str | None = field(
        default=None, metadata={"help": "Folder of an earlier run: its quantiser is used, its items keep their SIDs."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the quantiser."})

    def __post_init__(self):
        for name, value, allowed in (("split", self.split, SPLITTERS), ("quantizer", self.quantizer, QUANTIZERS)):
            if value not in allowed:
                raise ValueError(f"Expected `{name}` among {list(allowed)}, but found {value!r}.")
        if self.balanced and self.quantizer != "residual_kmeans":
            raise ValueError("`--balanced` is an option of residual k-means. Leave one of the two out.")
        if self.format == "recbole" and self.interactions_file is not None:
            raise ValueError("RecBole's folder holds the interactions too. Leave `--interactions_file` out.")
        if self.format != "table" and (self.item_columns or self.interaction_columns):
            raise ValueError(f"Columns are named for tables; those of {self.format!r} are known. Leave them out.")


def pairs(texts: list[str], name: str) -> dict[str, str]:
    """`["title=name"]` as `{"title": "name"}`."""
    split = [text.split("=", 1) for text in texts]
    wrong = [text for text, parts in zip(texts, split) if len(parts) != 2 or not all(parts)]
    if wrong:
        raise ValueError(
            f"Expected `--{name}` as pairs such as title=name, but found {wrong}. Write them without spaces."
        )
    return dict(split)


def weights_of(args: ScriptArguments) -> dict[str, float]:
    if args.fields == ["none"]:
        return {}
    try:
        return {name: float(weight) for name, weight in pairs(args.fields, "fields").items()}
    except ValueError as error:
        raise ValueError(
            f"Expected `--fields` as columns and weights such as title=1, but found {args.fields}. Correct them; "
            "'none' stands for images alone."
        ) from error


def read(args: ScriptArguments) -> InteractionLog:
    """Items and interactions, tidy and filtered."""
    tidying = {"untitled": args.untitled, "same_title": args.same_title, "min_rating": args.min_rating}
    if args.repeats is not None:
        tidying["repeats"] = args.repeats
    if args.format == "recbole":
        log = tidy(load_recbole(args.items_file), **tidying)
    elif args.format == "amazon":
        log = load_amazon(args.interactions_file, args.items_file, **tidying)
    else:
        item_columns = pairs(args.item_columns, "item_columns")
        # Further columns that the embedding reads.
        further = [text.split("=")[0] for text in args.fields if "=" in text] + [args.image_column]
        known = {"title", "description", None, *item_columns}
        log = load_table(
            args.interactions_file,
            args.items_file,
            pairs(args.interaction_columns, "interaction_columns"),
            {name: names.split(",") for name, names in item_columns.items()}
            | {name: name for name in further if name not in known},
            **tidying,
        )
    if (args.user_k, args.item_k) != (1, 0):
        log = k_core(log, args.user_k, args.item_k)
    return log


def embed(args: ScriptArguments, items: Dataset) -> np.ndarray:
    if items.features.get(args.image_column) == Value("string"):
        folder = Path(args.items_file).parent
        files = [str(folder / name) if name else None for name in items[args.image_column][:]]
        items = items.remove_columns(args.image_column).add_column(args.image_column, files)
    return embed_items(
        items,
        args.encoder,
        fields=weights_of(args),
        image_column=args.image_column,
        image_weight=args.image_weight,
        image_model=args.image_encoder,
        batch_size=args.batch_size,
        cache_dir=args.cache_dir or Path(args.output_dir, "cache"),
    )


def default_level_sizes(num_items: int) -> list[int]:
    """Three levels of about 16 items a code, a power of two from 4 to 256, with twice as many SIDs as items."""
    size = 4
    while size < 256 and (size * 16 < num_items or size**3 < 2 * num_items):
        size *= 2
    return [size] * 3


def quantise(args: ScriptArguments, embeddings: np.ndarray) -> tuple[ResidualKMeans | RQVAE, np.ndarray]:
    """A new quantiser and the codes of all items."""
    sizes = args.level_sizes or default_level_sizes(len(embeddings))
    settings = {"balanced": True} if args.balanced else {}
    quantizer = QUANTIZERS[args.quantizer](sizes, seed=args.seed, **settings).fit(embeddings)
    return quantizer, resolve_collisions(quantizer.encode(embeddings), embeddings, quantizer, args.collisions)


def extend(
    args: ScriptArguments, item_ids: list[str], embeddings: np.ndarray
) -> tuple[ResidualKMeans | RQVAE, np.ndarray]:
    """The quantiser of an earlier run, and codes: those of known items as they were, those of new ones beside them."""
    earlier = json.loads(Path(args.extend_dir, SETTINGS_NAME).read_text())
    mine = asdict(args)
    other = {name: (earlier[name], mine[name]) for name in EMBEDDING_SETTINGS if earlier[name] != mine[name]}
    if other:
        raise ValueError(
            f"Expected the settings of {args.extend_dir!r}, but these differ (there, here): {other}. Vectors and "
            "codes of other settings mean something else: repeat the settings, or make all SIDs anew."
        )
    quantizer, index = QUANTIZERS[args.quantizer].load(args.extend_dir), SIDIndex.load(args.extend_dir)
    is_known = np.array([item_id in index for item_id in item_ids])
    codes = np.empty((len(item_ids), index.num_levels), dtype=np.int32)
    codes[is_known] = index.codes[index.positions_of([one for one in item_ids if one in index])]
    new = embeddings[~is_known]
    if len(new):
        # Also the SIDs of items that are gone stay theirs.
        found = resolve_collisions(quantizer.encode(new), new, quantizer, args.collisions, taken=index.codes)
        too_high = found.max(axis=0) >= index.level_sizes
        if too_high.any():
            raise ValueError(
                f"Expected the new items to fit into the levels {index.level_sizes} of {args.extend_dir!r}, but the "
                f"highest codes are {found.max(axis=0).tolist()}, whose tokens no model knows. Make all SIDs anew."
            )
        codes[~is_known] = found
    print(f"{int(is_known.sum()):,} items keep their SIDs, {len(new):,} are new.")
    return quantizer, codes


def split(args: ScriptArguments, log: InteractionLog, name: str) -> RecommendationDataset:
    if args.interactions_file is None and args.format != "recbole":
        none = Dataset.from_dict({"user_id": [], "history": [], "target": []}, features=ROW_FEATURES)
        return RecommendationDataset(log.items, none, none, none, name=name)
    dataset = log.split(SPLITTERS[args.split], name=name, max_history=args.max_history)
    empty = [part for part in ("train", "valid", "test") if not len(getattr(dataset, part))]
    if empty:
        raise ValueError(
            f"Expected rows in every split, but {empty} have none: {dataset}. Give more interactions, or try another "
            f"`--split` than {args.split!r}, of {list(SPLITTERS)}."
        )
    return dataset


def main(args: ScriptArguments) -> None:
    output = Path(args.output_dir)
    log = read(args)
    dataset = split(args, log, output.resolve().name)
    summary = log.summary.with_splits(dataset)
    print(f"{summary}\n", flush=True)

    item_ids = dataset.items["item_id"][:]
    embeddings = embed(args, dataset.items)
    if args.extend_dir is None:
        quantizer, codes = quantise(args, embeddings)
    else:
        quantizer, codes = extend(args, item_ids, embeddings)
    report = sid_report(codes, embeddings, quantizer)
    before = quantizer.encode(embeddings)
    shared = 1 - len(np.unique(before, axis=0)) / len(before)
    text = f"{report}\n\nBefore `{args.collisions}` the collision rate was {shared:.2%}."
    print(text, flush=True)

    if args.extend_dir is None:
        # A code that no item has would be a token that no model learns.
        codes = quantizer.drop_unused(codes)
        tokens = None
    else:
        tokens = SIDIndex.load(args.extend_dir).tokens
    index = SIDIndex(item_ids, codes, tokens, titles=dataset.items["title"][:])
    dataset = RecommendationDataset(dataset.items, dataset.train, dataset.valid, dataset.test, index, dataset.name)
    save_minionerec(dataset, output)
    index.save(output)
    quantizer.save(output)
    np.save(output / "embeddings.npy", embeddings)
    (output / SETTINGS_NAME).write_text(json.dumps(asdict(args), indent=1), encoding="utf-8")
    (output / "report.md").write_text(f"{summary}\n\n{text}\n", encoding="utf-8")
    (output / "report.json").write_text(json.dumps(report.to_dict(), indent=1), encoding="utf-8")
    if importlib.util.find_spec("matplotlib") is None:
        logger.warning('No plot: it needs matplotlib. Install it with `pip install "tsrec_hf[plots]"`.')
    else:
        report.plot(output / "report.png")
    print(f"\n{output}: {dataset}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("httpx", "sentence_transformers", "faiss.loader"):
        logging.getLogger(name).setLevel(logging.WARNING)
    main(*TrlParser(ScriptArguments).parse_args_and_config())
