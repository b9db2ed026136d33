"""The sub-commands of `tsrec`: what each is for, which options it has, and which recipe runs it."""

import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import tsrec_hf
from tsrec_hf.recipes import options as known_options
from tsrec_hf.recipes.screen import quiet, set_up_logging

from .parser import (
    CONFIG_HELP,
    HELP_ALL,
    HelpFormatter,
    check_required,
    make_parser,
    parse,
    read_config,
    with_underscores,
)
from .paths import check_paths


# What ends a command with a message instead of a traceback: files, values and packages that are not as expected.
TOLD = (ValueError, TypeError, OSError, ImportError, KeyError)
TRACEBACK = "--traceback"


@dataclass(frozen=True)
class Command:
    """
    A sub-command.

    Args:
        title (`str`):
            What it does, on one line.
        recipe (`str`):
            Module of `tsrec_hf.recipes` whose `main` takes the options.
        options (`type`):
            Dataclass of the options.
        example (`str`):
            Words after `tsrec NAME` that show it.
        trainer (`str`, *optional*):
            Name of the configuration of `tsrec_hf.trainers` whose options it takes besides, with TRL's `ModelConfig`.
        about (`str`, *optional*):
            What else is to be known.
    """

    title: str
    recipe: str
    options: type
    example: str
    trainer: str | None = None
    about: str = ""


COMMANDS = {
    "train": Command(
        "From two tables to a recommender: read, clean, split, code, describe, train, fit the prior, evaluate.",
        "from_tables",
        known_options.TrainOptions,
        "--items items.csv --interactions log.csv --output_dir outputs/shop",
        about="Items have the columns item_id, title and perhaps description; interactions user_id, item_id and "
        "timestamp.\nA second call with the same --output_dir goes on where the first one ended, and does again what "
        "has other inputs.",
    ),
    "data": Command(
        "Data by name: two tables to start with, and where others come from.",
        "data",
        known_options.DataOptions,
        "--name ml-100k --output_dir data/ml-100k",
        about="Also: tsrec data ml-100k, tsrec data --list.",
    ),
    "demo": Command(
        "Train a recommender of movies within ten minutes, and test it beside counts.",
        "demo",
        known_options.DemoOptions,
        "--total_seconds 560",
    ),
    "build": Command(
        "Give the items of a catalogue semantic IDs: from raw data to a folder that the other commands read.",
        "build",
        known_options.BuildOptions,
        "--items items.csv --interactions log.csv --output_dir data/shop",
    ),
    "describe": Command(
        "Describe the tokens of the semantic IDs, by keywords or by a language model.",
        "describe",
        known_options.DescribeOptions,
        "--data_dir data/shop",
    ),
    "sft": Command(
        "Fine-tune a language model or a recommender on a prepared folder.",
        "fine_tune",
        known_options.FineTuneOptions,
        "--data_dir data/shop --model_name_or_path HuggingFaceTB/SmolLM2-135M --output_dir outputs/sft",
        trainer="TSRecSFTConfig",
    ),
    "align": Command(
        "Fine-tune on all tasks of TS-Align, after a stage that trains the tokens of the semantic IDs alone.",
        "fine_tune",
        known_options.AlignOptions,
        "--data_dir data/shop --model_name_or_path HuggingFaceTB/SmolLM2-135M --output_dir outputs/align",
        trainer="TSRecSFTConfig",
    ),
    "tune": Command(
        "Reinforcement learning (GRPO) of a fine-tuned recommender.",
        "tune",
        known_options.TuneOptions,
        "--data_dir data/shop --model_name_or_path outputs/sft --output_dir outputs/grpo",
        trainer="TSRecGRPOConfig",
    ),
    "prior": Command(
        "Combine a recommender with counts: choose item priors on validation rows.",
        "choose_prior",
        known_options.PriorOptions,
        "--model_name_or_path outputs/sft --data_dir data/shop",
    ),
    "evaluate": Command(
        "Evaluate a recommender on a split, beside popularity and next-item counts.",
        "evaluate",
        known_options.EvaluateOptions,
        "--model_name_or_path outputs/sft --data_dir data/shop",
    ),
    "recommend": Command(
        "Recommend items for a history.",
        "recommend",
        known_options.RecommendOptions,
        "--model_name_or_path outputs/shop --history 117 118",
    ),
    "serve": Command(
        "Answer requests over HTTP.",
        "serve",
        known_options.ServeOptions,
        "--model_name_or_path outputs/shop --port 8000",
    ),
    "export": Command(
        "Write a plain checkpoint for vLLM, llama.cpp and others, with the semantic IDs that exist.",
        "export",
        known_options.ExportOptions,
        "--model_name_or_path outputs/shop --output_dir outputs/plain",
    ),
    "push": Command(
        "Send a recommender to the Hub: weights, tokenizer, index, descriptions and card.",
        "push",
        known_options.PushOptions,
        "--model_name_or_path outputs/shop --repo_id me/tsrec-shop",
    ),
}
GROUPS = {
    "Start here": ("train", "data", "demo"),
    "Stages": ("build", "describe", "sft", "align", "tune", "prior", "evaluate"),
    "Use": ("recommend", "serve", "export", "push"),
}


