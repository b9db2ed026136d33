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
#     "scikit-learn>=1.7",
#     "icu4py>=1.1,<2",
# ]
# ///
"""
Describe the tokens of semantic IDs: from a catalogue and its SID index to `description_keywords.json`.

Without a language model, by the words that set a token's items apart:

    python examples/describe_tokens.py --data_dir amazon/Industrial_and_Scientific --output_file keywords.json

With a chat model on this machine, or one behind an OpenAI-compatible server or a provider of the Hub:

    python examples/describe_tokens.py --config examples/configs/describe_tokens_local.yaml --data_dir ... \
        --model_name_or_path Qwen/Qwen2.5-7B-Instruct
    python examples/describe_tokens.py --config examples/configs/describe_tokens_server.yaml --data_dir ... \
        --model_name_or_path my-model --base_url http://localhost:8000/v1

Another catalogue than MiniOneRec's layout: `--items_file items.csv --sid_index sids/`, where the table has the columns
`item_id` and `title`, and perhaps `description`. The service's key is read from the environment variable `API_KEY`.

A killed run goes on where it stopped: every answer is in the cache file. After `build_sids.py --extend_dir` the known
tokens keep what the catalogue before said of them, and no teacher is asked of them again:

    python examples/describe_tokens.py --data_dir data/june --earlier_file data/shop/description_keywords.json \
        --output_file data/june/description_keywords.json
"""

from tsrec_hf.cli import run_command


if __name__ == "__main__":
    run_command("describe")
