"""
Command lines from dataclasses: help in groups, `--config`, errors with the remedy; without transformers or torch.

What is read is what `HfArgumentParser` reads: a flag may be given a value (`--balanced false`) or none, and a YAML
file sets what the command line does not.
"""

import argparse
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints


Options = TypeVar("Options")

WORDS = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
HELP_ALL = "help_all"
CONFIG_HELP = "YAML file of options by their names; what the command line says goes before it."


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Options on a line of their own, and defaults that are true: none where an option is required or has none."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = (action.help or "").rstrip()
        default = getattr(action, "shown_default", action.default)
        if action.required:
            return f"{text} Required.".strip()
        if default in (None, argparse.SUPPRESS, "", [], {}) or "default" in text.lower():
            return text
        if isinstance(default, (list, tuple)):
            default = " ".join(map(str, default))
        elif isinstance(default, bool):
            default = str(default).lower()
        return f"{text} (default: {str(default).replace('%', '%%')})"


class OptionParser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors fit one screen and name the help, not all options."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nAll options: {self.prog} --help\n")


def make_parser(
    prog: str, groups: Sequence[type], description: str = "", epilog: str = "", has_more: bool = False
) -> OptionParser:
    """
    A parser with the fields of dataclasses as options; each class of a dataclass' line is a group of the help.

    Args:
        prog (`str`):
            Name of the command.
        groups (`Sequence[type]`):
            Dataclasses, whose fields have their help as metadata, and perhaps `aliases`, as
            `HfArgumentParser` has them.
        description, epilog (`str`, *optional*):
            What stands above and below the options.
        has_more (`bool`, *optional*, defaults to `False`):
            Whether there are options that only `--help-all` shows.

    Example:

    ```python
    >>> from dataclasses import dataclass, field
    >>> from tsrec_hf.cli.parser import make_parser

    >>> @dataclass
    ... class Search:
    ...     '''How to search.'''
    ...
    ...     beams: int = field(default=50, metadata={"help": "Beams kept."})
    >>> print(make_parser("find", [Search]).format_help())
    usage: find [options]
    <BLANKLINE>
    How to search:
      --beams BEAMS  Beams kept. (default: 50)
    ...
    ```
    """
    parser = OptionParser(
        prog=prog,
        usage=f"{prog} [options]",
        description=description,
        epilog=epilog,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
        add_help=False,
        argument_default=argparse.SUPPRESS,
    )
    for options in groups:
        hints = get_type_hints(options)
        declared = _classes_by_field(options)
        for owner in dict.fromkeys(declared.values()):
            group = parser.add_argument_group(_title_of(owner))
            for one in fields(options):
                if declared[one.name] is owner and one.init:
                    _add_option(group, one, hints[one.name])
    others = parser.add_argument_group("Others")
    others.add_argument("--config", metavar="FILE", help=CONFIG_HELP)
    others.add_argument("-h", "--help", action="help", help="Show this.")
    if has_more:
        others.add_argument(
            "--help-all", f"--{HELP_ALL}", dest=HELP_ALL, action="store_true", help="Show TRL's options too."
        )
    return parser


def parse(parser: OptionParser, options: type[Options], argv: Sequence[str]) -> Options:
    """
    Options from a command line and the file of its `--config`.

    Args:
        parser ([`OptionParser`]):
            Of [`make_parser`].
        options (`type`):
            The dataclass to make.
        argv (`Sequence[str]`):
            Words of the command line.

    Raises:
        `SystemExit`: the command line cannot be read, or lacks what is required; all that it lacks is named.
        `ValueError`: an option has a value that the dataclass refuses.
    """
    given = vars(parser.parse_args(with_underscores(argv)))
    config = given.pop("config", None)
    if config is not None:
        known = {one.name for one in fields(options) if one.init}  # type: ignore[arg-type]
        settings = read_config(config)
        names = {_shown(one)[2:]: one.name for one in fields(options)}  # type: ignore[arg-type]
        settings = {names.get(name, name): value for name, value in settings.items()}
        unknown = sorted(set(settings) - known)
        if unknown:
            parser.error(f"Expected names of options in {config}, but found {unknown}. Correct them.")
        # As the command line would have them, so that types are checked in one place.
        words = [word for name, value in settings.items() for word in _as_words(name, value)]
        given = vars(parser.parse_args(words)) | given
    check_required(parser, [options], given)
    return options(**given)