def overview() -> str:
    """The help of `tsrec`."""
    lines = ["usage: tsrec COMMAND [options]", "", "Recommenders that write the semantic ID of the next item."]
    for group, names in GROUPS.items():
        lines += ["", f"{group}:", *(f"  {name:10} {COMMANDS[name].title}" for name in names)]
    lines += ["", f"Example: tsrec train {COMMANDS['train'].example}", "Options of a command: tsrec COMMAND --help"]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """
    The command `tsrec`.

    Args:
        argv (`Sequence[str]`, *optional*):
            Words behind `tsrec`; those of the process by default.

    Returns:
        `int`: 0, or 2 where something was not as expected, which standard error then tells without a traceback.

    Example:

    ```python
    >>> from tsrec_hf.cli import main

    >>> main(["--version"])
    tsrec_hf 0.1.0
    0
    ```
    """
    words = list(sys.argv[1:] if argv is None else argv)
    wants_traceback = TRACEBACK in words
    words = [word for word in words if word != TRACEBACK]
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(f"tsrec_hf {tsrec_hf.__version__}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        print(f"tsrec: Expected a command of {list(COMMANDS)}, but found {name!r}.{meant}", file=sys.stderr)
        return 2
    try:
        run_command(name, words[1:], prog=f"tsrec {name}")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 2
    except KeyboardInterrupt:
        print(f"tsrec {name}: interrupted", file=sys.stderr)
        return 130
    except TOLD as error:
        if wants_traceback:
            raise
        # `str` of a `KeyError` is the message in quotes.
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"tsrec {name}: {message}", file=sys.stderr)
        return 2
    return 0


def run_command(name: str, argv: Sequence[str] | None = None, prog: str | None = None) -> Any:
    """
    Runs a command; what is wrong is raised.

    Args:
        name (`str`):
            Name of the command.
        argv (`Sequence[str]`, *optional*):
            Its words; those of the process by default, as for a script.
        prog (`str`, *optional*):
            What the help calls it; the script's name by default.
    """
    command, words = COMMANDS[name], list(sys.argv[1:] if argv is None else argv)
    prog = prog or sys.argv[0]
    if name == "data" and words and not words[0].startswith("-"):
        words.insert(0, "--name")
    example = f"Example: {prog} {command.example}"
    description = "\n\n".join(filter(None, (command.title, command.about)))
    if command.trainer is not None:
        parsed = _parse_with_trainer(command, words, prog, description, example)
    else:
        parser = make_parser(prog, [command.options], description, example)
        parsed = (parse(parser, command.options, words),)
    check_paths(parsed)
    set_up_logging()
    with quiet():
        recipe: Callable[..., Any] = import_module(f"tsrec_hf.recipes.{command.recipe}").main
        return recipe(*parsed)


def _parse_with_trainer(
    command: Command, words: list[str], prog: str, description: str, example: str
) -> tuple[Any, ...]:
    """Options of ours, of the trainer and of the model; TRL is imported only for a line that lacks nothing."""
    words = with_underscores(words)
    usual = known_options.UsualTrainerOptions
    parser = make_parser(prog, [command.options, usual], description, example, has_more=True)
    if f"--{HELP_ALL}" not in words:
        known, _ = parser.parse_known_args(words)  # ends here for --help
        given = vars(known)
        if "config" in given:
            given = read_config(given["config"]) | given
        check_required(parser, [command.options, usual], given)
        check_paths([_Given(given)])

    from trl import ModelConfig, TrlParser

    config: type = getattr(import_module("tsrec_hf.trainers"), command.trainer or "")
    full = TrlParser(
        (command.options, config, ModelConfig),  # type: ignore[arg-type]
        prog=prog,
        usage=f"{prog} [options]",
        description=description,
        epilog=example,
        formatter_class=HelpFormatter,
    )
    if f"--{HELP_ALL}" in words:
        full.add_argument("--config", metavar="FILE", help=CONFIG_HELP)
        full.parse_args(["--help"])
    return tuple(full.parse_args_and_config(words))


class _Given:
    """What was typed, as attributes."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.__dict__.update(given)
