"""
Does GRPO raise the reward on training prompts, and what happens to HR and NDCG on validation?

    python benchmarks/grpo_learning.py --data_dir amazon/Industrial_and_Scientific

Every run (a mix of rewards and a seed) starts from the same checkpoint after SFT: that of `--model_name_or_path`, or a
small one that `examples/sft.py` trains first from the first layers of SmolLM2-135M. Before, halfway and after, groups
are rolled out as beams for the training prompts, and the same validation users get recommendations. A prompt's reward
is the expected one over its group: the completions' rewards, weighted by their probabilities under the policy. (The
plain mean over beams hardly moves for exact matches: a beam search finds the same target whether it comes first or
tenth.)

`listwise` among the mixes is no reward but another loss over the same groups: softmax DPO (S-DPO, arXiv 2406.09215),
the target against the policy's own beams, by how much each has gained on the start. For a fair chance, take as many
`--train_prompts` as the steps need, `--include_target true` and `--average_from .5`: no prompt comes twice, every
group has a hit, and weights are averaged over the second half of the run.

Runs are written to `runs/<mix>-seed<seed>.json` and not repeated, so that the study can be stopped and resumed; the
table (`summary.md`), the plot (`curves.png`) and its figures (`curves.csv`) show all finished runs. `ranks/` keeps
the places of the validation targets at the end of a run, from which the table has its intervals: 95 % of a paired
bootstrap over users against the start.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import (
    DataArguments,
    Runs,
    draw_band,
    draw_rows,
    markdown_table,
    run_script,
    spread,
    write_csv,
    write_text,
)
from reproduce import AverageCallback
from small_models import load_semantics, save_backbone
from transformers import TrainerCallback, set_seed

from tsrec_hf import (
    RecommendationEvaluator,
    RewardOnCodes,
    TSRecForCausalLM,
    TSRecGRPOConfig,
    TSRecGRPOTrainer,
    TSRecTokenizer,
    build_grpo_rows,
    description_similarities,
    exact_match_reward,
    load_minionerec,
    paired_bootstrap,
    prefix_reward,
    ranking_reward,
    semantic_reward,
)
from tsrec_hf.models import SearchSession
from tsrec_hf.sids import mean_pooled_embeddings


EXAMPLES = Path(__file__).parents[1] / "examples"
REWARDS = ("exact", "ranking", "prefix", "semantic")
LISTWISE = "listwise"
QUICK = {
    "num_layers": 2,
    "sft_steps": 2,
    "steps": 2,
    "prompts_per_step": 2,
    "num_generations": 4,
    "train_prompts": 4,
    "eval_users": 4,
    "num_beams": 10,
}
METRICS = ("hr@10", "ndcg@10", "sid_hr@10", "sid_ndcg@10")
# Arguments that a finished run does not depend on.
FREE = ("data_dir", "quick", "mixes", "seeds", "output_dir")


@dataclass(kw_only=True)
class LearningArguments(DataArguments):
    """Where to start, what to reward and how long to train."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Checkpoint after SFT; default: a small one that is made first."}
    )
    num_layers: int = field(default=6, metadata={"help": "Layers of the backbone that the small one keeps."})
    sft_steps: int = field(default=-1, metadata={"help": "Its steps of 32 session rows; default: one pass."})
    sft_learning_rate: float = field(default=5e-4, metadata={"help": "Its peak learning rate."})
    mixes: list[str] = field(
        default_factory=lambda: ["exact", "exact+ranking", "exact+prefix"],
        metadata={"help": f"Sums of {REWARDS} with equal weights, or {LISTWISE!r}."},
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "One run per mix and seed."})
    steps: int = field(default=60, metadata={"help": "Optimisation steps of a run."})
    prompts_per_step: int = field(default=8, metadata={"help": "Groups of a step."})
    num_generations: int = field(default=16, metadata={"help": "SIDs of a group."})
    rollout: str = field(default="beam", metadata={"help": "'beam', 'sample' or 'mixed'."})
    scoring: str = field(default="vocabulary", metadata={"help": "'vocabulary' or 'catalogue'."})
    learning_rate: float = field(default=1e-5, metadata={"help": "Constant, after 5 steps of warm-up."})
    beta: float = field(default=1e-3, metadata={"help": "Weight of the KL to the start."})
    listwise_beta: float = field(default=0.5, metadata={"help": "Scale of the gains on the start in `listwise`."})
    include_target: bool = field(default=False, metadata={"help": "Put the target into every group."})
    advantage_level: str = field(default="sequence", metadata={"help": "'sequence' or 'token'."})
    average_from: float | None = field(
        default=None, metadata={"help": "Part of the steps after which weights are averaged; default: the last ones."}
    )
    max_grad_norm: float = field(default=0.3, metadata={"help": "Gradients are clipped to this norm."})
    train_prompts: int = field(default=128, metadata={"help": "Prompts that a run trains on, in as many passes."})
    measured_prompts: int = field(default=128, metadata={"help": "Of these, those whose rewards are measured."})
    eval_users: int = field(default=512, metadata={"help": "Validation rows to recommend for."})
    num_beams: int = field(default=20, metadata={"help": "Beams of their search."})
    output_dir: str = field(default="outputs/grpo_learning", metadata={"help": "Folder of the results."})
    quick: bool = field(default=False, metadata={"help": "One short run per mix; shows only that the script runs."})

    def __post_init__(self):
        if self.quick:
            for name, value in QUICK.items():
                setattr(self, name, value)
            self.seeds = self.seeds[:1]
        unknown = [mix for mix in self.mixes if mix != LISTWISE and not set(mix.split("+")) <= set(REWARDS)]
        if unknown:
            raise ValueError(f"Expected `mixes` of {REWARDS} with '+' between them, but found {unknown}.")