def check_required(parser: OptionParser, groups: Sequence[type], given: Mapping[str, Any]) -> None:
    """Ends with an error that names every option that is required and absent."""
    missing = [one for options in groups for one in fields(options) if is_required(one) and one.name not in given]
    if missing:
        told = "\n".join(f"  {_shown(one)}: {one.metadata.get('help', '')}" for one in missing)
        parser.error(f"Expected these options, which are not there:\n{told}\n{parser.epilog or ''}".rstrip())


def _shown(one: Field) -> str:
    """The name of an option as messages call it."""
    return one.metadata.get("aliases", [f"--{one.name}"])[0]


def is_required(one: Field) -> bool:
    """Whether a field of a dataclass has no default."""
    return one.default is MISSING and one.default_factory is MISSING


def read_config(path: str) -> dict[str, Any]:
    """The settings of a YAML file."""
    import yaml

    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected a YAML file at {path} (`--config`), but there is none. Check the path.")
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} (`--config`) is no YAML file: {error}. Correct it.") from error
    if not isinstance(found, dict):
        raise ValueError(f"Expected lines `option: value` in {path} (`--config`), but found {found!r}. Correct it.")
    return {str(name): value for name, value in found.items()}


def with_underscores(argv: Sequence[str]) -> list[str]:
    """Words with options spelled as the fields are: `--data-dir` is `--data_dir`."""
    spelled = []
    for word in argv:
        name, sign, value = word.partition("=")
        spelled.append("--" + name[2:].replace("-", "_") + sign + value if name.startswith("--") else word)
    return spelled


def _as_words(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    return [f"--{name}", *(str(one) for one in values)]


def _classes_by_field(options: type) -> dict[str, type]:
    """The class that declares each field, those of the class itself first."""
    found: dict[str, type] = {}
    for owner in options.__mro__:
        for name in vars(owner).get("__annotations__", {}):
            found.setdefault(name, owner)
    return found


def _title_of(owner: type) -> str:
    return (owner.__doc__ or owner.__name__).strip().splitlines()[0].rstrip(".")


def _add_option(group: argparse._ArgumentGroup, one: Field, hint: Any) -> None:
    kinds = [hint]
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not types.NoneType]
    kind = str if str in kinds else kinds[0]
    settings: dict[str, Any] = {"help": one.metadata.get("help", "").replace("%", "%%")}
    names = [*one.metadata.get("aliases", []), f"--{one.name}"]
    if kind is bool:
        settings |= {"nargs": "?", "const": True, "type": _truth, "metavar": "true|false"}
    elif get_origin(kind) is list:
        settings |= {"nargs": "+", "type": get_args(kind)[0], "metavar": one.name.upper()}
    elif get_origin(kind) is Literal:
        settings |= {"choices": get_args(kind), "metavar": "|".join(get_args(kind))}
    else:
        settings |= {"type": kind, "metavar": one.metadata.get("metavar", one.name.upper())}
    action = group.add_argument(*names, dest=one.name, **settings)
    factory = one.default_factory
    # Not `default`: what was given has to be told from what was not.
    action.shown_default = factory() if factory is not MISSING else one.default  # type: ignore[attr-defined]
    if is_required(one):
        action.help = f"{action.help} Required.".strip()
        action.shown_default = None  # type: ignore[attr-defined]


def _truth(word: str) -> bool:
    try:
        return WORDS[word.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"expected true or false, but found {word!r}") from None
