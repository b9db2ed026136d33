"""
How fast, how equal and how exact is constrained decoding?

    python benchmarks/decoding.py --model_name_or_path outputs/sft --data_dir amazon/Industrial_and_Scientific

On the same prompts of the test split: `generate` with a `prefix_allowed_tokens_fn`, as others do; `generate` with a
vectorised logits processor; and the tree search of `recommend` for the ten best, scored over the vocabulary, equal to
`generate`, and over the catalogue, equal to `generate` with that function and `renormalize_logits=True`. Prompts are
ours, and the same after an instruction of some 80 tokens, as other systems have it. Then users who come alone, one
call of `recommend` each, with the weights in float32, in bfloat16 and in int8 (the linear layers under the head, by
torch's dynamic quantisation). All times are from one process; compare ratios, not machines.
"""

import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from common import (
    DataArguments,
    environment,
    markdown_table,
    now,
    run_script,
    settings_line,
    timed,
    write_report,
)
from generate_beams import INSTRUCTION, GenerateBeams
from small_models import load_semantics, save_untrained_recommender
from tqdm.auto import tqdm
from transformers import LogitsProcessor, LogitsProcessorList

from tsrec_hf import PromptBuilder, TSRecForCausalLM, TSRecTokenizer, load_minionerec
from tsrec_hf.models import SearchSession


TIE = 1e-4
TOP_K = 10
# Ways to `generate`, and the scoring with which our lists equal theirs.
GENERATES = {"function": "vocabulary", "processor": "vocabulary", "renormalised": "catalogue"}
TITLES = {
    "vocabulary": "Scored over the vocabulary",
    "catalogue": "Scored over the catalogue, beside `generate` with `renormalize_logits=True`",
}


@dataclass(kw_only=True)
class ScriptArguments(DataArguments):
    """What to measure."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a recommender; default: SmolLM2-135M, untrained."}
    )
    beams: list[int] = field(default_factory=lambda: [10, 20, 50], metadata={"help": "Numbers of beams."})
    batch_sizes: list[int] = field(default_factory=lambda: [1, 8, 32], metadata={"help": "Batch sizes of ours."})
    generate_batch_sizes: list[int] = field(
        default_factory=lambda: [1, 8, 32], metadata={"help": "Batch sizes at which `generate` is timed."}
    )
    generate_users: int = field(default=8, metadata={"help": "Test users that `generate` is timed on, at most."})
    num_users: int = field(default=64, metadata={"help": "Test users that ours is timed on."})
    single_users: int = field(default=64, metadata={"help": "Test users who come alone."})
    alone_only: bool = field(default=False, metadata={"help": "Time only the users who come alone."})
    exact_users: int = field(default=64, metadata={"help": "Test users that the exact search is run for."})
    seed: int = field(default=0, metadata={"help": "Seed of the draw of users."})
    dtype: str = field(default="float32", metadata={"help": "Type of the weights."})
    device: str = field(default="cpu", metadata={"help": "Where to run."})
    output_file: str | None = field(default=None, metadata={"help": "Markdown file for the tables; JSON beside it."})
    quick: bool = field(default=False, metadata={"help": "Few users, 10 beams, no instruction."})

    def __post_init__(self):
        if self.quick:
            self.beams, self.batch_sizes, self.generate_batch_sizes = [10], [1, 8], [1, 8]
            self.num_users, self.exact_users, self.single_users = 16, 2, 4


class CatalogueProcessor(LogitsProcessor):
    """Masks all tokens but those that continue a SID, by a walk through the trie for all beams at once."""

    def __init__(self, model: TSRecForCausalLM, tokenizer: TSRecTokenizer, prompt_length: int):
        self.trie, self.prompt_length = tokenizer.sid_index.trie_on(model.device), prompt_length
        self.token_ids = [torch.tensor(ids, device=model.device) for ids in tokenizer.sid_token_ids]
        vocabulary = model.get_output_embeddings().weight.shape[0]
        # Level and token -> code.
        self.codes = torch.full((len(self.token_ids), vocabulary), -1, device=model.device)
        for level, ids in enumerate(self.token_ids):
            self.codes[level, ids] = torch.arange(len(ids), device=model.device)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores with everything masked that is not a child of the row's prefix."""
        nodes = input_ids.new_zeros(len(input_ids))
        generated = input_ids[:, self.prompt_length :]
        for level in range(generated.shape[1]):
            children, codes, legal = self.trie.children(nodes, level)
            chosen = ((codes == self.codes[level, generated[:, level], None]) & legal).int().argmax(-1, keepdim=True)
            nodes = children.gather(-1, chosen).squeeze(-1)
        children, codes, legal = self.trie.children(nodes, generated.shape[1])
        masked = torch.full_like(scores, -torch.inf)
        tokens = self.token_ids[generated.shape[1]][codes]
        # Padding points at a row's first child, which is legal anyway.
        tokens = torch.where(legal, tokens, tokens[:, :1])
        return masked.scatter(1, tokens, scores.gather(1, tokens))


