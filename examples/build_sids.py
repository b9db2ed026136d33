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
#     "sentence-transformers>=5.4",
#     "faiss-cpu>=1.12",
#     "matplotlib>=3.10",
# ]
# ///
"""
Give the items of your own catalogue semantic IDs: from raw data to a folder that every other script reads.

    python examples/build_sids.py --items_file items.csv --interactions_file interactions.csv --output_dir data/shop

Items have the columns `item_id`, `title` and perhaps `description`; interactions have `user_id`, `item_id` and
`timestamp`. Other names are told: `--item_columns item_id=sku title=name description=short,long`. Text of any
delimiter and encoding, JSON and Parquet are read, and by `--format` Amazon's files, RecBole's, LC-Rec's, sequences,
MovieLens and others: docs/data.md. Without interactions the items alone get SIDs.

The steps are: read and clean, embed by sentence-transformers (`--fields title=1 description=0.5`; `--image_column`
adds images), quantise, part the items that share a SID, report. The folder is what `open_dataset` opens, ready as
`--data_dir` of `describe_tokens.py`, `sft.py`, `evaluate.py` and `grpo.py`, and holds besides the quantiser, the
embeddings and the report. A killed run goes on where it stopped: every vector is in the cache.

Items that come later get codes of the same quantiser, while the others keep theirs:

    python examples/build_sids.py --items_file items.csv --extend_dir data/shop --output_dir data/shop_june
"""

from tsrec_hf.cli import run_command


if __name__ == "__main__":
    run_command("build")
