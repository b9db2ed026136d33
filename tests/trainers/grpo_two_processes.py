"""Trains GRPO for two steps and evaluates; launched by `test_grpo_two_processes.py` with one and two processes."""

import json
import sys

import datasets
import torch

from tsrec_hf import TSRecForCausalLM, TSRecGRPOConfig, TSRecGRPOTrainer, TSRecTokenizer, prefix_reward


def main(folder: str, name: str, **arguments) -> None:
    tokenizer = TSRecTokenizer.from_pretrained(f"{folder}/model")
    args = TSRecGRPOConfig(
        f"{folder}/{name}",
        max_steps=3,
        num_generations=4,
        per_device_eval_batch_size=4,
        optim="sgd",
        learning_rate=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        beta=0.1,
        logging_steps=1,
        eval_num_beams=7,
        report_to="none",
        save_strategy="no",
        bf16=False,
        use_cpu=True,
        disable_tqdm=True,
        **arguments,
    )
    trainer = TSRecGRPOTrainer(
        TSRecForCausalLM.from_pretrained(f"{folder}/model"),
        prefix_reward,
        args,
        train_dataset=datasets.load_from_disk(f"{folder}/rows"),
        eval_interactions=datasets.load_from_disk(f"{folder}/interactions"),
        processing_class=tokenizer,
    )
    trainer.train()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        weights = torch.cat([parameter.detach().flatten() for parameter in trainer.recommender.parameters()])
        log = {
            "world_size": args.world_size,
            "train": [entry for entry in trainer.state.log_history if "loss" in entry],
            "metrics": metrics,
            "weights": weights.tolist(),
        }
        with open(f"{folder}/{name}.json", "w") as file:
            json.dump(log, file)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
