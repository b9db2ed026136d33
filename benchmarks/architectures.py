"""
Which backbones work, in everything?

    python benchmarks/architectures.py --output_file docs/architectures.md

Each family of causal language models in transformers, with a tiny configuration and random weights, goes the whole
way: `from_backbone`; two steps of SFT, whose log-probabilities equal those of a plain forward pass; save and load;
`recommend`, whose lists equal a ranking of the whole catalogue by plain forward passes, before and after training; a
step of GRPO with a reference model; LoRA and its merge; export. A family works, or is refused with a reason, before
anything is trained. Families are kept in `--output_dir`, so that a stopped run goes on, and the table has all that are
there.
"""

import json
import logging
import signal
import tempfile
import traceback
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from common import Runs, markdown_table, run_script, write_text
from datasets import Dataset
from generate_beams import GenerateBeams
from tiny_configs import model_types, tiny_config
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import ModelConfig

import tsrec_hf
from tsrec_hf import (
    PromptBuilder,
    SIDIndex,
    TSRecForCausalLM,
    TSRecGRPOConfig,
    TSRecGRPOTrainer,
    TSRecSFTConfig,
    TSRecSFTTrainer,
    TSRecTokenizer,
    build_grpo_rows,
    build_sequence_rows,
    exact_match_reward,
    export_backbone,
    lora_config,
)
from tsrec_hf.models.evaluation_view_tsrec import evaluation_view
from tsrec_hf.models.probing_tsrec import Probe, fastest_kind


NUM_ITEMS, SIZES = 24, (3, 4, 3)
# Sums of three log-probabilities in float32, about 10 in size.
TOLERANCE = 2e-4
WORDS = "the history of a user next item items : , . chosen in order tools food a b c d e f g h".split()
DECODING = {"tree": "tree", "copies": "copied cache", "plain": "plain passes"}


@dataclass(kw_only=True)
class ScriptArguments:
    """What to try."""

    families: list[str] = field(default_factory=list, metadata={"help": "Families to try; default: all."})
    seconds: int = field(default=180, metadata={"help": "Limit of each family."})
    output_dir: str = field(default="outputs/architectures", metadata={"help": "Folder of finished families."})
    output_file: str | None = field(default=None, metadata={"help": "Markdown file for the table."})
    quick: bool = field(default=False, metadata={"help": "A handful of families, one of each kind."})

    def __post_init__(self):
        if self.quick:
            self.families = ["llama", "gemma3_text", "bloom", "gpt2", "mixtral", "lfm2", "bert"]
        self.families = self.families or model_types()


class NotSoError(AssertionError):
    """What should be equal is not."""


def save_backbone(family: str, folder: Path) -> None:
    """A tiny random backbone, and its tokenizer in the subfolder `tokenizer`."""
    vocabulary = {token: row for row, token in enumerate(["<unk>", "<s>", "</s>", "<pad>", *dict.fromkeys(WORDS)])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(family, len(vocabulary)))
    with torch.no_grad():
        for parameter in model.parameters():
            # Default weights are so small that every SID would score alike.
            if parameter.dim() > 1 and parameter.is_floating_point():
                parameter.normal_(std=0.2)
    model.tie_weights()
    model.save_pretrained(folder)


def make_catalogue() -> tuple[SIDIndex, Dataset]:
    """A random catalogue, and interactions with it."""
    rng = np.random.default_rng(0)
    items = [f"item {number}" for number in range(NUM_ITEMS)]
    index = SIDIndex(items, rng.integers(0, SIZES, size=(NUM_ITEMS, len(SIZES))))
    rows = [[items[item] for item in rng.integers(0, NUM_ITEMS, size=length)] for length in (2, 4, 7, 3)]
    histories = {"user_id": list("wxyz"), "history": [row[:-1] for row in rows], "target": [row[-1] for row in rows]}
    return index, Dataset.from_dict(histories)


@torch.no_grad()
def plain_log_probs(model: TSRecForCausalLM, ids: list[int], start: int) -> torch.Tensor:
    """Log-probabilities of the tokens from `start` on, by a forward pass of one sequence and nothing else."""
    logits = evaluation_view(model.backbone)(input_ids=torch.tensor([ids])).logits[0, start - 1 : -1].float()
    return logits.log_softmax(-1).gather(-1, torch.tensor(ids[start:]).unsqueeze(-1)).squeeze(-1)


