"""The scripts' headers for `uv run` and `hf jobs uv run` (PEP 723): what `setup.cfg` asks for, and nothing else."""

import configparser
import re
import tomllib
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
# Extras of the package that each script leans on.
EXTRAS = {
    "build_sids.py": ("sids", "plots"),
    "describe_tokens.py": ("keywords",),
    "sft.py": ("plots",),
    "grpo.py": ("plots",),
    "fit_prior.py": (),
    "evaluate.py": (),
    "recommend.py": (),
}


def setup_options() -> configparser.ConfigParser:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return setup


def requirements(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def expected_header(script: str) -> str:
    setup = setup_options()
    needed = requirements(setup["options"]["install_requires"])
    for extra in EXTRAS[script]:
        needed += requirements(setup["options.extras_require"][extra])
    lines = [
        "/// script",
        f'requires-python = "{setup["options"]["python_requires"]}"',
        "dependencies = [",
        *(f'    "{one}",' for one in needed),
        "]",
        "///",
    ]
    return "".join(f"# {line}\n" for line in lines)


@pytest.mark.parametrize("script", EXTRAS)
def test_a_header_is_what_the_package_needs(script) -> None:
    text = (ROOT / "examples" / script).read_text(encoding="utf-8")
    # The regular expression of PEP 723.
    blocks = re.findall(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$", text)
    assert [kind for kind, *_ in blocks] == ["script"]
    header = tomllib.loads("".join(line[2:] for line in blocks[0][1].splitlines(keepends=True)))
    setup = setup_options()
    assert header.keys() == {"requires-python", "dependencies"}
    assert header["requires-python"] == setup["options"]["python_requires"]
    assert set(requirements(setup["options"]["install_requires"])) <= set(header["dependencies"])
    assert text.startswith(expected_header(script)), f"Begin {script} with:\n{expected_header(script)}"


def test_every_command_script_has_one() -> None:
    commands = {path.name for path in (ROOT / "examples").glob("*.py") if "run_command(" in path.read_text()}
    # The demo reads wheels that a job does not have.
    assert commands - {"demo.py"} == set(EXTRAS)
