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
Reinforcement learning of a fine-tuned recommender on a prepared catalogue.

On two CPU cores, from a checkpoint that `examples/sft.py` wrote:

    python examples/grpo.py --config examples/configs/grpo_industrial.yaml \
        --data_dir amazon/Industrial_and_Scientific --model_name_or_path outputs/sft

`--rewards exact_match ranking --reward_weights 1.0 0.5` chooses and weighs the rewards, and `--advantage_level token`
gives every token its own advantage where a reward has levels. `--dynamic_sampling true` draws other prompts in the
place of those whose completions are all rewarded alike, and logs how many were drawn. On a GPU
`examples/configs/grpo_gpu.yaml` holds the paper's settings.

`--use_peft`, `--load_in_4bit`, `--freeze_backbone` and `--optim adamw_8bit` mean what they mean in `examples/sft.py`;
the reference of LoRA is the recommender without it. An adapter that `examples/sft.py` wrote is merged first.

Several processes: put `accelerate launch --config_file examples/accelerate_configs/two_cpus.yaml`, or another file of
that folder, in the place of `python`. An interrupted run goes on with `--resume_from_checkpoint last`, from the newest
whole checkpoint, or with the folder of another one. The catalogue may have grown since the recommender was
fine-tuned, by `build_sids.py --extend_dir`.
"""

from tsrec_hf.cli import run_command


if __name__ == "__main__":
    run_command("tune")
