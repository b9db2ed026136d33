"""
What does one optimisation step of GRPO cost, and are the gradients the same?

    python benchmarks/grpo.py --model_name_or_path outputs/sft --data_dir amazon/Industrial_and_Scientific

In one run, on the same training prompts and weights: TRL's own `GRPOTrainer` with beams from `generate` under a
`prefix_allowed_tokens_fn`, as others do; ours with `shared_prefix=False`, which is TRL's loss after our rollouts; and
ours. Prompts are ours, and the same after an instruction of some 80 tokens, as other systems have it. The learning
rate is 0, so that every step does the same work. The first step is not timed: there all trainers get the same
completions, so that their gradients and what the loss keeps for its backward pass can be compared.

Memory: on a GPU, the peak during loss and backward pass over what was allocated before; on a CPU, the bytes that the
forward pass of the loss saves for the backward pass, each storage once, without weights. All times are from one
process; compare ratios, not machines. Where other work shares the cores, `OMP_NUM_THREADS=1` and `--clock cpu` count
the seconds that this process had a core.
"""

import gc
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from common import (
    DataArguments,
    draw_rows,
    environment,
    markdown_table,
    now,
    run_script,
    settings_line,
    write_report,
)
from datasets import Dataset
from generate_beams import INSTRUCTION, GenerateBeams
from small_models import load_semantics, save_untrained_recommender
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from tsrec_hf import (
    RewardOnCodes,
    TSRecForCausalLM,
    TSRecGRPOConfig,
    TSRecGRPOTrainer,
    TSRecTokenizer,
    build_grpo_rows,
    exact_match_reward,
    load_minionerec,
    ranking_reward,
)


