"""A recommender on a split, beside popularity and next-item counts."""

import json
from pathlib import Path

import torch
from accelerate import PartialState

from tsrec_hf.evaluation import RecommendationEvaluator, baseline_results, results_table
from tsrec_hf.hub import add_evaluation, load_recommender
from tsrec_hf.models.replacing_tsrec import write_text

from .indexed import open_indexed
from .options import EvaluateOptions


def main(args: EvaluateOptions) -> None:
    if args.update_card and not Path(args.model_name_or_path).is_dir():
        raise ValueError(
            f"Expected a local checkpoint with `--update_card`, but {args.model_name_or_path!r} is no folder. "
            "Download it by `hf download`, or write `--output_file` and pass it to `build_model_card`."
        )
    # Without an accelerator, processes find each other only where the state is told that they run on CPUs.
    state = PartialState(cpu=not torch.accelerator.is_available())
    dataset, index = open_indexed(args.data_dir)
    rows = getattr(dataset, args.split)
    if args.num_rows is not None and args.num_rows < len(rows):
        rows = rows.shuffle(seed=args.seed).select(range(args.num_rows)).flatten_indices()
    model, tokenizer = load_recommender(args.model_name_or_path, args.revision, dtype=args.dtype)
    model.to(state.device)
    trained_on, lineage = tokenizer.sid_index, ""
    if args.transfer:
        lineage = f", transferred from {trained_on}"
        tokenizer = tokenizer.with_sid_index(index)
    elif not index.fits(trained_on.fingerprint):
        raise ValueError(
            f"Expected the catalogue of the checkpoint ({trained_on}), or one that grew out of it, but "
            f"{args.data_dir!r} has another ({index}). Pass its own data, or `--transfer true` to "
            "evaluate on another catalogue."
        )
    elif index.fingerprint != trained_on.fingerprint:
        tokenizer.sid_index = index
        lineage = f", grown out of {trained_on.fingerprint} ({trained_on}), which the checkpoint was trained on"
    fusion = tokenizer.prior_fusion
    settings = {
        "model": args.model_name_or_path,
        "dataset": dataset.name,
        "split": args.split,
        "rows": f"{len(rows)} of {args.split}" + ("" if args.num_rows is None else f", drawn with seed {args.seed}"),
        "catalogue": f"{index}{lineage}",
        "search": args.search,
        "num_beams": args.num_beams,
        "length_penalty": 0,
        "scoring": args.scoring,
        "prior": "none" if fusion is None else f"{fusion.form}, weight {fusion.weight:g}",
        "prompt_version": tokenizer.prompt_version,
        "max_history": tokenizer.max_history,
        "dtype": args.dtype,
        "torch": torch.__version__,
    }
    if state.is_main_process:
        print("Decoding: " + ", ".join(f"{name}={value}" for name, value in settings.items()), flush=True)
    evaluator = RecommendationEvaluator(rows, index, dataset.train)

    # With a prior of the checkpoint also what `recommend` gives by default, the model and its prior.
    methods = {"model": None} | ({} if tokenizer.prior is None else {"model and prior": "fitted"})
    results = {
        name: evaluator.evaluate_model(
            model,
            tokenizer,
            num_beams=args.num_beams,
            batch_size=args.batch_size,
            search=args.search,
            scoring=args.scoring,
            progress=state.is_main_process,
            prior=prior,
        )
        for name, prior in methods.items()
    }
    if not state.is_main_process:
        return
    if tokenizer.prior is not None:
        results["prior"] = evaluator.evaluate_prior(tokenizer.prior)
    results |= baseline_results(evaluator, dataset.train, rows["history"][:])

    print(results_table(results))
    if args.update_card:
        print(f"Written into {add_evaluation(args.model_name_or_path, {'settings': settings, 'results': results})}")
    if args.output_file:
        write_text(args.output_file, json.dumps({"settings": settings, "results": results}, indent=1))
        print(f"Written to {args.output_file}")
