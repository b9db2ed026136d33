"""From raw data to a folder that every other command reads: clean, split, embed, quantise, report."""

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Value

from tsrec_hf.items import save_minionerec
from tsrec_hf.models import SIDIndex
from tsrec_hf.models.file_sets_tsrec import check_listed, replaced_set
from tsrec_hf.models.replacing_tsrec import write_text
from tsrec_hf.sids import (
    RQVAE,
    ResidualKMeans,
    embed_interactions,
    embed_items,
    join_collaborative,
    refuse_equal_vectors,
    resolve_collisions,
    sid_report,
)
from tsrec_hf.sids.catalogue import (
    extend_index,
    load_embeddings,
    propose_level_sizes,
    save_embeddings,
    write_report,
)
from tsrec_hf.sids.item_embedding import image_beside, texts_of

from .indexed import open_indexed
from .options import BuildOptions
from .raw_data import as_pairs


QUANTIZERS: dict[str, type[ResidualKMeans] | type[RQVAE]] = {"residual_kmeans": ResidualKMeans, "rqvae": RQVAE}
SETTINGS_NAME = "build_sids.json"
NO_TEXT = "untitled item"
# What new items must share with the old ones, for their vectors to mean the same.
EMBEDDING_SETTINGS = ("encoder", "image_encoder", "fields", "image_column", "image_weight", "quantizer", "collisions")


def weights_of(args: BuildOptions) -> dict[str, float]:
    if args.fields == ["none"]:
        return {}
    try:
        return {name: float(weight) for name, weight in as_pairs(args.fields, "fields").items()}
    except ValueError as error:
        raise ValueError(
            f"Expected `--fields` as columns and weights such as title=1, but found {args.fields}. Correct them; "
            "'none' stands for images alone."
        ) from error


def embed(args: BuildOptions, items: Dataset) -> np.ndarray:
    if items.features.get(args.image_column) == Value("string"):
        folder = Path(args.items_file).parent
        files = [image_beside(folder, name) if name else None for name in items[args.image_column][:]]
        items = items.remove_columns(args.image_column).add_column(args.image_column, files)
    weights = weights_of(args)
    if args.image_column is None:
        items = with_some_text(items, weights)
    return embed_items(
        items,
        args.encoder,
        fields=weights,
        image_column=args.image_column,
        image_weight=args.image_weight,
        image_model=args.image_encoder,
        batch_size=args.batch_size,
        cache_dir=args.cache_dir or Path(args.output_dir, "cache"),
    )


def with_some_text(items: Dataset, fields: Iterable[str]) -> Dataset:
    """What to embed: items without any text get one. The data set keeps its empty titles."""
    # Published sequences are evaluated with all items.
    texts = [name for name in fields if name in items.column_names]
    blank = [not any(row) for row in zip(*(items[name][:] for name in texts))]
    if not any(blank):
        return items
    print(f"{sum(blank)} items have no text and are embedded as {NO_TEXT!r}.")
    titles = [NO_TEXT if none else text for none, text in zip(blank, items[texts[0]][:])]
    return items.remove_columns(texts[0]).add_column(texts[0], titles)


def quantise(args: BuildOptions, embeddings: np.ndarray) -> tuple[ResidualKMeans | RQVAE, np.ndarray]:
    """A new quantiser and the codes of all items."""
    sizes = args.level_sizes or propose_level_sizes(len(embeddings))
    settings: dict[str, Any] = {} if args.balanced is None else {"balanced": args.balanced}
    quantizer = QUANTIZERS[args.quantizer](sizes, seed=args.seed, **settings).fit(embeddings)
    return quantizer, resolve_collisions(quantizer.encode(embeddings), embeddings, quantizer, args.collisions)


def extend(
    args: BuildOptions, folder: str, items: Dataset, embeddings: np.ndarray
) -> tuple[ResidualKMeans | RQVAE, SIDIndex]:
    """The quantiser of an earlier run, and its index with the items of now."""
    if args.collaborative_weight > 0:
        raise ValueError(
            "Expected SIDs of contents alone with `--extend_dir`, found `--collaborative_weight`: vectors of other "
            "interactions mean something else. Make all SIDs anew, or leave the option out of both runs."
        )
    check_listed(Path(folder, SETTINGS_NAME))
    earlier = json.loads(Path(folder, SETTINGS_NAME).read_text(encoding="utf-8"))
    mine = asdict(args)
    other = {name: (earlier[name], mine[name]) for name in EMBEDDING_SETTINGS if earlier[name] != mine[name]}
    if other:
        raise ValueError(
            f"Expected the settings of {folder!r}, but these differ (there, here): {other}. Vectors and "
            "codes of other settings mean something else: repeat the settings, or make all SIDs anew."
        )
    _, before = open_indexed(folder)
    load_embeddings(folder, before)  # refuses a folder whose files are of several runs
    quantizer, item_ids = QUANTIZERS[args.quantizer].load(folder), items["item_id"][:]
    index = extend_index(before, item_ids, embeddings, quantizer, args.collisions, items["title"][:])
    known = sum(item_id in before for item_id in item_ids)
    print(f"{known:,} items keep their SIDs, {len(item_ids) - known:,} are new.")
    return quantizer, index


def main(args: BuildOptions) -> None:
    output = Path(args.output_dir)
    # Further columns that the embedding reads.
    further = [text.split("=")[0] for text in args.fields if "=" in text]
    log = args.read(further if args.image_column is None else [*further, args.image_column])
    dataset = args.split_log(log, output.resolve().name)
    summary = log.summary.with_splits(dataset)
    print(f"{summary}\n", flush=True)

    embeddings, item_ids = embed(args, dataset.items), dataset.items["item_id"][:]
    texts = texts_of(dataset.items, weights_of(args)) if weights_of(args) else None
    if texts is not None:
        refuse_equal_vectors(embeddings, texts)
    if args.collaborative_weight > 0:
        together = embed_interactions(dataset.train, item_ids, dim=min(64, len(item_ids)))
        embeddings = join_collaborative(embeddings, together, args.collaborative_weight)
    about: dict[str, Any] = {"texts": texts}
    if len(dataset.train):
        about |= {"interactions": dataset.train, "held_out": dataset.valid, "item_ids": item_ids}
    if args.extend_dir is None:
        quantizer, codes = quantise(args, embeddings)
        # A code that no item has would be a token that no model learns; the report counts it before it goes.
        report = sid_report(codes, embeddings, quantizer, **about)
        index = SIDIndex(item_ids, quantizer.drop_unused(codes), titles=dataset.items["title"][:])
    else:
        quantizer, index = extend(args, args.extend_dir, dataset.items, embeddings)
        report = sid_report(index.codes[index.positions_of(item_ids)], embeddings, quantizer, **about)
    print(report, flush=True)

    dataset = replace(dataset, sid_index=index)
    row_of = {item_id: row for row, item_id in enumerate(item_ids)}
    # All files together or none: an index and a quantiser of two runs look right and are not.
    with replaced_set(output, facts={"index_fingerprint": index.fingerprint}) as part:
        dataset.save(part)
        quantizer.save(part)
        save_embeddings(part, embeddings[[row_of[item_id] for item_id in index.item_ids]], index)
        write_text(part / SETTINGS_NAME, json.dumps(asdict(args), indent=1))
        write_report(part, report, f"{summary}\n\n{report}")
    if args.export_dir is not None:
        save_minionerec(dataset, args.export_dir)
    print(f"\n{output}: {dataset}")