def check_lists(model: TSRecForCausalLM, tokenizer: TSRecTokenizer, histories: list[list[str]]) -> None:
    """`recommend` against the whole catalogue, ranked by plain forward passes."""
    prompts, index = PromptBuilder(tokenizer), tokenizer.sid_index
    sids = dict(zip(index.item_ids, tokenizer.encode_sids(index.item_ids)))
    found = model.recommend(tokenizer, histories, top_k=8, num_beams=NUM_ITEMS, scoring="vocabulary")
    for history, row in zip(histories, found):
        prompt = prompts.sequence_prompt_ids(history)
        every = {item: float(plain_log_probs(model, prompt + ids, len(prompt)).sum()) for item, ids in sids.items()}
        best = sorted(every.values(), reverse=True)[: len(row)]
        for recommendation, score in zip(row, best):
            if not np.allclose([recommendation.score, every[recommendation.item_id]], score, atol=TOLERANCE, rtol=0):
                raise NotSoError(f"{recommendation} should have score {score:.5f}")


def generate_says(model: TSRecForCausalLM, tokenizer: TSRecTokenizer, history: list[str]) -> str:
    """Whether `generate`, for one prompt, gives the scores of `recommend`."""
    prompt = PromptBuilder(tokenizer).sequence_prompt_ids(history)
    try:
        _, scores = GenerateBeams(tokenizer)(model.backbone, [prompt], 8)
    except Exception as error:  # whatever it does; that is what the column tells
        return f"ends in {type(error).__name__}"
    found = model.recommend(tokenizer, [history], top_k=8, num_beams=8, scoring="vocabulary")[0]
    best = list(dict.fromkeys((r.sid, r.score) for r in found))
    same = np.allclose([score for _, score in best], scores[0, : len(best)].tolist(), atol=TOLERANCE, rtol=0)
    return "equal" if same else "differs"