STOCK, UNSHARED, OURS = "TRL with `generate`", "ours, `shared_prefix=False`", "ours"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(kw_only=True)
class ScriptArguments(DataArguments):
    """What to measure."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of a recommender; default: SmolLM2-135M, untrained."},
    )
    num_generations: int = field(default=16, metadata={"help": "SIDs of a group."})
    prompts_per_step: int = field(default=8, metadata={"help": "Groups of a step."})
    prompts_per_batch: int = field(default=4, metadata={"help": "Groups whose loss is computed at once."})
    prompts: list[str] = field(
        default_factory=lambda: ["ours", "instruction"],
        metadata={"help": "'ours', 'instruction' for ours after an instruction, or both."},
    )
    steps: int = field(default=2, metadata={"help": "Timed steps; the fastest counts."})
    beta: float = field(default=1e-3, metadata={"help": "Weight of the KL; above 0 the reference model runs too."})
    seed: int = field(default=0, metadata={"help": "Seed of the draw of prompts."})
    bf16: bool = field(default=False, metadata={"help": "Autocast to bfloat16; gradients are then compared in it."})
    device: str = field(default="cpu", metadata={"help": "'cpu' or 'cuda'."})
    clock: str = field(default="wall", metadata={"help": "'wall', or 'cpu' for the time on the CPU, of all threads."})
    output_file: str | None = field(default=None, metadata={"help": "Markdown file for the table; JSON beside it."})
    quick: bool = field(default=False, metadata={"help": "One prompt and one timed step, no instruction."})

    def __post_init__(self):
        if self.quick:
            self.prompts_per_step, self.prompts_per_batch, self.steps, self.prompts = 1, 1, 1, ["ours"]
        if self.prompts_per_step % self.prompts_per_batch:
            raise ValueError(
                f"Expected `prompts_per_step` as a multiple of `prompts_per_batch`, but found {self.prompts_per_step} "
                f"and {self.prompts_per_batch}."
            )
        unknown = set(self.prompts) - {"ours", "instruction"}
        if unknown:
            raise ValueError(f"Expected `prompts` of 'ours' and 'instruction', but found {sorted(unknown)}.")


def falling_reward(codes, num_generations: int, **kwargs) -> list[float]:
    """A reward that falls with the rank in the group, so that there is a gradient whatever is found."""
    return [-(place % num_generations) / num_generations for place in range(len(codes))]


class Measured:
    """
    Times the phases of a trainer's steps; on the first, imposes completions, and notes gradients and memory.

    Args:
        completions (`dict[tuple, list]`):
            For each prompt, completions that stand in for those found at the first step; filled where empty.
        clock (`str`):
            `"wall"` or `"cpu"`.
    """

    def __init__(self, *args, completions: dict[tuple[int, ...], list[list[int]]], clock: str, **kwargs):
        self.imposed = completions
        self.clock = CLOCKS[clock]
        self.seconds: defaultdict[str, float] = defaultdict(float)  # of the step that is being taken
        self.steps: list[dict[str, float]] = []
        self.found: dict[tuple[int, ...], list[list[int]]] = {}
        self.activation_bytes, self.gradients = 0, {}
        super().__init__(*args, **kwargs)
        self.add_callback(StepTimer(self))

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        start = now(self.clock)
        yield
        self.seconds[phase] += now(self.clock) - start

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        with self.timed("rollout"):
            completion_ids, extra = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        group = self.num_generations
        for start in range(0, len(prompt_ids), group):
            prompt, own = tuple(prompt_ids[start]), slice(start, start + group)
            self.found[prompt] = completion_ids[own]
            if self.state.global_step == 0:
                completion_ids[own] = self.imposed.setdefault(prompt, completion_ids[own])
        return completion_ids, extra

    def _prepare_inputs(self, inputs):
        with self.timed("prepare"):
            return super()._prepare_inputs(inputs)

    def training_step(self, *args, **kwargs):
        with self.timed("training step"):
            loss = super().training_step(*args, **kwargs)
        if self.state.global_step == 0 and self.accelerator.device.type == "cuda":
            self.note_bytes(torch.cuda.max_memory_allocated() - self.allocated)
        return loss

    def compute_loss(self, model, *args, **kwargs):
        if self.state.global_step > 0:
            return super().compute_loss(model, *args, **kwargs)
        if self.accelerator.device.type == "cuda":
            # Gradients are there before, so that they do not count.
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.cuda.reset_peak_memory_stats()
            self.allocated = torch.cuda.memory_allocated()
            return super().compute_loss(model, *args, **kwargs)
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        saved: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = super().compute_loss(model, *args, **kwargs)
        self.note_bytes(sum(saved.values()))
        return loss

    def note_bytes(self, found: int) -> None:
        self.activation_bytes = max(self.activation_bytes, found)


class StepTimer(TrainerCallback):
    """Times whole steps and keeps the gradients of the first one."""

    def __init__(self, trainer: Measured):
        self.trainer = trainer

    def on_step_begin(self, *args, **kwargs):
        self.start = now(self.trainer.clock)

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        if state.global_step == 0:
            self.trainer.gradients = {
                name: parameter.grad.detach().cpu().clone()
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            }

    def on_step_end(self, *args, **kwargs):
        seconds = self.trainer.seconds
        loss = seconds["training step"] - seconds["prepare"]
        step = now(self.trainer.clock) - self.start
        self.trainer.steps.append({"rollout": seconds["rollout"], "loss": loss, "step": step})
        seconds.clear()


class OursTrainer(Measured, TSRecGRPOTrainer):
    """Ours, measured."""


class GenerateRollouts:
    """Rollouts by `generate` instead of sampling."""

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        if not hasattr(self, "generate_beams"):
            self.generate_beams = GenerateBeams(self.processing_class)
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            sids, _ = self.generate_beams(model.backbone, prompt_ids[::num_generations], num_generations)
        model.train()
        return sids.flatten(0, 1).tolist(), None


class StockTrainer(Measured, GenerateRollouts, GRPOTrainer):
    """TRL's trainer with those beams, measured; the loss is its own."""


def measure(
    kind: str,
    args: ScriptArguments,
    path: str,
    tokenizer: TSRecTokenizer,
    rows: Dataset,
    completions: dict,
    output_dir: str,
) -> Measured:
    """A trainer after its steps."""
    functions = [exact_match_reward, ranking_reward, falling_reward]
    settings: dict[str, Any] = {
        "output_dir": output_dir,
        "max_steps": 1 + args.steps,
        "num_generations": args.num_generations,
        "per_device_train_batch_size": args.prompts_per_batch * args.num_generations,
        "gradient_accumulation_steps": args.prompts_per_step // args.prompts_per_batch,
        "learning_rate": 0.0,
        "beta": args.beta,
        "max_grad_norm": 0.3,
        "bf16": args.bf16,
        "use_cpu": args.device == "cpu",
        "activation_checkpointing": False,
        "shuffle_dataset": False,
        "save_strategy": "no",
        "report_to": "none",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }
    model = TSRecForCausalLM.from_pretrained(path, dtype="float32")
    common = {
        "train_dataset": rows,
        "processing_class": tokenizer,
        "completions": completions,
        "clock": args.clock,
    }
    if kind == STOCK:
        rewards = [RewardOnCodes(function, tokenizer, args.num_generations) for function in functions]
        config = GRPOConfig(
            **settings, remove_unused_columns=False, max_completion_length=tokenizer.sid_index.num_levels
        )
        trainer = StockTrainer(model, rewards, config, **common)
    else:
        config = TSRecGRPOConfig(**settings, shared_prefix=kind == OURS)
        trainer = OursTrainer(model, functions, config, **common)
    trainer.train()
    return trainer


