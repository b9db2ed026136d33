"""
Reads our docstrings, which are in TRL's form, as mkdocstrings reads Google's: references become links to this site,
and types of arguments lose their backticks.
"""

import re

import griffe

import tsrec_hf


_REFERENCE = re.compile(r"\[`~?(?P<path>[\w.]+)`\](?![\[(])")
# `> Parameters that control beams`, between the arguments of a configuration.
_GROUP = re.compile(r"^ *> .*\n\n?", re.MULTILINE)
_ARGUMENT = re.compile(r"^(?P<name> +\*{0,2}\w+) \((?P<type>.*)\):$", re.MULTILINE)
_RAISED = re.compile(r"(?<=^Raises:\n)(?P<text>(?: +.*\n?|\n(?= ))+)", re.MULTILINE)


def path_of(name: str) -> str:
    """Where griffe, which reads without running, finds a public name: in its room."""
    return f"tsrec_hf.{tsrec_hf._ROOM_OF_NAME[name]}.{name}"


def link(reference: re.Match) -> str:
    """A link to the public name at the start of the reference, or, for others' names, the words without brackets."""
    path = reference["path"]
    name = path.partition(".")[0]
    return f"[`{path}`][{path_of(name)}]" if name in tsrec_hf.__all__ else f"`{path}`"


def plain_type(argument: re.Match) -> str:
    # The signature says what is optional, and the default.
    words = argument["type"].partition(", *optional*")[0].replace("`", "")
    return f"{argument['name']} ({words}):"


def as_google(docstring: str) -> str:
    """The docstring with the types of its arguments and its references as Google's form and Markdown have them."""
    docstring = _ARGUMENT.sub(plain_type, _GROUP.sub("", docstring))
    # Errors stand in one paragraph, not one a line.
    docstring = _RAISED.sub(lambda found: "\n" + re.sub(r"(?m)^    ", "", found["text"]), docstring)
    return _REFERENCE.sub(link, docstring.replace("Raises:\n\n", "**Raises:**\n\n"))


class TRLDocstrings(griffe.Extension):
    """Converts every docstring of the package before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_google(obj.docstring.value)