class Journey:
    """One family's way, step by step; `facts` tells what was found on it."""

    def __init__(self, family: str, folder: Path):
        self.family, self.folder = family, folder
        self.index, self.rows = make_catalogue()
        self.histories = self.rows["history"][:]
        self.facts: dict[str, Any] = {}
        self.step = ""

    def run(self) -> None:
        """All of it."""
        for step in (self.begin, self.train, self.reload, self.reward, self.adapt, self.export):
            self.step = step.__name__
            step()

    def arguments(self, name: str) -> dict[str, Any]:
        """Settings of a trainer."""
        common = {"max_steps": 2, "learning_rate": 1e-3, "report_to": "none", "bf16": False, "use_cpu": True}
        common |= {"save_strategy": "no", "disable_tqdm": True, "gradient_checkpointing": False}
        return {"output_dir": str(self.folder / name), **common}

    def begin(self) -> None:
        """`from_backbone`; lists."""
        save_backbone(self.family, self.folder / "backbone")
        self.tokenizer = TSRecTokenizer.from_backbone(self.folder / "backbone" / "tokenizer", self.index)
        self.model = TSRecForCausalLM.from_backbone(self.folder / "backbone", self.tokenizer)
        self.facts["class"] = type(self.model.backbone).__name__
        with torch.no_grad():  # rows of SID tokens that are told apart
            rows = [token_id for level in self.tokenizer.sid_token_ids for token_id in level]
            for matrix in (self.model.get_input_embeddings(), self.model.get_output_embeddings()):
                matrix.weight[rows] = torch.randn(len(rows), matrix.weight.shape[1]) * 0.2
        self.facts["decoding"] = fastest_kind(Probe(evaluation_view(self.model.backbone), 80))
        check_lists(self.model, self.tokenizer, self.histories)
        self.facts["generate"] = generate_says(self.model, self.tokenizer, self.histories[1])

    def train(self) -> None:
        """Two steps of SFT."""
        args = TSRecSFTConfig(**self.arguments("sft"), per_device_train_batch_size=2)
        rows = build_sequence_rows(self.rows, self.tokenizer)
        trainer = TSRecSFTTrainer(self.model, args, train_dataset=rows, processing_class=self.tokenizer)
        batch = trainer.data_collator([rows.remove_columns("task")[row] for row in range(len(rows))])
        self.model.eval()
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
        with torch.no_grad():
            found = self.model(**inputs, fused_lm_head=True, use_cache=False).log_probs
        for row, labels, log_probs in zip(rows["input_ids"], batch["labels"], found):
            labelled = (labels[1 : len(row)] != -100).nonzero().flatten()
            expected = plain_log_probs(self.model, list(row), 1)[labelled]
            if not torch.allclose(log_probs[labelled], expected, atol=TOLERANCE, rtol=0):
                error = (log_probs[labelled] - expected).abs().max()
                raise NotSoError(f"the log-probabilities of training are off by {error:.2g}")
        trainer.train()

    def reload(self) -> None:
        """Save and load; lists."""
        self.model.save_pretrained(self.folder / "saved")
        self.tokenizer.save_pretrained(self.folder / "saved")
        loaded = TSRecForCausalLM.from_pretrained(self.folder / "saved", dtype=torch.float32)
        self._equal(self.model, loaded, "saved and loaded")
        self.model = loaded
        check_lists(self.model, self.tokenizer, self.histories)

    def reward(self) -> None:
        """A step of GRPO, with a reference model."""
        rows = build_grpo_rows(self.rows, self.tokenizer)
        for shared in (True, False):
            args = TSRecGRPOConfig(
                **self.arguments("grpo") | {"max_steps": 1},
                num_generations=4,
                per_device_train_batch_size=8,
                beta=0.1,
                shared_prefix=shared,
            )
            try:
                trainer = TSRecGRPOTrainer(
                    self.model, exact_match_reward, args, train_dataset=rows, processing_class=self.tokenizer
                )
            except ValueError as error:
                if not shared or "`shared_prefix=False`" not in str(error):
                    raise
                continue
            trainer.train()
            [log] = [entry for entry in trainer.state.log_history if "kl" in entry]
            # The reference is the policy of the first step.
            if not abs(log["kl"]) < 1e-3:
                raise NotSoError(f"the reference model is off by a KL divergence of {log['kl']:.2g}")
            self.facts["GRPO"] = "shared prefix" if shared else "a row each"
            return

    def adapt(self) -> None:
        """A step of LoRA, and its merge."""
        model = TSRecForCausalLM.from_pretrained(self.folder / "saved", dtype=torch.float32)
        args = TSRecSFTConfig(**self.arguments("lora"), per_device_train_batch_size=2)
        rows = build_sequence_rows(self.rows, self.tokenizer)
        try:
            config = lora_config(model, self.tokenizer, ModelConfig(use_peft=True, lora_r=4))
            trainer = TSRecSFTTrainer(
                model, args, train_dataset=rows, processing_class=self.tokenizer, peft_config=config
            )
        except ValueError as error:
            if not is_refusal(error):
                raise
            self.facts["LoRA"] = f"refused: {error}"
            return
        trainer.train()
        adapted = trainer.model.eval()
        ids = torch.tensor([PromptBuilder(self.tokenizer).sequence_prompt_ids(self.histories[1])])
        with torch.no_grad():
            before = adapted(input_ids=ids).logits
            after = adapted.merge_and_unload()(input_ids=ids).logits
        if not torch.allclose(before, after, atol=1e-3, rtol=1e-3):
            raise NotSoError(f"merged adapters move logits by {(before - after).abs().max():.2g}")
        self.facts["LoRA"] = "merges"

    def export(self) -> None:
        """A plain backbone."""
        export_backbone(self.model, self.folder / "plain", self.tokenizer)
        plain = AutoModelForCausalLM.from_pretrained(self.folder / "plain", dtype=torch.float32)
        self._equal(self.model, plain, "exported")

    def _equal(self, model: torch.nn.Module, other: torch.nn.Module, name: str) -> None:
        ids = torch.tensor([PromptBuilder(self.tokenizer).sequence_prompt_ids(self.histories[1])])
        with torch.no_grad():
            error = (model.eval()(input_ids=ids).logits - other.eval()(input_ids=ids).logits).abs().max()
        if not error < 1e-5:
            raise NotSoError(f"{name}, its logits are off by {error:.2g}")