class ForwardTimer:
    """Sums up the time of a model's forward passes, nested ones once."""

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


class Decoders:
    """The ways to decode batches of prompts, each giving `(SIDs as token ids, scores)` a prompt."""

    def __init__(self, model: TSRecForCausalLM, tokenizer: TSRecTokenizer):
        self.model, self.tokenizer = model, tokenizer
        self.generate_beams = GenerateBeams(tokenizer)

    def generate(self, prompts: list[list[int]], num_beams: int, batch_size: int, way: str) -> list:
        """By the backbone's `generate`, in one of the ways of `GENERATES`."""
        results = []
        for start in range(0, len(prompts), batch_size):
            batch = prompts[start : start + batch_size]
            kwargs = {"renormalize_logits": way == "renormalised"}
            if way == "processor":
                processor = CatalogueProcessor(self.model, self.tokenizer, max(map(len, batch)))
                kwargs["logits_processor"] = LogitsProcessorList([processor])
            sids, scores = self.generate_beams(self.model.backbone, batch, num_beams, **kwargs)
            results += [(list(map(tuple, row)), row_scores) for row, row_scores in zip(sids.tolist(), scores.tolist())]
        return results

    def tree(
        self,
        prompts: list[list[int]],
        num_beams: int,
        batch_size: int,
        prefix: list[int],
        scoring: str = "vocabulary",
        top_k: int | None = TOP_K,
    ) -> list:
        """By the tree search, as `recommend` runs it: one forward pass for the prefix, similar lengths together."""
        session = SearchSession(self.model, self.tokenizer, scoring, prefix)
        order = sorted(range(len(prompts)), key=lambda user: len(prompts[user]), reverse=True)
        results = [None] * len(prompts)
        for start in range(0, len(order), batch_size):
            users = order[start : start + batch_size]
            inputs = session.pad([prompts[user][len(prefix) :] for user in users])
            beams = session.search.beam(*inputs, num_beams, top_k=top_k)
            sids = session.tokens_of(beams.leaves).tolist()
            for user, user_sids, scores in zip(users, sids, beams.scores.tolist()):
                results[user] = list(map(tuple, user_sids)), scores
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


class SpeedTest:
    """
    Times all ways to decode one kind of prompts with one number of beams, at several batch sizes.

    Args:
        decoders (`Decoders`): The ways to decode.
        timer (`ForwardTimer`): Times the model's forward passes.
        generate_users (`int`): Users that `generate` is timed on, at most.
        prompts (`list[list[int]]`): Token ids of the prompts.
        prefix (`list[int]`): What all prompts begin with.
        num_beams (`int`): Number of beams.
    """

    def __init__(self, decoders, timer, generate_users: int, prompts, prefix: list[int], num_beams: int):
        self.decoders, self.timer, self.generate_users = decoders, timer, generate_users
        self.prompts, self.prefix, self.num_beams = prompts, prefix, num_beams
        # What `generate` gave for the first users, and how long it took; batches above `generate_users` share it.
        self.generated: dict[tuple[str, int], tuple[list, float]] = {}

    def row(self, batch_size: int, with_generate: bool) -> dict:
        """Figures at one batch size."""
        row, found = {"batch": batch_size}, {}
        for scoring in TITLES:
            decode = self._tree(batch_size, scoring)
            decode(self.prompts[:batch_size])  # Warms up.
            self.timer.seconds = 0.0
            found[scoring], seconds = timed(lambda: decode(self.prompts))
            row[f"{scoring} users/s"] = len(self.prompts) / seconds
            row[f"{scoring} outside"] = 1 - self.timer.seconds / seconds
        few = self.prompts[: min(batch_size, self.generate_users)]
        for way, scoring in GENERATES.items() if with_generate else ():
            if (way, len(few)) not in self.generated:
                self.generated[way, len(few)] = timed(
                    lambda: self.decoders.generate(few, self.num_beams, batch_size, way)
                )
            expected, seconds = self.generated[way, len(few)]
            row[f"{way} users/s"] = len(few) / seconds
            row[f"ratio to {way}"] = row[f"{scoring} users/s"] * seconds / len(few)
            best = [(sids[:TOP_K], scores[:TOP_K]) for sids, scores in expected]
            row[f"equal to {way}"] = (*compare(found[scoring], best), len(few))
            every = self._tree(batch_size, scoring, top_k=None)(few)
            row[f"all beams equal to {way}"] = (*compare(every, expected), len(few))
        return row

    def _tree(self, batch_size: int, scoring: str, top_k: int | None = TOP_K) -> Callable[[list], list]:
        return lambda prompts: self.decoders.tree(prompts, self.num_beams, batch_size, self.prefix, scoring, top_k)


