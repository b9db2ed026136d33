"""
Combine a recommender with what the interactions alone know: choose item priors on validation rows.

    python examples/fit_prior.py --model_name_or_path outputs/sft --data_dir amazon/Industrial_and_Scientific

Fits transitions (what followed what) and popularity on the training rows, and looks for the form and the weight that
rank the validation rows best. The table shows the model, the priors alone and both together. The result is saved with
the checkpoint: `recommend`, the pipeline and `evaluate.py` use it from then on (`prior=None` searches without). With
`accelerate launch` the rows are shared among the processes.

A catalogue that `build_sids.py --extend_dir` has grown takes the checkpoint of the smaller one, without training: the
checkpoint recommends the new items from then on. `--similarity true` adds what is like the last items, by the
embeddings of `build_sids.py`: the one prior that knows items which nobody has bought.
"""

from dataclasses import dataclass, field

import torch
from accelerate import PartialState
from transformers import HfArgumentParser

from tsrec_hf import ItemPrior, NextItemPrior, PopularityPrior, SimilarityPrior, fit_prior, open_dataset
from tsrec_hf.hub import load_recommender
from tsrec_hf.sids.catalogue import load_embeddings


@dataclass
class ScriptArguments:
    """Which checkpoint, which data, and how many rows to look at."""

    model_name_or_path: str = field(metadata={"help": "Folder of the recommender."})
    data_dir: str = field(metadata={"help": "Folder of the data set that it was trained on, or one grown since."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder to save the tokenizer with its prior to; default: the checkpoint's."}
    )
    similarity: bool = field(
        default=False, metadata={"help": "Whether to weigh in the similarity of items, by `data_dir`'s embeddings."}
    )
    num_rows: int = field(default=1200, metadata={"help": "Validation rows to choose on."})
    num_candidates: int = field(
        default=100, metadata={"help": "Best items of model and priors per row that are ranked."}
    )
    batch_size: int = field(default=16, metadata={"help": "Users searched together."})
    revision: str | None = field(default=None, metadata={"help": "Commit, branch or tag of a Hub id."})
    dtype: str = field(default="float32", metadata={"help": "Type of the weights: float32 or bfloat16."})


def main(args: ScriptArguments) -> None:
    state = PartialState(cpu=not torch.accelerator.is_available())
    dataset = open_dataset(args.data_dir)
    model, tokenizer = load_recommender(
        args.model_name_or_path, args.revision, sid_index=dataset.sid_index, dtype=args.dtype
    )
    model.to(state.device)
    index = tokenizer.sid_index
    priors: list[ItemPrior] = [NextItemPrior.fit(dataset.train, index), PopularityPrior.fit(dataset.train, index)]
    if args.similarity:
        priors.append(SimilarityPrior(index, load_embeddings(args.data_dir, dataset.sid_index)))
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


if __name__ == "__main__":
    main(*HfArgumentParser(ScriptArguments).parse_args_into_dataclasses())
