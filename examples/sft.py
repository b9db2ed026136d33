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
#     "matplotlib>=3.10",
# ]
# ///
"""
Fine-tune a recommender on a prepared catalogue.

On two CPU cores, one pass over the Industrial_and_Scientific sequences:

    python examples/sft.py --config examples/configs/sft_industrial.yaml \
        --data_dir amazon/Industrial_and_Scientific --model_name_or_path HuggingFaceTB/SmolLM2-135M

The whole mixture of TS-Rec, with a first stage that trains the SID rows alone on TS-Align, is
`--tasks all --grounding_epochs 2`; on a GPU `examples/configs/sft_gpu.yaml` holds the paper's settings.

`--freeze_backbone true` trains the SID rows and nothing else. `--use_peft --lora_r 16` trains LoRA and the SID rows;
`--load_in_4bit` (or `--load_in_8bit`) beside it is QLoRA, `--optim adamw_8bit` an optimiser with states of 8 bits. The
output folder is then an adapter, and `_base` in it the recommender that it belongs to.

Several processes: put `accelerate launch --config_file examples/accelerate_configs/two_cpus.yaml`, or another file of
that folder, in the place of `python`. An interrupted run goes on with `--resume_from_checkpoint last`, from the newest
whole checkpoint, or with the folder of another one. A catalogue that `build_sids.py --extend_dir` has grown takes the
recommender of the smaller one as `--model_name_or_path`.

A language model whose vocabulary holds the SID tokens already, as that of other recommenders and of exported ones, is
taken over with their rows by `--existing_tokens keep`, and then evaluated and rewarded as any recommender.
"""

from tsrec_hf.cli import run_command


if __name__ == "__main__":
    run_command("sft")
