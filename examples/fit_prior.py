# /// script
# requires-python = ">=3.11, <3.14"
# dependencies = [
#     "torch>=2.11",
#     "transformers>=5.20,<6",
#     "trl>=1.16,<1.17",
#     "peft>=0.21.2",
#     "accelerate>=1.15",
#     "datasets>=5.2",
#     "evaluate>=0.4.6",
#     "huggingface_hub>=2.4",
#     "bitsandbytes>=0.50.2",
#     "safetensors>=0.8",
#     "filelock>=3.15",
#     "numpy>=2.0",
#     "regex>=2024.11",
#     "tqdm>=4.67",
# ]
# ///
"""
Combine a recommender with what the interactions alone know: choose item priors on validation rows.

    python examples/fit_prior.py --model_name_or_path outputs/sft --data_dir amazon/Industrial_and_Scientific

Fits transitions (what followed what) and popularity on the training rows, and looks for the form and the weight that
rank the validation rows best. The table shows the model, the priors alone and both together. The result is saved with
the checkpoint: `recommend`, the pipeline and `evaluate.py` use it from then on (`prior=None` searches without). With
`accelerate launch` the rows are shared among the processes.

A catalogue that `build_sids.py --extend_dir` has grown takes the checkpoint of the smaller one, without training: the
checkpoint recommends the new items from then on. The embeddings of `build_sids.py`, or an `--encoder` of the titles,
add what is like the last items: the one prior that knows items which nobody has bought.
"""

from tsrec_hf.cli import run_command


if __name__ == "__main__":
    run_command("prior")
