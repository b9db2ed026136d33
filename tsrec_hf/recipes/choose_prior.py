"""Item priors of a recommender, chosen on validation rows and saved with it."""

from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset

from tsrec_hf.evaluation import fit_prior
from tsrec_hf.hub import load_recommender
from tsrec_hf.items import RecommendationDataset
from tsrec_hf.models import ItemPrior, NextItemPrior, PopularityPrior, SIDIndex, SimilarityPrior
from tsrec_hf.sids import embed_items
from tsrec_hf.sids.catalogue import EMBEDDINGS_NAME, load_embeddings

from .indexed import open_indexed
from .options import PriorOptions


def embeddings_of(args: PriorOptions, dataset: RecommendationDataset, catalogue: SIDIndex) -> np.ndarray | None:
    """
    Embeddings of the catalogue's items for `SimilarityPrior`, those of the folder first; `None` where they are not
    wanted, or neither there nor asked for.
    """
    if args.similarity is False:
        return None
    if Path(args.data_dir, EMBEDDINGS_NAME).is_file():
        return load_embeddings(args.data_dir, catalogue)
    if args.encoder is not None:
        return embed_titles(dataset.items, catalogue, args.encoder)
    if args.similarity:
        raise FileNotFoundError(
            f"Expected {EMBEDDINGS_NAME} in {args.data_dir} for `--similarity`, but there is none. Name an encoder: "
            "`--encoder sentence-transformers/all-MiniLM-L6-v2`."
        )
    return None


def embed_titles(items: Dataset, catalogue: SIDIndex, encoder: str, cache_dir: str | Path | None = None) -> np.ndarray:
    """Embeddings of the titles in the order of the catalogue; zeros, which are like nothing, for items without one."""
    titles = items["title"][:]
    titled = [row for row, title in enumerate(titles) if title and title.strip()]
    found = embed_items(items.select(titled), encoder, fields={"title": 1.0}, cache_dir=cache_dir)
    embeddings = np.zeros((len(items), found.shape[1]), dtype=np.float32)
    embeddings[titled] = found
    row_of = {item_id: row for row, item_id in enumerate(items["item_id"][:])}
    return embeddings[[row_of[item_id] for item_id in catalogue.item_ids]]


def main(args: PriorOptions) -> None:
    state = PartialState(cpu=not torch.accelerator.is_available())
    dataset, catalogue = open_indexed(args.data_dir)
    model, tokenizer = load_recommender(args.model_name_or_path, args.revision, sid_index=catalogue, dtype=args.dtype)
    model.to(state.device)
    index = tokenizer.sid_index
    if state.is_main_process:
        num_rows = min(args.num_rows, len(dataset.valid))
        print(f"{dataset}\n{num_rows} rows of valid, for {args.model_name_or_path}", flush=True)
    priors: list[ItemPrior] = [NextItemPrior.fit(dataset.train, index), PopularityPrior.fit(dataset.train, index)]
    embeddings = embeddings_of(args, dataset, catalogue)
    if embeddings is not None:
        priors.append(SimilarityPrior(index, embeddings))
    fit = fit_prior(
        model,
        tokenizer,
        priors,
        dataset.valid,
        num_rows=args.num_rows,
        num_candidates=args.num_candidates,
        batch_size=args.batch_size,
        progress=state.is_main_process,
    )
    if state.is_main_process:
        print(fit)
        folder = args.output_dir or args.model_name_or_path
        tokenizer.save_pretrained(folder)
        print(f"Saved to {folder}.")
