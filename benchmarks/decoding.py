"""
How fast, how equal and how exact is constrained decoding?

    python benchmarks/decoding.py --model_name_or_path outputs/sft --data_dir amazon/Industrial_and_Scientific

In one run, on the same prompts of the test split: `generate` with a `prefix_allowed_tokens_fn`, as others do;
`generate` with a vectorised logits processor; and the tree search of `recommend`, for the ten best: scored over the
vocabulary, equal to `generate`, and over the catalogue, equal to `generate` with that function and
`renormalize_logits=True`. Prompts are ours, and the same behind an instruction of some 80 tokens, as other systems
have it. Times are of one process; compare ratios, not machines.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import HfArgumentParser, LogitsProcessor, LogitsProcessorList

from tsrec_hf import PromptBuilder, TSRecForCausalLM, TSRecTokenizer, load_minionerec
from tsrec_hf.models import SIDSearch


INSTRUCTION = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\nCan you predict the next possible item "
    "that the user may expect, given the items that the user has interacted with in chronological order? Answer with "
    "the semantic ID of that item alone.\n\n### Input:\n"
)
TIE = 1e-4
TOP_K = 10
# Ways to `generate`, and the scoring of ours whose lists they have.
GENERATES = {"function": "vocabulary", "processor": "vocabulary", "renormalised": "catalogue"}


@dataclass
class ScriptArguments:
    """What to measure."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of a recommender."})
    data_dir: str | None = field(
        default=os.environ.get("TSREC_DATA"), metadata={"help": "Folder in MiniOneRec's layout; default: TSREC_DATA."}
    )
    beams: list[int] = field(default_factory=lambda: [10, 20, 50], metadata={"help": "Numbers of beams."})
    batch_sizes: list[int] = field(default_factory=lambda: [1, 8, 32], metadata={"help": "Batch sizes of ours."})
    generate_batch_sizes: list[int] = field(
        default_factory=lambda: [1, 8, 32], metadata={"help": "Batch sizes at which `generate` is timed."}
    )
    generate_users: int = field(default=8, metadata={"help": "Test users that `generate` is timed on, at most."})
    num_users: int = field(default=64, metadata={"help": "Test users that ours is timed on."})
    exact_users: int = field(default=64, metadata={"help": "Test users that the exact search is run for."})
    seed: int = field(default=0, metadata={"help": "Seed of the draw of users."})
    dtype: str = field(default="float32", metadata={"help": "Type of the weights."})
    device: str = field(default="cpu", metadata={"help": "Where to run."})
    output_file: str | None = field(default=None, metadata={"help": "Markdown file for the tables; JSON beside it."})
    quick: bool = field(default=False, metadata={"help": "Few users, 10 beams, no instruction."})


class CatalogueProcessor(LogitsProcessor):
    """Closes all tokens but those that continue a SID, by a walk through the trie for all beams at once; stateless."""

    def __init__(self, search: SIDSearch, prompt_length: int, vocabulary: int):
        self.trie, self.prompt_length = search.trie, prompt_length
        starts = [*search.level_starts.tolist(), len(search.token_ids)]
        self.token_ids = [search.token_ids[start:stop] for start, stop in zip(starts, starts[1:])]
        self.codes = torch.full((len(self.token_ids), vocabulary), -1, device=self.trie.device)
        for level, ids in enumerate(self.token_ids):
            self.codes[level, ids] = torch.arange(len(ids), device=ids.device)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores with everything closed that is not a child of the row's prefix."""
        nodes = input_ids.new_zeros(len(input_ids))
        generated = input_ids[:, self.prompt_length :]
        for level in range(generated.shape[1]):
            children, codes, legal = self.trie.children(nodes, level)
            chosen = ((codes == self.codes[level, generated[:, level], None]) & legal).int().argmax(-1, keepdim=True)
            nodes = children.gather(-1, chosen).squeeze(-1)
        children, codes, legal = self.trie.children(nodes, generated.shape[1])
        closed = torch.full_like(scores, -torch.inf)
        tokens = self.token_ids[generated.shape[1]][codes]
        # Padding stands on a row's first child, which is open anyway.
        tokens = torch.where(legal, tokens, tokens[:, :1])
        return closed.scatter(1, tokens, scores.gather(1, tokens))


