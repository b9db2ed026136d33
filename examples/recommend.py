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
Recommend items for one history: ids of the catalogue, oldest first.

    python examples/recommend.py --model_name_or_path outputs/sft --history 117 118
"""

from tsrec_hf.cli import run_command


if __name__ == "__main__":
    run_command("recommend")
