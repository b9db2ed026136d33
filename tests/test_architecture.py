"""The arrows between rooms, the Hub island, and what reading a tokenizer may import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tsrec_hf


PACKAGE = Path(__file__).parents[1] / "tsrec_hf"

# Room -> the rooms it may import:
# cli -> recipes -> {trainers, serving} -> {evaluation, rewards, hub} -> data -> semantics -> sids -> {items, models}.
GROUND = {"items", "models"}
ARROWS = {
    "models": set(),
    "items": {"models"},
    "sids": GROUND,
    "semantics": GROUND | {"sids"},
    "data": GROUND | {"sids", "semantics"},
    "evaluation": GROUND | {"sids", "semantics", "data"},
    "rewards": GROUND | {"sids", "semantics", "data"},
    "hub": GROUND | {"sids", "semantics", "data"},
    "trainers": GROUND | {"sids", "semantics", "data", "evaluation", "rewards", "hub"},
    "serving": GROUND | {"sids", "semantics", "data", "evaluation", "rewards", "hub"},
    "recipes": GROUND | {"sids", "semantics", "data", "evaluation", "rewards", "hub", "trainers", "serving"},
    "cli": GROUND | {"recipes"},
}
ROOM_FILES = sorted(path for path in PACKAGE.glob("*/**/*.py"))
HUB_FILES = sorted(path for path in (PACKAGE / "models").glob("*.py") if path.name != "__init__.py")


def relative_id(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imported_modules(source: str, package: str) -> set[str]:
    """Absolute dotted names imported anywhere in `source`, a module of `package`; inside functions as well."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            anchor = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join(anchor + ([node.module] if node.module else []))
            names.add(module)
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def imported_rooms(source: str, package: str) -> set[str]:
    """Rooms of tsrec_hf that `source` imports, its own among them; `""` stands for a name of tsrec_hf itself."""
    ours = [name.split(".") for name in imported_modules(source, package)]
    return {parts[1] if parts[1] in ARROWS else "" for parts in ours if parts[0] == "tsrec_hf" and len(parts) > 1}


@pytest.mark.parametrize(
    ("source", "rooms"),
    [
        ("from ..models import SIDIndex", {"models"}),
        ("from .codes import assign", {"sids"}),
        ("from .. import trainers", {"trainers"}),
        ("import tsrec_hf.hub.card", {"hub"}),
        ("def late():\n    from tsrec_hf.data.tasks import rows", {"data"}),
        ("from tsrec_hf import SIDIndex", {""}),
        ("import numpy\nfrom torch import nn", set()),
    ],
)
def test_imported_rooms_sees_every_form(source: str, rooms: set[str]) -> None:
    assert imported_rooms(source, package="tsrec_hf.sids") == rooms


def test_every_folder_is_a_known_room() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} <= set(ARROWS)


@pytest.mark.parametrize("path", ROOM_FILES, ids=relative_id)
def test_arrows_go_one_way(path: Path) -> None:
    parts = path.relative_to(PACKAGE.parent).parent.parts
    room = parts[1]
    forbidden = imported_rooms(path.read_text(encoding="utf-8"), ".".join(parts)) - ARROWS[room] - {room}
    assert not forbidden, f"`{room}` may import {sorted(ARROWS[room])}, not {sorted(forbidden)}"


@pytest.mark.parametrize("path", HUB_FILES, ids=lambda path: path.name)
def test_hub_file_imports_only_siblings(path: Path) -> None:
    siblings = {other.stem for other in HUB_FILES}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level < 2 and not (node.module or "").startswith("tsrec_hf")
            if node.level == 1:
                assert node.module in siblings, f"{node.module} would not be copied to the Hub with {path.name}"
        elif isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == "tsrec_hf" for alias in node.names)


def test_the_island_is_there() -> None:
    assert {path.stem for path in HUB_FILES} >= {
        "configuration_tsrec",
        "search_tsrec",
        "modeling_tsrec",
        "tokenization_tsrec",
    }


@pytest.mark.parametrize("room", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_room_lists_its_names(room: str) -> None:
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
    listed = [
        [ast.literal_eval(element) for element in node.value.elts]
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    ]
    # Also those that are imported on first use, which stand under `if TYPE_CHECKING`.
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.level or node.module.startswith("tsrec_hf"))
        for alias in node.names
    }
    assert len(listed) == 1 and set(listed[0]) == imported


def test_reading_a_tokenizer_imports_no_trainer_library() -> None:
    script = (
        "import sys, tsrec_hf\n"
        "tsrec_hf.SIDIndex, tsrec_hf.TSRecTokenizer\n"
        "heavy = {'trl', 'peft', 'datasets', 'evaluate', 'bitsandbytes', 'faiss', 'sklearn', 'matplotlib'}\n"
        "print(*sorted(heavy & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []


@pytest.mark.parametrize(
    "name", [name for name in tsrec_hf.__all__ if name not in ("__version__", "PUBLISHED_SA_INIT")]
)
def test_every_public_name_has_an_example_that_runs(name: str) -> None:
    assert ">>>" in getattr(tsrec_hf, name).__doc__