class ForwardTimer:
    """Sums up the time that a model's forward passes take, nested ones once."""

    def __init__(self, modules: Sequence[torch.nn.Module]):
        self.seconds, self.depth = 0.0, 0
        for module in modules:
            module.register_forward_pre_hook(self._enter, with_kwargs=True)
            module.register_forward_hook(self._leave)

    def _enter(self, *args) -> None:
        if self.depth == 0:
            self.start = now()
        self.depth += 1

    def _leave(self, *args) -> None:
        self.depth -= 1
        if self.depth == 0:
            self.seconds += now() - self.start


def now() -> float:
    """Seconds, once the device has done all it was asked to."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Decoders:
    """The ways to decode, on batches of prompts, each giving `(SIDs as token ids, scores)` per prompt."""

    def __init__(self, model: TSRecForCausalLM, tokenizer: TSRecTokenizer):
        self.model, self.tokenizer = model, tokenizer
        self.children: dict[tuple[int, ...], set[int]] = {}
        for ids in tokenizer.encode_sids(tokenizer.sid_index.item_ids):
            for level, token_id in enumerate(ids):
                self.children.setdefault(tuple(ids[:level]), set()).add(token_id)
        self.sid_of_leaf = torch.tensor(
            tokenizer.encode_sids(
                [
                    tokenizer.sid_index.item_ids[tokenizer.sid_index.trie.items_of_leaf(leaf)[0]]
                    for leaf in range(tokenizer.sid_index.trie.num_leaves)
                ]
            )
        )

    def pad(self, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Left-padded ids and their mask."""
        width, pad = max(map(len, rows)), self.tokenizer.pad_token_id
        input_ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        return input_ids.to(self.model.device), mask.to(self.model.device)

    def generate(self, prompts: list[list[int]], num_beams: int, batch_size: int, way: str) -> list:
        """By the backbone's `generate`, in one of the ways of `GENERATES`."""
        results = []
        search = SIDSearch(self.model.backbone, self.tokenizer.sid_index.trie, self.tokenizer.sid_token_ids)
        for start in range(0, len(prompts), batch_size):
            input_ids, mask = self.pad(prompts[start : start + batch_size])
            width = input_ids.shape[1]
            if way == "processor":
                vocabulary = self.model.get_output_embeddings().weight.shape[0]
                held = {"logits_processor": LogitsProcessorList([CatalogueProcessor(search, width, vocabulary)])}
            else:
                held = {"prefix_allowed_tokens_fn": lambda _, ids: list(self.children[tuple(ids[width:].tolist())])}
            output = self.model.backbone.generate(
                input_ids=input_ids,
                attention_mask=mask,
                num_beams=num_beams,
                num_return_sequences=num_beams,
                length_penalty=0.0,
                do_sample=False,
                max_new_tokens=self.tokenizer.sid_index.num_levels,
                eos_token_id=None,
                pad_token_id=self.tokenizer.pad_token_id,
                renormalize_logits=way == "renormalised",
                return_dict_in_generate=True,
                output_scores=True,
                **held,
            )
            sids = output.sequences[:, width:].view(len(input_ids), num_beams, -1).tolist()
            scores = output.sequences_scores.view(len(input_ids), num_beams).tolist()
            results += [(list(map(tuple, row)), row_scores) for row, row_scores in zip(sids, scores)]
        return results

    @torch.inference_mode()
    def tree(
        self,
        prompts: list[list[int]],
        num_beams: int,
        batch_size: int,
        prefix: list[int],
        scoring: str = "vocabulary",
        top_k: int | None = TOP_K,
    ) -> list:
        """By the tree search, as `recommend` runs it: the prefix read once, users of like length together."""
        search = SIDSearch(
            self.model.backbone,
            self.tokenizer.sid_index.trie,
            self.tokenizer.sid_token_ids,
            scoring,
            torch.tensor(prefix, dtype=torch.long),
        )
        order = sorted(range(len(prompts)), key=lambda user: len(prompts[user]), reverse=True)
        results = [None] * len(prompts)
        for start in range(0, len(order), batch_size):
            users = order[start : start + batch_size]
            beams = search.beam(*self.pad([prompts[user][len(prefix) :] for user in users]), num_beams, top_k=top_k)
            for user, leaves, scores in zip(users, beams.leaves.cpu(), beams.scores.tolist()):
                results[user] = list(map(tuple, self.sid_of_leaf[leaves].tolist())), scores
        return results


def compare(found: list, expected: list) -> tuple[int, int]:
    """How many lists are identical, and how many but for neighbours whose scores are closer than `TIE`."""
    identical = sum(sids == others for (sids, _), (others, _) in zip(found, expected))
    tied = 0
    for (sids, scores), (others, other_scores) in zip(found, expected):
        score_of = dict(zip(others, other_scores))
        tied += all(
            a == b or abs(score_of.get(a, other_scores[-1]) - score) < TIE
            for a, b, score in zip(sids, others, other_scores)
        )
    return identical, tied