@contextmanager
def limited(seconds: int):
    """Ends what takes longer with a `TimeoutError`."""

    def end(*_):
        raise TimeoutError(f"longer than {seconds} s")

    signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def is_refusal(error: BaseException) -> bool:
    """Whether this package raised an error on purpose."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    ours = Path(last.filename).is_relative_to(Path(tsrec_hf.__file__).parent)
    return ours and isinstance(error, (ValueError, TypeError)) and "raise" in (last.line or "")


def try_family(family: str, seconds: int) -> dict[str, Any]:
    """The facts of one family, with its `verdict`: works, refused or failed."""
    with tempfile.TemporaryDirectory() as folder, limited(seconds):
        journey = Journey(family, Path(folder))
        try:
            try:
                with torch.device("meta"):
                    size = AutoModelForCausalLM.from_config(tiny_config(family, 64)).num_parameters()
            except Exception as error:
                return {"verdict": "left out", "reason": f"no tiny configuration: {type(error).__name__}: {error}"}
            if size > 3_000_000:
                return {"verdict": "left out", "reason": "no tiny configuration: a model of several parts"}
            journey.run()
            return {**journey.facts, "verdict": "works", "reason": ""}
        except Exception as error:
            refused = is_refusal(error) and journey.step == "begin"
            reason = f"{error}" if refused else f"{journey.step}: {type(error).__name__}: {error}"
            return {**journey.facts, "verdict": "refused" if refused else "failed", "reason": reason}


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results as Markdown."""
    tried = {family: facts for family, facts in results.items() if facts["verdict"] != "left out"}
    counts = {
        verdict: sum(f["verdict"] == verdict for f in tried.values()) for verdict in ("works", "refused", "failed")
    }
    rows = []
    for family, facts in tried.items():
        verdict = facts["verdict"] + (f": {facts['reason'].splitlines()[0][:300]}" if facts["reason"] else "")
        lora = facts.get("LoRA", "–")
        lora = "no: its head has a bias" if "bias" in lora else lora
        lora = "no: its embeddings do more than look up" if "does besides" in lora else lora[:80]
        cells = [facts.get("class", "–"), DECODING.get(facts.get("decoding", ""), "–"), facts.get("generate", "–")]
        rows.append([f"`{family}`", *cells, facts.get("GRPO", "–"), lora, verdict.replace("|", "/")])
    left_out = ", ".join(f"`{family}`" for family in sorted(set(results) - set(tried)))
    header = ["family", "class", "decoding", "`generate`", "GRPO", "LoRA", "verdict"]
    return f"""# Backbones

Made by `python benchmarks/architectures.py --output_file docs/architectures.md` with transformers
{transformers.__version__}: each family of causal language models, tiny and with random weights, through
`from_backbone`, two steps of SFT (log-probabilities equal to plain forward passes), save and load, `recommend`
(lists equal to a ranking of the whole catalogue by plain forward passes, before and after training), a step of
GRPO with a reference model, LoRA and its merge, and export. Of {len(tried)} families {counts['works']} work,
{counts['refused']} are refused and {counts['failed']} fail.

- **decoding**: what the probe of `models/probing_tsrec.py` found to be right. A *tree* is fast; a *copied
  cache* takes memory for each beam; *plain passes* read the whole prompt again for each beam.
- **`generate`**: whether transformers' own constrained beam search, for one prompt, gives the same scores.
- **GRPO**: *a row each* means `shared_prefix=False`.
- **LoRA**: where a merge would be wrong it is refused; the rest works without adapters.

{markdown_table(header, rows)}

Not tried, since they have parts for images or sound, or no tiny configuration by the rules of
`benchmarks/tiny_configs.py`: {left_out or "none"}.
"""


def main(args: ScriptArguments) -> None:
    """Tries each family."""
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    runs = Runs(Path(args.output_dir), {"transformers": transformers.__version__})
    for family in args.families:
        found = runs.get(family, lambda: {"family": family, **try_family(family, args.seconds)})
        facts = {name: found.get(name) for name in ("verdict", "decoding", "generate", "GRPO", "reason")}
        print(json.dumps({family: facts}), flush=True)
    # Of earlier calls, too, which may have tried other families.
    text = table({found["family"]: found for found in runs.finished()})
    print(text)
    if args.output_file:
        write_text(Path(args.output_file), text)


if __name__ == "__main__":
    run_script(main, ScriptArguments)
