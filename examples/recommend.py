"""
Recommend items for one history: ids of the catalogue, oldest first.

    python examples/recommend.py --model_name_or_path outputs/sft --history 117 118
"""

from tsrec_hf.cli import run_command


if __name__ == "__main__":
    run_command("recommend")