def gradient_difference(gradients: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest norm of a difference of two gradients over the norm of the expected one, over all weights."""
    if gradients.keys() != expected.keys():
        raise ValueError(f"Expected gradients of the same weights, but found {gradients.keys() ^ expected.keys()}.")
    differences = [float((gradients[name] - other).norm() / other.norm()) for name, other in expected.items()]
    return max(differences)


def compare(args: ScriptArguments, path: str, tokenizer: TSRecTokenizer, dataset) -> list[dict[str, Any]]:
    """A row per kind of prompt and trainer."""
    rows = []
    # Every step has prompts of its own, the same for all trainers.
    size = args.prompts_per_step * (1 + args.steps)
    short = build_grpo_rows(draw_rows(dataset.train, size, args.seed), tokenizer)
    for prompts in args.prompts:
        prefix = INSTRUCTION if prompts == "instruction" else ""
        data = short.map(lambda row: {"prompt": prefix + row["prompt"]}, keep_in_memory=True)
        lengths = [len(tokenizer.encode(prompt, add_special_tokens=False)) for prompt in data["prompt"]]
        completions: dict[tuple[int, ...], list[list[int]]] = {}
        expected: dict[str, torch.Tensor] = {}
        of_stock: dict[tuple[int, ...], list[list[int]]] = {}
        for kind in (STOCK, UNSHARED, OURS):
            with tempfile.TemporaryDirectory() as output_dir:
                trainer = measure(kind, args, path, tokenizer, data, completions, output_dir)
            # The first step warms up.
            seconds = min(trainer.steps[1:], key=lambda step: step["step"])
            if kind == STOCK:
                expected, of_stock = trainer.gradients, trainer.found
            same = sum(sorted(trainer.found[prompt]) == sorted(group) for prompt, group in of_stock.items())
            row = {"prompts": prompts, "tokens": sum(lengths) / len(lengths), "trainer": kind, **seconds}
            row["activation MiB"] = trainer.activation_bytes / 2**20
            row["gradient difference"] = gradient_difference(trainer.gradients, expected)
            row["same beams"] = [same, len(of_stock)]
            rows.append(row)
            print(json.dumps(row), flush=True)
            del trainer
            gc.collect()
    return rows


def report(rows: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    """The results as Markdown."""
    header = ["prompts", "trainer", "rollout, s", "loss, forward and backward, s", "whole step, s"]
    header += ["step, times faster than TRL", "loss, times faster", "activations of the loss, MiB", "times smaller"]
    header += ["largest relative gradient difference", "groups with TRL's beams"]
    body = []
    for row in rows:
        stock = next(other for other in rows if other["prompts"] == row["prompts"] and other["trainer"] == STOCK)
        body.append(
            [
                f"{row['prompts']}, {row['tokens']:.0f} tokens",
                row["trainer"],
                *(f"{row[phase]:.2f}" for phase in ("rollout", "loss", "step")),
                *(f"{stock[phase] / row[phase]:.1f}" for phase in ("step", "loss")),
                f"{row['activation MiB']:.0f}",
                f"{stock['activation MiB'] / row['activation MiB']:.1f}",
                f"{row['gradient difference']:.1e}",
                f"{row['same beams'][0]} of {row['same beams'][1]}",
            ]
        )
    return f"{settings_line(settings)}\n\n{markdown_table(header, body)}\n"


def main(args: ScriptArguments) -> None:
    dataset = load_minionerec(args.data_dir)
    settings = environment(args.device) | {
        "clock": args.clock,
        "load of the machine before": f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
        "model": "SmolLM2-135M with SA-Init, untrained" if args.model_name_or_path is None else "given checkpoint",
        "data": dataset.name,
        "num_generations": args.num_generations,
        "prompts a step": f"{args.prompts_per_step} in batches of {args.prompts_per_batch}",
        "timed steps": args.steps,
        "beta": args.beta,
        "dtype": "bfloat16 autocast" if args.bf16 else "float32",
        "seed": args.seed,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = args.model_name_or_path
        if path is None:
            path = save_untrained_recommender(Path(folder), dataset, load_semantics(args.data_dir))
        rows = compare(args, path, TSRecTokenizer.from_pretrained(path), dataset)
    text = report(rows, settings)
    print("\n" + text)
    if args.output_file:
        arguments = {name: value for name, value in asdict(args).items() if name not in ("data_dir", "output_file")}
        if args.model_name_or_path is not None:
            arguments["model_name_or_path"] = Path(args.model_name_or_path).name
        write_report(args.output_file, text, {"settings": settings, "arguments": arguments, "rows": rows})


if __name__ == "__main__":
    run_script(main, ScriptArguments)