def speed(decoders: Decoders, timer: ForwardTimer, args: ScriptArguments, histories: list) -> list[dict]:
    """A row per kind of prompt, number of beams and batch size."""
    tokenizer = decoders.tokenizer
    builder = PromptBuilder(tokenizer)
    kinds = {"ours": []}
    if not args.quick:
        kinds["with an instruction"] = tokenizer(INSTRUCTION, add_special_tokens=False).input_ids
    rows = []
    for kind, extra in kinds.items():
        prompts = [[*extra, *builder.sequence_prompt_ids(history)] for history in histories]
        length = sum(map(len, prompts)) / len(prompts)
        for num_beams in args.beams:
            prefix = [*extra, *builder.instruction_ids]
            test = SpeedTest(decoders, timer, args.generate_users, prompts, prefix, num_beams)
            for batch_size in tqdm(args.batch_sizes, desc=f"prompts {kind}, {num_beams} beams"):
                row = {"prompts": kind, "tokens": length, "beams": num_beams}
                rows.append(row | test.row(batch_size, batch_size in args.generate_batch_sizes))
                print(json.dumps(rows[-1]), flush=True)
    return rows


def exactness(model: TSRecForCausalLM, tokenizer: TSRecTokenizer, histories: list, beam_counts: Sequence[int]) -> dict:
    """How often beams miss one of the true ten best SIDs, and what an exact search costs."""
    session = SearchSession(model, tokenizer)
    missed, expanded = dict.fromkeys(beam_counts, 0), []
    seconds: dict[str, float] = dict.fromkeys(["exact", *map(str, beam_counts)], 0.0)
    for history in tqdm(histories, desc="exact search"):
        inputs = session.pad([session.prompts.history_ids(history)])
        best, elapsed = timed(lambda: session.search.exact(*inputs, TOP_K, 50))
        seconds["exact"] += elapsed
        expanded.append(int(best.num_expanded))
        for num_beams in beam_counts:
            beams, elapsed = timed(lambda: session.search.beam(*inputs, num_beams))
            seconds[str(num_beams)] += elapsed
            missed[num_beams] += set(beams.leaves[0, :TOP_K].tolist()) != set(best.leaves[0].tolist())
    return {
        "users": len(histories),
        "missed": missed,
        "prefixes": session.trie.num_nodes - session.trie.num_leaves,
        "expanded": {"mean": sum(expanded) / len(expanded), "most": max(expanded)},
        "seconds per user": {name: value / len(histories) for name, value in seconds.items()},
    }


def alone(source: str, tokenizer: TSRecTokenizer, histories: list, generate_users: int) -> list[dict]:
    """
    Users who come one at a time, 50 beams for the ten best, on a CPU: seconds a user by the type of the weights, and
    how many lists equal those of float32.
    """
    rows, expected = [], []
    for name in ("float32", "bfloat16", "int8"):
        model = TSRecForCausalLM.from_pretrained(source, dtype=torch.float32 if name == "int8" else name)
        if name == "int8":
            with warnings.catch_warnings():  # torch advises torchao, an installation more
                warnings.simplefilter("ignore")
                torch.ao.quantization.quantize_dynamic(
                    model.base_model, {torch.nn.Linear}, dtype=torch.qint8, inplace=True
                )

        def ask(history: list[str]) -> list[str]:
            [items] = model.recommend(tokenizer, [history], top_k=TOP_K, num_beams=50, prior=None)
            return [item.item_id for item in items]

        ask(histories[0])  # warms up
        lists, seconds = timed(lambda: [ask(history) for history in tqdm(histories, desc=f"alone, {name}")])
        expected = expected or lists
        row = {"weights": name, "seconds a user": seconds / len(histories), "users": len(histories)}
        row["equal lists"] = sum(map(list.__eq__, lists, expected))
        row["equal sets"] = sum(set(found) == set(other) for found, other in zip(lists, expected))
        row["shared items"] = sum(len(set(found) & set(other)) for found, other in zip(lists, expected)) / TOP_K
        if name == "float32":
            prompts = [PromptBuilder(tokenizer).sequence_prompt_ids(history) for history in histories[:generate_users]]
            _, seconds = timed(lambda: Decoders(model, tokenizer).generate(prompts, 50, 1, "function"))
            row["seconds of generate"] = seconds / len(prompts)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def speed_table(rows: list[dict], scoring: str) -> str:
    """Ours with one scoring, beside the ways to `generate` that it equals."""
    ways = [way for way, other in GENERATES.items() if other == scoring]
    names = ["function" if way == "renormalised" else way for way in ways]

    def cell(row: dict, name: str, form: str) -> str:
        return format(row[name], form) if name in row else "–"

    def same(row: dict, way: str) -> str:
        if f"equal to {way}" not in row:
            return "–"
        best, every = row[f"equal to {way}"], row[f"all beams equal to {way}"]
        ties = f" ({best[1]}; {every[1]} but for ties within {TIE})" if (best[0], every[0]) != (best[2],) * 2 else ""
        return f"{best[0]} of {best[2]}; {every[0]} of {every[2]}{ties}"

    header = ["prompts", "beams", "batch", *(f"`generate` + {name}" for name in names)]
    header += ["ours", *(f"ratio to {name}" for name in names), "identical lists", "outside"]
    body = [
        [
            f"{row['prompts']}, {row['tokens']:.0f} tokens",
            row["beams"],
            row["batch"],
            *(cell(row, f"{way} users/s", ".3f") for way in ways),
            f"{row[f'{scoring} users/s']:.2f}",
            *(cell(row, f"ratio to {way}", ".1f") for way in ways),
            same(row, ways[0]),
            f"{row[f'{scoring} outside']:.1%}",
        ]
        for row in rows
    ]
    return markdown_table(header, body)


