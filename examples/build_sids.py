"""
Give the items of your own catalogue semantic IDs: from a table of items to a folder that every other script reads.

    python examples/build_sids.py --items_file items.csv --interactions_file interactions.csv --output_dir data/shop

Items have the columns `item_id`, `title` and perhaps `description`; interactions have `user_id`, `item_id` and
`timestamp`. Other names are told: `--item_columns item_id=sku title=name description=short,long`. Files are CSV, TSV,
JSON lines or Parquet; Amazon's reviews and metadata are read by `--format amazon`, RecBole's atomic files by
`--format recbole --items_file folder`. Without interactions the items alone get SIDs.

The steps are: read and clean, embed by sentence-transformers (`--fields title=1 description=0.5`; `--image_column`
adds images), quantise, part the items that share a SID, report. The folder is what `open_dataset` opens, ready as
`--data_dir` of `describe_tokens.py`, `sft.py`, `evaluate.py` and `grpo.py`, and holds besides the quantiser, the
embeddings and the report. A killed run goes on where it stopped: every vector is in the cache.

Items that come later get codes of the same quantiser, while the others keep theirs:

    python examples/build_sids.py --items_file items.csv --extend_dir data/shop --output_dir data/shop_june
"""

import json
import logging
from dataclasses import asdict, dataclass, field, replace
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
    open_dataset,
    resolve_collisions,
    save_minionerec,
    sid_report,
    tidy,
)
from tsrec_hf.items import leave_one_out_split
from tsrec_hf.sids import embed_interactions, join_collaborative, refuse_equal_vectors
from tsrec_hf.sids.catalogue import (
    default_level_sizes,
    extend_index,
    load_embeddings,
    save_embeddings,
    write_report,
)
from tsrec_hf.sids.item_embedding import texts_of


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
    image_weight: float = field(default=1.0, metadata={"help": "Image weight relative to text."})
    batch_size: int = field(default=32, metadata={"help": "Texts or images embedded together."})
    cache_dir: str | None = field(default=None, metadata={"help": "Folder of vectors; default: in `output_dir`."})
    quantizer: str = field(default="residual_kmeans", metadata={"help": f"One of {', '.join(QUANTIZERS)}."})
    level_sizes: list[int] | None = field(
        default=None, metadata={"help": "Codes at each level; default: three levels by the number of items."}
    )
    balanced: bool | None = field(
        default=None, metadata={"help": "Residual k-means: use all codes alike; default: yes, 'false' as published."}
    )
    collaborative_weight: float = field(
        default=0.0, metadata={"help": "Weight of what training users took together, relative to content; 0: none."}
    )
    collisions: str = field(
        default="reassign", metadata={"help": "Items of one SID: 'reassign', 'sinkhorn', 'suffix' or 'keep'."}
    )
    extend_dir: str | None = field(
        default=None, metadata={"help": "Folder of an earlier run: its quantiser is used, its items keep their SIDs."}
    )
    export_dir: str | None = field(
        default=None, metadata={"help": "Another folder, for a copy of the data set in MiniOneRec's layout."}
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


def quantise(args: ScriptArguments, embeddings: np.ndarray) -> tuple[ResidualKMeans | RQVAE, np.ndarray]:
    """A new quantiser and the codes of all items."""
    sizes = args.level_sizes or default_level_sizes(len(embeddings))
    settings = {} if args.balanced is None else {"balanced": args.balanced}
    quantizer = QUANTIZERS[args.quantizer](sizes, seed=args.seed, **settings).fit(embeddings)
    return quantizer, resolve_collisions(quantizer.encode(embeddings), embeddings, quantizer, args.collisions)


def extend(args: ScriptArguments, items: Dataset, embeddings: np.ndarray) -> tuple[ResidualKMeans | RQVAE, SIDIndex]:
    """The quantiser of an earlier run, and its index with the items of now."""
    if args.collaborative_weight > 0:
        raise ValueError(
            "Expected SIDs of contents alone with `--extend_dir`, found `--collaborative_weight`: vectors of other "
            "interactions mean something else. Make all SIDs anew, or leave the option out of both runs."
        )
    earlier = json.loads(Path(args.extend_dir, SETTINGS_NAME).read_text())
    mine = asdict(args)
    other = {name: (earlier[name], mine[name]) for name in EMBEDDING_SETTINGS if earlier[name] != mine[name]}
    if other:
        raise ValueError(
            f"Expected the settings of {args.extend_dir!r}, but these differ (there, here): {other}. Vectors and "
            "codes of other settings mean something else: repeat the settings, or make all SIDs anew."
        )
    before = open_dataset(args.extend_dir).sid_index
    load_embeddings(args.extend_dir, before)  # refuses a folder whose files are of several runs
    quantizer, item_ids = QUANTIZERS[args.quantizer].load(args.extend_dir), items["item_id"][:]
    index = extend_index(before, item_ids, embeddings, quantizer, args.collisions, items["title"][:])
    known = sum(item_id in before for item_id in item_ids)
    print(f"{known:,} items keep their SIDs, {len(item_ids) - known:,} are new.")
    return quantizer, index


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

    embeddings, item_ids = embed(args, dataset.items), dataset.items["item_id"][:]
    texts = texts_of(dataset.items, weights_of(args)) if weights_of(args) else None
    if texts is not None:
        refuse_equal_vectors(embeddings, texts)
    if args.collaborative_weight > 0:
        together = embed_interactions(dataset.train, item_ids, dim=min(64, len(item_ids)))
        embeddings = join_collaborative(embeddings, together, args.collaborative_weight)
    about = {"texts": texts}
    if len(dataset.train):
        about |= {"interactions": dataset.train, "held_out": dataset.valid, "item_ids": item_ids}
    if args.extend_dir is None:
        quantizer, codes = quantise(args, embeddings)
        # A code that no item has would be a token that no model learns; the report counts it before it goes.
        report = sid_report(codes, embeddings, quantizer, **about)
        index = SIDIndex(dataset.items["item_id"][:], quantizer.drop_unused(codes), titles=dataset.items["title"][:])
    else:
        quantizer, index = extend(args, dataset.items, embeddings)
        report = sid_report(index.codes[index.positions_of(item_ids)], embeddings, quantizer, **about)
    print(report, flush=True)

    dataset = replace(dataset, sid_index=index)
    dataset.save(output)
    quantizer.save(output)
    row_of = {item_id: row for row, item_id in enumerate(dataset.items["item_id"][:])}
    save_embeddings(output, embeddings[[row_of[item_id] for item_id in index.item_ids]], index)
    (output / SETTINGS_NAME).write_text(json.dumps(asdict(args), indent=1), encoding="utf-8")
    write_report(output, report, f"{summary}\n\n{report}")
    if args.export_dir is not None:
        save_minionerec(dataset, args.export_dir)
    print(f"\n{output}: {dataset}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("httpx", "sentence_transformers", "faiss.loader"):
        logging.getLogger(name).setLevel(logging.WARNING)
    main(*TrlParser(ScriptArguments).parse_args_and_config())