def make_start(args: LearningArguments, folder: Path) -> str:
    """Folder or Hub id of the checkpoint that all runs start from; trains it if none is given."""
    if args.model_name_or_path is not None:
        return args.model_name_or_path
    output_dir = folder / f"start-{args.num_layers or 'all'}"
    if not (output_dir / "metrics.json").exists():
        backbone = save_backbone(folder / f"backbone-{args.num_layers}", args.num_layers)
        options = {
            "config": EXAMPLES / "configs" / "sft_industrial.yaml",
            "data_dir": args.data_dir,
            "model_name_or_path": backbone,
            "max_steps": args.sft_steps,
            "learning_rate": args.sft_learning_rate,
            "seed": 0,
            "eval_strategy": "no",
            "save_strategy": "no",
            "output_dir": output_dir,
        }
        line = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        subprocess.run([sys.executable, str(EXAMPLES / "sft.py"), *line], check=True)
    return str(output_dir)


class Measurement:
    """
    Measures rewards on training prompts and metrics on validation users, the same ones each time.

    Args:
        args (`LearningArguments`):
            How many of them.
        dataset ([`RecommendationDataset`]):
            Training and validation rows.
        tokenizer ([`TSRecTokenizer`]):
            The recommender's tokenizer.
        rewards (`dict[str, Callable]`):
            The kinds of rewards; all are measured, whatever a run trains on.
    """

    def __init__(self, args: LearningArguments, dataset, tokenizer: TSRecTokenizer, rewards: dict[str, Callable]):
        self.args, self.tokenizer = args, tokenizer
        self.rows = build_grpo_rows(draw_rows(dataset.train, args.train_prompts), tokenizer)
        measured = self.rows.select(range(min(args.measured_prompts, len(self.rows))))
        self.prompt_ids = [tokenizer.encode(prompt, add_special_tokens=False) for prompt in measured["prompt"]]
        self.targets = [target for target in measured["target"] for _ in range(args.num_generations)]
        self.rewards = {
            name: RewardOnCodes(function, tokenizer, args.num_generations) for name, function in rewards.items()
        }
        self.users = draw_rows(dataset.valid, args.eval_users)
        self.evaluator = RecommendationEvaluator(self.users, dataset.sid_index, dataset.train, ks=(10,))
        self.ranks = np.zeros(0)  # of the targets by SID, at the last measurement

    def keep_ranks(self, file: Path) -> None:
        """Writes the ranks of the last measurement, with the users that they are of."""
        file.parent.mkdir(parents=True, exist_ok=True)
        users = np.unique(self.users["user_id"][:], return_inverse=True)[1].astype(np.int32)
        np.savez_compressed(file, ranks=self.ranks, users=users)

    def __call__(self, model: TSRecForCausalLM, step: int) -> dict[str, Any]:
        args = self.args
        completion_ids, weights = self.groups(model)
        blank = [""] * len(completion_ids)
        point: dict[str, Any] = {"step": step}
        for name, reward in self.rewards.items():
            values = reward(prompts=blank, completions=blank, completion_ids=completion_ids, target=self.targets)
            values = np.reshape(values, weights.shape)
            point[name] = float((values * weights).sum(axis=1).mean())
            point[f"{name}, mean of beams"] = float(values.mean())
            if name == "exact":
                hits = values > 0
        point["groups with target"] = float(hits.any(axis=1).mean())
        point["MRR of target"] = float(np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0).mean())
        found = model.recommend(
            self.tokenizer,
            self.users["history"][:],
            top_k=min(self.evaluator.top_k, args.num_beams),
            num_beams=args.num_beams,
            batch_size=32,
            prior=None,
        )
        lists = [[item.item_id for item in items] for items in found]
        self.ranks = self.evaluator.ranks(lists, "sid").numpy().astype(np.int16)
        metrics = self.evaluator.evaluate(lists)["all"]
        return point | {name: metrics[name] for name in METRICS}

    def groups(self, model: TSRecForCausalLM) -> tuple[list[list[int]], np.ndarray]:
        """All prompts' completions, in one list, and their probabilities within the group: `(prompts, G)`."""
        session = SearchSession(model, self.tokenizer, self.args.scoring, prefix_ids=())
        completion_ids, scores = [], []
        for start in range(0, len(self.prompt_ids), 32):
            inputs = session.pad(self.prompt_ids[start : start + 32])
            beams = session.search.beam(*inputs, self.args.num_generations)
            completion_ids += session.tokens_of(beams.leaves).flatten(0, 1).tolist()
            scores.append(beams.scores)
        return completion_ids, torch.cat(scores).softmax(-1).numpy()


