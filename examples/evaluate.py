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
Evaluate a recommender on a split, beside popularity and next-item counts.

    python examples/evaluate.py --model_name_or_path outputs/sft --data_dir amazon/Industrial_and_Scientific

The path may be that of an adapter, which is merged into its base. With `accelerate launch --config_file
examples/accelerate_configs/two_cpus.yaml`, or another file of that folder, the users are shared among the processes;
the table is the same. `--transfer` evaluates on another catalogue than the one the checkpoint was trained on, whose
SIDs are spelled with the same tokens:

    python examples/evaluate.py --model_name_or_path outputs/sft --data_dir amazon/Office_Products --transfer

A catalogue that `build_sids.py --extend_dir` has grown out of the checkpoint's is evaluated as it is, before any
further training: new items are found by their SIDs.

`--update_card` writes the figures into the checkpoint's model card, which `push_to_hub` of the model sends.
"""

from tsrec_hf.cli import run_command


if __name__ == "__main__":
    run_command("evaluate")
