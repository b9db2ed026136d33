"""
What dynamic batching brings an HTTP server, and whether it ever answers wrongly.

    python benchmarks/serving.py --model_name_or_path outputs/sft --data_dir amazon/Industrial_and_Scientific

Starts `examples/serve/app.py` on the loopback and lets clients ask it for rows of the test split, each in a connection
of its own, with different options: one client alone, and all of them at once, in turns within one run. Every answer is
compared with what `recommend` finds for that request alone. Server, clients and whatever else runs share the cores:
compare ratios, not machines.
"""

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from common import DataArguments, draw_rows, environment, markdown_table, run_script, settings_line, write_report
from small_models import load_semantics, save_backbone

from tsrec_hf import TSRecForCausalLM, TSRecTokenizer, load_minionerec


APP = Path(__file__).parents[1] / "examples" / "serve" / "app.py"


@dataclass(kw_only=True)
class ScriptArguments(DataArguments):
    """What to measure."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder of a recommender; default: layers of SmolLM2, untrained."}
    )
    num_layers: int = field(default=4, metadata={"help": "Layers of that model."})
    num_clients: int = field(default=200, metadata={"help": "Clients that ask at once."})
    requests_each: int = field(default=3, metadata={"help": "Requests of each, one after the other."})
    single_requests: int = field(default=40, metadata={"help": "Requests of one client alone."})
    max_batch_size: int = field(default=32, metadata={"help": "Most users that the server searches together."})
    output: str = field(default="benchmarks/results/serving/cpu.md", metadata={"help": "Report to write."})
    quick: bool = field(default=False, metadata={"help": "A few clients: does the script run?"})

    def __post_init__(self):
        if self.quick:
            self.num_layers, self.num_clients, self.requests_each, self.single_requests = 2, 8, 1, 4
            self.output = str(Path(tempfile.mkdtemp()) / "cpu.md")


def main(args: ScriptArguments) -> None:
    if find_spec("fastapi") is None:
        print('Skipped: `pip install ".[serve]"`.')
        return
    dataset = load_minionerec(args.data_dir)
    folder = args.model_name_or_path or save_untrained(args, dataset)
    number = args.num_clients * args.requests_each
    drawn = draw_rows(dataset.test, min(number, len(dataset.test)))["history"]
    requests = [request_of(drawn[place % len(drawn)], place) for place in range(number)]
    model, tokenizer = TSRecForCausalLM.from_pretrained(folder), TSRecTokenizer.from_pretrained(folder)
    expected = [model.recommend(tokenizer, [request["inputs"]], **request["parameters"])[0] for request in requests]
    del model
    rows = []
    with Server(folder, args.max_batch_size) as port:
        asyncio.run(ask_all(port, requests[:8], 1))  # warms up
        half = args.single_requests // 2
        turns = [
            ("one request at a time", requests[:half], 1),
            (f"{args.num_clients} clients at once", requests, args.num_clients),
            ("one request at a time", requests[half : 2 * half], 1),
        ]
        measured: dict[str, list[Any]] = {}
        for name, asked, clients in turns:
            started = time.perf_counter()
            answers = asyncio.run(ask_all(port, asked, clients))
            seconds = time.perf_counter() - started
            first = requests.index(asked[0])
            faults = count_faults(answers, expected[first : first + len(asked)])
            measured.setdefault(name, []).append((seconds, [took for took, _, _ in answers], faults))
    for name, parts in measured.items():
        seconds, times = sum(part[0] for part in parts), np.concatenate([part[1] for part in parts])
        lost, wrong = np.sum([part[2] for part in parts], axis=0).tolist()
        p50, p99 = np.percentile(times, [50, 99])
        rows.append([name, len(times), lost, wrong, f"{len(times) / seconds:.2f}", f"{p50:.2f}", f"{p99:.2f}"])
    ratio = float(rows[1][4]) / float(rows[0][4])
    header = ["clients", "requests", "lost", "wrong", "requests a second", "p50 (s)", "p99 (s)"]
    lines = ["# An HTTP server with dynamic batching", "", settings_line({**vars(args), **environment()}), ""]
    lines += [markdown_table(header, rows), "", f"Throughput of many clients against one: {ratio:.1f} times."]
    write_report(args.output, "\n".join(lines) + "\n", {"rows": rows, "ratio": ratio})
    print("\n".join(lines))


def save_untrained(args: ScriptArguments, dataset) -> str:
    """Layers of SmolLM2 with SA-Init, as a checkpoint."""
    folder = Path(tempfile.mkdtemp())
    backbone = save_backbone(folder / "backbone", args.num_layers)
    tokenizer = TSRecTokenizer.from_backbone(backbone, dataset.sid_index)
    semantics = load_semantics(args.data_dir)
    TSRecForCausalLM.from_backbone(backbone, tokenizer, semantics).save_pretrained(folder / "checkpoint")
    tokenizer.save_pretrained(folder / "checkpoint")
    return str(folder / "checkpoint")


def request_of(history: Sequence[str], number: int) -> dict[str, Any]:
    """A request of one of four kinds."""
    kinds: list[dict[str, Any]] = [
        {"top_k": 10},
        {"top_k": 10, "exclude_history": True},
        {"top_k": 5, "exclude_items": list(history[:2])},
        {"top_k": 10, "prior": {history[-1]: 4.0}},
    ]
    # Most requests of a shop are alike.
    kind = kinds[number % 4] if number % 3 == 0 else kinds[1]
    return {"inputs": list(history), "parameters": kind}


class Server:
    """`examples/serve/app.py` in a process of its own, on a port that is free."""

    def __init__(self, folder: str, max_batch_size: int):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = ["--port", str(self.port), "--max_batch_size", str(max_batch_size)]
        self.process = subprocess.Popen([sys.executable, str(APP), "--model_name_or_path", folder, *options])

    def __enter__(self) -> int:
        while self.process.poll() is None:
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self.port
            time.sleep(0.1)
        raise RuntimeError("The server ended before it was ready.")

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait()


async def ask_all(port: int, requests: Sequence[dict], num_clients: int) -> list[tuple[float, int, Any]]:
    """Seconds, status and answer of every request; a client sends its next one when it has an answer."""
    answers: list[Any] = [None] * len(requests)

    async def client(first: int) -> None:
        for place in range(first, len(requests), num_clients):
            started = time.perf_counter()
            status, answer = await ask(port, requests[place])
            answers[place] = time.perf_counter() - started, status, answer

    await asyncio.gather(*map(client, range(min(num_clients, len(requests)))))
    return answers


async def ask(port: int, request: dict) -> tuple[int, Any]:
    """Status and body of a request's answer; status 0 where the connection broke."""
    body = json.dumps(request).encode()
    head = f"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + body)
        answer = await reader.read()
        writer.close()
        head, _, text = answer.decode().partition("\r\n\r\n")
        return int(head.split()[1]), json.loads(text)
    except (OSError, ValueError, IndexError):
        return 0, None


def count_faults(answers: Sequence[tuple[float, int, Any]], expected: Sequence[Sequence[Any]]) -> tuple[int, int]:
    """Requests without an answer, and answers of other items, another order or other scores than `recommend`'s."""
    lost = sum(status != 200 for _, status, _ in answers)
    wrong = 0
    for (_, status, answer), items in zip(answers, expected):
        if status == 200:
            same = [one["item_id"] for one in answer] == [item.item_id for item in items]
            scores = np.array([one["score"] for one in answer]) if same else np.empty(0)
            wrong += not same or not np.allclose(scores, [item.score for item in items], atol=1e-3)
    return lost, wrong


if __name__ == "__main__":
    run_script(main, ScriptArguments)