class ListwiseTrainer(TSRecGRPOTrainer):
    """
    Softmax DPO (S-DPO, arXiv 2406.09215, equation 8) over the groups of GRPO: the target is preferred to every other
    SID of its group, all in one softmax over what each has gained on the reference. Needs the exact reward, which
    tells the target by its advantage, and `include_target`.
    """

    scale: float

    def _compute_loss(self, model, inputs):
        completion_ids = inputs["completion_ids"]
        log_probs, _, _ = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([inputs["prompt_ids"], completion_ids], dim=1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
            completion_ids.shape[1],
        )
        gains = (log_probs - inputs["ref_per_token_logps"]).sum(-1).view(-1, self._group)
        targets = inputs["advantages"].view(gains.shape).argmax(-1)
        loss = torch.nn.functional.cross_entropy(self.scale * gains, targets)
        return loss / self.current_gradient_accumulation_steps


class MeasureCallback(TrainerCallback):
    """Measures halfway."""

    def __init__(self, measure: Measurement):
        self.measure, self.points = measure, []

    def on_step_end(self, args, state, control, model, **kwargs):
        # The last measurement is that of the weights that training ends with, perhaps an average.
        if state.global_step == state.max_steps // 2:
            self.points.append(self.measure(model, state.global_step))
            print(self.points[-1], flush=True)


