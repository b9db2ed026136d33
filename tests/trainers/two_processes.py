"""Trains two steps and evaluates; launched by `test_two_processes.py` with one and with two processes."""

import json
import sys

import datasets
import torch

from tsrec_hf import TSRecForCausalLM, TSRecSFTConfig, TSRecSFTTrainer, TSRecTokenizer


def main(folder: str, name: str, num_shards: int = 0, evaluate_first: bool = False, **arguments) -> None:
    rows = datasets.load_from_disk(f"{folder}/rows")
    stream = rows.to_iterable_dataset(num_shards).shuffle(seed=0, buffer_size=5) if num_shards else None
    args = TSRecSFTConfig(
        f"{folder}/{name}",
        max_steps=2,
        logging_steps=1,
        gradient_accumulation_steps=2,
        task_weights={"title": 0.5, "alignment": 2.0},
        eval_num_beams=7,
        report_to="none",
        save_strategy="no",
        bf16=False,
        use_cpu=True,
        disable_tqdm=True,
        **arguments,
    )
    interactions = datasets.load_from_disk(f"{folder}/interactions")
    trainer = TSRecSFTTrainer(
        TSRecForCausalLM.from_pretrained(f"{folder}/model"),
        args,
        train_dataset=stream or rows,
        eval_dataset={"even": rows.select(range(8)), "odd": rows.select(range(7))},
        eval_interactions={"even": interactions, "odd": interactions},
        processing_class=TSRecTokenizer.from_pretrained(f"{folder}/model"),
    )
    if evaluate_first:
        trainer.evaluate()
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