def alone_table(rows: list[dict]) -> str:
    """Users who come alone."""
    header = ["weights", "s a user", "`generate` + function", "lists equal to float32's", "as sets", "items shared"]
    body = [
        [
            row["weights"],
            f"{row['seconds a user']:.3f}",
            f"{row['seconds of generate']:.3f}" if "seconds of generate" in row else "–",
            f"{row['equal lists']} of {row['users']}",
            f"{row['equal sets']} of {row['users']}",
            f"{row['shared items'] / row['users']:.1%}",
        ]
        for row in rows
    ]
    return markdown_table(header, body)


def report(rows: list[dict], exact: dict, singles: list[dict], settings: dict) -> str:
    """The results as Markdown."""
    parts = [settings_line(settings)]
    if rows:
        parts += batch_tables(rows, exact)
    if singles:
        parts += ["Users who come alone, 50 beams, one call of `recommend` each:", alone_table(singles)]
    return "\n\n".join(parts) + "\n"


def batch_tables(rows: list[dict], exact: dict) -> list[str]:
    """Users in batches, and the exact search."""
    seconds = exact["seconds per user"]
    parts = [
        "Users a second, the ratio of ours to `generate`, identical lists (top 10; all beams) and the share of ours "
        "outside the model's forward passes.",
    ]
    for scoring, title in TITLES.items():
        parts += [f"{title}:", speed_table(rows, scoring)]
    parts += [
        f"Exact search for {exact['users']} users: {exact['expanded']['mean']:.0f} of {exact['prefixes']} prefixes "
        f"expanded on average, {exact['expanded']['most']} at most; {seconds['exact']:.2f} s a user, one at a time.",
        markdown_table(
            ["beams", "users for whom they miss one of the true ten best", "s a user, one at a time"],
            [
                [beams, f"{missed} of {exact['users']}", f"{seconds[str(beams)]:.2f}"]
                for beams, missed in exact["missed"].items()
            ],
        ),
    ]
    return parts


def main(args: ScriptArguments) -> None:
    dataset = load_minionerec(args.data_dir)
    histories = dataset.test.shuffle(seed=args.seed)["history"][
        : max(args.num_users, args.exact_users, args.single_users)
    ]
    with tempfile.TemporaryDirectory() as folder:
        source = args.model_name_or_path
        if source is None:
            source = save_untrained_recommender(Path(folder), dataset, load_semantics(args.data_dir))
        tokenizer = TSRecTokenizer.from_pretrained(source)
        singles = []
        if args.device == "cpu":
            singles = alone(source, tokenizer, histories[: args.single_users], args.generate_users)
        model = TSRecForCausalLM.from_pretrained(source, dtype=args.dtype).to(args.device)
    timer = ForwardTimer([model.backbone, model.base_model])
    settings = environment(args.device) | {
        "model": "SmolLM2-135M with SA-Init, untrained" if args.model_name_or_path is None else "given checkpoint",
        "dtype": args.dtype,
        "seed": args.seed,
        "catalogue": repr(tokenizer.sid_index),
    }
    rows, exact = [], {}
    if not args.alone_only:
        rows = speed(Decoders(model, tokenizer), timer, args, histories[: args.num_users])
        exact = exactness(model, tokenizer, histories[: args.exact_users], args.beams)
    text = report(rows, exact, singles, settings)
    print(text)
    if args.output_file:
        write_report(
            args.output_file, text, {"settings": settings, "speed": rows, "exactness": exact, "alone": singles}
        )


if __name__ == "__main__":
    run_script(main, ScriptArguments)
