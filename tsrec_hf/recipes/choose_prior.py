"""Item priors of a recommender, chosen on validation rows and saved with it."""

import torch
from accelerate import PartialState

from tsrec_hf.evaluation import fit_prior
from tsrec_hf.hub import load_recommender
from tsrec_hf.models import ItemPrior, NextItemPrior, PopularityPrior, SimilarityPrior
from tsrec_hf.sids.catalogue import load_embeddings

from .indexed import open_indexed
from .options import PriorOptions


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
    if args.similarity:
        priors.append(SimilarityPrior(index, load_embeddings(args.data_dir, catalogue)))
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