def timed(decode: Callable[[], list], timer: ForwardTimer) -> tuple[list, float, float]:
    """What a decoder gives, its seconds, and the share of them outside the model's forward passes."""
    timer.seconds, start = 0.0, now()
    result = decode()
    seconds = now() - start
    return result, seconds, 1 - timer.seconds / seconds


def speed(decoders: Decoders, timer: ForwardTimer, args: ScriptArguments, histories: list) -> list[dict]:
    """A row per kind of prompt, number of beams and batch size."""
    tokenizer = decoders.tokenizer
    prompts = PromptBuilder(tokenizer)
    instruction = tokenizer(INSTRUCTION, add_special_tokens=False).input_ids
    rows = []
    for kind, extra in [("ours", [])] + ([] if args.quick else [("with an instruction", instruction)]):
        prefix = [*extra, *prompts.instruction_ids]
        encoded = [[*extra, *prompts.sequence_prompt_ids(history)] for history in histories]
        length = sum(map(len, encoded)) / len(encoded)
        for num_beams in args.beams:
            # What `generate` gave for some first users, and how long it took: batches above `generate_users` share it.
            generated: dict[tuple[str, int], tuple[list, float]] = {}
            for batch_size in tqdm(args.batch_sizes, desc=f"prompts {kind}, {num_beams} beams"):
                warm_up = encoded[:batch_size]
                row = {"prompts": kind, "tokens": length, "beams": num_beams, "batch": batch_size}
                found = {}
                for scoring in ("vocabulary", "catalogue"):
                    decoders.tree(warm_up, num_beams, batch_size, prefix, scoring)
                    found[scoring], seconds, outside = timed(
                        lambda: decoders.tree(encoded, num_beams, batch_size, prefix, scoring), timer
                    )
                    row |= {f"{scoring} users/s": len(encoded) / seconds, f"{scoring} outside": outside}
                for name, scoring in GENERATES.items():
                    if batch_size in args.generate_batch_sizes:
                        few = encoded[: min(batch_size, args.generate_users)]
                        if (name, len(few)) not in generated:
                            expected, seconds, _ = timed(
                                lambda: decoders.generate(few, num_beams, batch_size, name), timer
                            )
                            generated[name, len(few)] = expected, seconds
                        expected, seconds = generated[name, len(few)]
                        row[f"{name} users/s"] = len(few) / seconds
                        row[f"ratio to {name}"] = row[f"{scoring} users/s"] * seconds / len(few)
                        best = [(sids[:TOP_K], scores[:TOP_K]) for sids, scores in expected]
                        row[f"equal to {name}"] = (*compare(found[scoring], best), len(few))
                        every = decoders.tree(few, num_beams, batch_size, prefix, scoring, top_k=None)
                        row[f"all beams equal to {name}"] = (*compare(every, expected), len(few))
                rows.append(row)
                print(json.dumps(row), flush=True)
    return rows


def exactness(model: TSRecForCausalLM, tokenizer: TSRecTokenizer, histories: list, args: ScriptArguments) -> dict:
    """How often beams miss one of the true ten best SIDs, and what knowing for sure costs."""
    trie = tokenizer.sid_index.trie
    prompts = PromptBuilder(tokenizer)
    search = SIDSearch(model.backbone, trie, tokenizer.sid_token_ids, prefix_ids=torch.tensor(prompts.instruction_ids))
    missed, expanded = dict.fromkeys(args.beams, 0), []
    seconds = dict.fromkeys(["exact", *args.beams], 0.0)
    with torch.inference_mode():
        for history in tqdm(histories, desc="exact search"):
            input_ids = torch.tensor([prompts.history_ids(history)], device=model.device)
            mask = torch.ones_like(input_ids)
            start = now()
            best = search.exact(input_ids, mask, 10, 50)
            seconds["exact"] += now() - start
            expanded.append(int(best.num_expanded))
            for num_beams in args.beams:
                start = now()
                beams = search.beam(input_ids, mask, num_beams)
                seconds[num_beams] += now() - start
                missed[num_beams] += set(beams.leaves[0, :10].tolist()) != set(best.leaves[0].tolist())
    inner = trie.num_nodes - trie.num_leaves
    return {
        "users": len(histories),
        "missed": missed,
        "prefixes": inner,
        "expanded": {"mean": sum(expanded) / len(expanded), "most": max(expanded)},
        "seconds per user": {str(name): value / len(histories) for name, value in seconds.items()},
    }