def make_rewards(args: LearningArguments, start: str, tokenizer: TSRecTokenizer) -> dict[str, Callable]:
    """Reward functions by name; the semantic one compares descriptions as the start's own backbone embeds them."""
    semantics = load_semantics(args.data_dir)
    embed = partial(mean_pooled_embeddings, TSRecForCausalLM.from_pretrained(start, dtype="float32"), tokenizer)
    similarities = description_similarities(semantics, tokenizer.sid_index, embed)
    per_level = args.advantage_level == "token"
    return {
        "exact": exact_match_reward,
        "ranking": ranking_reward,
        "prefix": partial(prefix_reward, per_level=per_level),
        "semantic": partial(semantic_reward, similarities=similarities, per_level=per_level),
    }


def run(
    args: LearningArguments,
    mix: str,
    seed: int,
    start: str,
    tokenizer: TSRecTokenizer,
    measure: Measurement,
    rewards: dict[str, Callable],
    folder: Path,
) -> dict[str, Any]:
    """Trains on one mix with one seed, and keeps the ranks of the validation targets in `folder`."""
    set_seed(seed)
    model = TSRecForCausalLM.from_pretrained(start, dtype="float32")
    callback = MeasureCallback(measure)
    callbacks = [callback] if args.average_from is None else [callback, AverageCallback(args.average_from)]
    listwise = mix == LISTWISE
    with tempfile.TemporaryDirectory() as work:
        training_args = TSRecGRPOConfig(
            work,
            max_steps=args.steps,
            num_generations=args.num_generations,
            per_device_train_batch_size=args.prompts_per_step * args.num_generations,
            rollout=args.rollout,
            scoring=args.scoring,
            include_target=args.include_target or listwise,
            advantage_level="sequence" if listwise else args.advantage_level,
            learning_rate=args.learning_rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=5,
            max_grad_norm=args.max_grad_norm,
            beta=args.beta,
            activation_checkpointing=False,
            save_strategy="no",
            logging_steps=max(1, args.steps // 10),
            report_to="none",
            disable_tqdm=True,
            seed=seed,
        )
        kind = ListwiseTrainer if listwise else TSRecGRPOTrainer
        trainer = kind(
            model,
            [rewards[name] for name in (("exact",) if listwise else mix.split("+"))],
            training_args,
            train_dataset=measure.rows,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        trainer.scale = args.listwise_beta
        trainer.train()
        callback.points.append(measure(model, trainer.state.max_steps))
        measure.keep_ranks(folder / f"{mix}-seed{seed}.npz")
    return {
        "mix": mix,
        "seed": seed,
        "points": callback.points,
        "log": [entry for entry in trainer.state.log_history if "reward" in entry],
    }


def reward_of(point: dict[str, Any], mix: str) -> float:
    """The sum of a mix's rewards at one measurement."""
    return sum(point[name] for name in (("exact",) if mix == LISTWISE else mix.split("+")))


def difference(folder: Path, results: list[dict[str, Any]]) -> str:
    """NDCG@10 by SID of a mix's runs less that of the start, with its interval."""
    files = [np.load(folder / "ranks" / f"{result['mix']}-seed{result['seed']}.npz") for result in results]
    start = torch.from_numpy(np.load(folder / "ranks" / "start.npz")["ranks"]).long()
    ranks = torch.cat([torch.from_numpy(file["ranks"]).long() for file in files])
    users = np.concatenate([file["users"] for file in files]).tolist()
    found = paired_bootstrap(ranks, start.repeat(len(files)), users=users)
    return f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def summarize(start: dict[str, Any], results: list[dict[str, Any]], folder: Path) -> str:
    """Writes a table of the runs' last measurements and returns it as Markdown."""
    header = ["mix", "seeds", "its reward: start", "after", "groups with target", "MRR of target"]
    header += ["HR@10", "NDCG@10", "HR@10 by SID", "NDCG@10 by SID", "less the start's"]
    names = ("groups with target", "MRR of target", *METRICS)
    rows = [["start (SFT)", "", "", "", *(f"{start[name]:.4f}" for name in names), ""]]
    for mix in dict.fromkeys(result["mix"] for result in results):
        own = [result for result in results if result["mix"] == mix]
        ends = [result["points"][-1] for result in own]
        rewards = [f"{reward_of(start, mix):.4f}", spread([reward_of(point, mix) for point in ends])]
        seeds = ", ".join(str(result["seed"]) for result in own)
        figures = [spread([point[name] for point in ends]) for name in names]
        rows.append([mix, seeds, *rewards, *figures, difference(folder, own)])
    table = markdown_table(header, rows)
    write_text(folder / "summary.md", table + "\n")
    return table


def write_curves(start: dict[str, Any], results: list[dict[str, Any]], path: Path) -> None:
    """Writes every measurement of every run as a line of CSV."""
    points = [("start", "", start), *((r["mix"], r["seed"], point) for r in results for point in r["points"])]
    rows = [[mix, seed, *(point[name] for name in start)] for mix, seed, point in points]
    write_csv(path, ["mix", "seed", *start], rows)


def plot(start: dict[str, Any], results: list[dict[str, Any]], path: Path) -> None:
    """Plots reward, hits and metrics against steps: mean over seeds, and the spread between them as a band."""
    from matplotlib.figure import Figure

    panels = {
        "expected reward on training prompts, gain": reward_of,
        "training prompts with target in the group": lambda point, mix: point["groups with target"],
        "HR@10, validation": lambda point, mix: point["hr@10"],
        "NDCG@10, validation": lambda point, mix: point["ndcg@10"],
    }
    figure = Figure(figsize=(4 * len(panels), 3.8), layout="constrained")
    grid = figure.subplots(1, len(panels))
    for axes, (title, value) in zip(grid, panels.items()):
        for mix in dict.fromkeys(result["mix"] for result in results):
            curves = [[start, *result["points"]] for result in results if result["mix"] == mix]
            steps = [point["step"] for point in curves[0]]
            values = np.array([[value(point, mix) for point in curve] for curve in curves])
            if value is reward_of:
                # Sums of different rewards cannot be compared, gains can.
                values = values - values[:, :1]
            draw_band(axes, steps, values, mix, marker="o")
        axes.set(xlabel="step", title=title)
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3)
    grid[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main(args: LearningArguments) -> None:
    folder = Path(args.output_dir) / ("quick" if args.quick else "")
    print(json.dumps(asdict(args)), f"torch {torch.__version__}, {torch.get_num_threads()} threads", sep="\n")
    dataset = load_minionerec(args.data_dir)
    start_path = make_start(args, folder)
    tokenizer = TSRecTokenizer.from_pretrained(start_path)
    rewards = make_rewards(args, start_path, tokenizer)
    measure = Measurement(args, dataset, tokenizer, rewards)
    settings = {name: value for name, value in asdict(args).items() if name not in FREE}

    def measure_start() -> dict[str, Any]:
        point = measure(TSRecForCausalLM.from_pretrained(start_path, dtype="float32"), 0)
        measure.keep_ranks(folder / "ranks" / "start.npz")
        return {"point": point}

    start = Runs(folder, settings).get("start", measure_start)["point"]
    print(start, flush=True)
    runs = Runs(folder / "runs", settings)
    # Seed by seed, so that every mix has its first result early.
    for seed in args.seeds:
        for mix in args.mixes:
            make = partial(run, args, mix, seed, start_path, tokenizer, measure, rewards, folder / "ranks")
            runs.get(f"{mix}-seed{seed}", make)
    results = runs.finished()
    write_curves(start, results, folder / "curves.csv")
    plot(start, results, folder / "curves.png")
    print(summarize(start, results, folder))


if __name__ == "__main__":
    run_script(main, LearningArguments)