def tables(rows: list[dict], exact: dict, settings: dict) -> str:
    """The results as markdown."""

    def cell(row: dict, name: str, form: str) -> str:
        return format(row[name], form) if name in row else "–"

    def same(row: dict, name: str) -> str:
        if f"equal to {name}" not in row:
            return "–"
        best, every = row[f"equal to {name}"], row[f"all beams equal to {name}"]
        ties = f" ({best[1]}; {every[1]} but for ties within {TIE})" if (best[0], every[0]) != (best[2],) * 2 else ""
        return f"{best[0]} of {best[2]}; {every[0]} of {every[2]}{ties}"

    lines = [
        "Settings: " + ", ".join(f"{name} {value}" for name, value in settings.items()) + ".",
        "",
        "Users a second, the ratio of ours to `generate`, identical lists (top 10; all beams) and the share of ours "
        "outside the model's forward passes.",
    ]
    for scoring, title in (
        ("vocabulary", "Scored over the vocabulary"),
        ("catalogue", "Scored over the catalogue, beside `generate` with `renormalize_logits=True`"),
    ):
        ways = [name for name, other in GENERATES.items() if other == scoring]
        header = [
            "prompts",
            "beams",
            "batch",
            *(f"`generate` + {'function' if n == 'renormalised' else n}" for n in ways),
        ]
        header += ["ours", *(f"ratio to {'function' if n == 'renormalised' else n}" for n in ways)]
        header += ["identical lists", "outside"]
        body = []
        for row in rows:
            line = [f"{row['prompts']}, {row['tokens']:.0f} tokens", str(row["beams"]), str(row["batch"])]
            line += [cell(row, f"{name} users/s", ".3f") for name in ways]
            line += [f"{row[f'{scoring} users/s']:.2f}", *(cell(row, f"ratio to {name}", ".1f") for name in ways)]
            body.append([*line, same(row, ways[0]), f"{row[f'{scoring} outside']:.1%}"])
        lines += ["", f"{title}:", ""]
        lines += [f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *body]]
    lines += [
        "",
        f"Exact search for {exact['users']} users: {exact['expanded']['mean']:.0f} of {exact['prefixes']} prefixes "
        f"expanded on average, {exact['expanded']['most']} at most; "
        f"{exact['seconds per user']['exact']:.2f} s a user, one at a time.",
        "",
        "| beams | users for whom they miss one of the true ten best | s a user, one at a time |",
        "| --- | --- | --- |",
        *(
            f"| {beams} | {missed} of {exact['users']} | {exact['seconds per user'][str(beams)]:.2f} |"
            for beams, missed in exact["missed"].items()
        ),
    ]
    return "\n".join(lines) + "\n"


def main(args: ScriptArguments) -> None:
    if args.data_dir is None:
        print("No data: set TSREC_DATA or pass --data_dir.")
        return
    if args.quick:
        args.beams, args.batch_sizes, args.generate_batch_sizes = [10], [1, 8], [1, 8]
        args.num_users, args.exact_users = 16, 8
    dataset = load_minionerec(args.data_dir)
    histories = dataset.test.shuffle(seed=args.seed)["history"][: max(args.num_users, args.exact_users)]
    tokenizer = TSRecTokenizer.from_pretrained(args.model_name_or_path)
    model = TSRecForCausalLM.from_pretrained(args.model_name_or_path, dtype=args.dtype).to(args.device)
    model.check_tokenizer(tokenizer)
    timer = ForwardTimer([model.backbone, model.base_model])
    settings = {
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else "CPU",
        "threads": torch.get_num_threads(),
        "dtype": args.dtype,
        "seed": args.seed,
        "torch": torch.__version__,
        "catalogue": repr(tokenizer.sid_index),
    }
    rows = speed(Decoders(model, tokenizer), timer, args, histories[: args.num_users])
    exact = exactness(model, tokenizer, histories[: args.exact_users], args)
    text = tables(rows, exact, settings)
    print(text)
    if args.output_file:
        path = Path(args.output_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.with_suffix(".json").write_text(
            json.dumps({"settings": settings, "speed": rows, "exactness": exact}, indent=1)
        )


if __name__ == "__main__":
    main(*HfArgumentParser(ScriptArguments).parse_args_into_dataclasses())
