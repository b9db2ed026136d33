"""What the README and the pages of `docs/` show works: Python as pasted, commands by the scripts' own parsers."""

import argparse
import configparser
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from trl import TrlParser

import tsrec_hf
from tsrec_hf.cli import commands as commands_of_cli


ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
NAME_OF = {page.relative_to(ROOT).as_posix(): page for page in PAGES}
# `tests/test_migration.py` runs the one in page order, commands and all; `tests/serving` has the slow test of vLLM's.
RUN_ELSEWHERE = {"docs/migration.md", "docs/serving.md"}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def commands(script: str) -> list[list[str]]:
    """The commands of a script as lists of words, without comments; assignments count as commands."""
    lines = [shlex.split(line, comments=True) for line in script.replace("\\\n", " ").splitlines()]
    return [words for words in lines if words]


class Parsed(Exception):
    """Stops a script behind its parser."""


@pytest.fixture
def check_options(monkeypatch):
    """Runs a script of the repository, or a command, until it has understood its arguments."""
    parse = argparse.ArgumentParser.parse_known_args

    def parse_and_stop(self, args=None, namespace=None):
        known, rest = parse(self, args, namespace)
        if rest and not isinstance(self, TrlParser):
            return known, rest  # options of TRL, if of anybody: its parser comes next
        assert not rest, f"no such options: {rest}"
        raise Parsed

    def check(script: str, words: list[str]) -> None:
        if script == "tsrec":
            with monkeypatch.context() as patched:
                patched.setattr(commands_of_cli, "check_paths", lambda parsed: None)
                patched.setattr(argparse.ArgumentParser, "parse_known_args", parse_and_stop)
                patched.chdir(ROOT)
                with pytest.raises(Parsed):
                    commands_of_cli.run_command(words[0], words[1:])
            return
        path = ROOT / script
        assert path.is_file(), script
        with monkeypatch.context() as patched:
            patched.setattr(commands_of_cli, "check_paths", lambda parsed: None)  # files of a reader
            patched.setattr(argparse.ArgumentParser, "parse_known_args", parse_and_stop)
            patched.setattr(sys, "argv", [script, *words])
            patched.syspath_prepend(str(path.parent))
            patched.chdir(ROOT)
            with pytest.raises(Parsed):
                runpy.run_path(str(path), run_name="__main__")

    return check


def extras() -> set[str]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return set(setup["options.extras_require"])


def check_command(words: list[str], variables: dict[str, list[str]], check_options) -> None:
    words = [part for word in words for part in variables.get(word, [word])]
    while words and (assignment := re.fullmatch(r"(\w+)=(.*)", words[0])):
        variables[f"${assignment[1]}"] = assignment[2].split()
        words = words[1:]
    match words:
        case []:
            pass
        case ["python", script, *options]:
            check_options(script, options)
        case ["tsrec", *options]:
            check_options("tsrec", options)
        case ["accelerate", "launch", "--config_file", file, script, *options]:
            assert (ROOT / file).is_file(), file
            check_options(script, options)
        case ["make", target, *settings]:
            makefile = (ROOT / "Makefile").read_text()
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
            assert all(re.search(rf"^{one.split('=')[0]} \?=", makefile, flags=re.MULTILINE) for one in settings)
        case ["pip", "install", *what]:
            asked = [name for word in what for name in re.findall(r"^\.\[(.*)\]$", word)]
            assert {name for names in asked for name in names.split(",")} <= extras()
        case ["hf", "jobs", "uv", "run", *options]:
            start = next(place for place, word in enumerate(options) if word.endswith(".py"))
            config = options.index("--config")  # a path in the job, of a folder that goes along
            inside = [word.replace("/configs/", "examples/configs/") for word in options[config : config + 2]]
            check_options(options[start], options[start + 1 : config] + inside + options[config + 2 :])
        case ["hf", "upload", _, _] | ["hf", "upload", _, _, "--exclude", _] | ["mkdir", "-p", _] | ["cp", _, _]:
            pass
        case _:
            pytest.fail(f"a command that nothing checks: {shlex.join(words)}")


@pytest.mark.parametrize("name", [name for name, page in NAME_OF.items() if blocks(page, "bash")])
def test_commands_exist(name, check_options):
    variables: dict[str, list[str]] = {}
    for block in blocks(NAME_OF[name], "bash"):
        for words in commands(block):
            check_command(words, variables, check_options)


@pytest.fixture
def names(model, tokenizer, dataset, semantics, sid_index, save_backbone, datasets_cache, tmp_path, monkeypatch):
    """
    The names that pages lean on, in a folder with what they read: a data set and a backbone by their names elsewhere,
    and checkpoints where earlier commands put them. What goes to the Hub goes to a folder.
    """
    monkeypatch.chdir(tmp_path)
    for variable, value in {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(variable, value)
    tsrec_hf.save_minionerec(dataset, "amazon/Industrial_and_Scientific")
    semantics.to_json("amazon/Industrial_and_Scientific/description_keywords.json")
    save_backbone("HuggingFaceTB/SmolLM2-135M")
    for folder in ("outputs/demo/checkpoint", "outputs/sft", "me/tsrec-industrial"):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for kind in (tsrec_hf.TSRecForCausalLM, tsrec_hf.TSRecTokenizer):
        monkeypatch.setattr(kind, "push_to_hub", lambda self, repo_id: self.save_pretrained(f"pushed/{repo_id}"))
    given = {"model": model, "tokenizer": tokenizer, "dataset": dataset, "semantics": semantics}
    return {**given, "sid_index": sid_index}


def write_orders() -> None:
    """The two tables of docs/data.md, in its wording."""
    Path("shop.txt").write_text(
        "sku::name::short::long\n7::Säge::sharp::of steel\n8::Nut::small::of brass\n", "latin-1"
    )
    events = {"a": "purchase", "b": "cart"}
    orders = [
        f"{who}::{sku}::2024-0{month}-01::{event}"
        for who, event in events.items()
        for month, sku in enumerate("787", 1)
    ]
    Path("orders.txt").write_text("\n".join(["customer::sku::day::event", *orders]) + "\n", "latin-1")


def write_log(item_ids) -> None:
    """The tables of the pages that stream a log: a catalogue, and a folder of Parquet parts sorted by user."""
    Dataset.from_dict({"item_id": item_ids, "title": item_ids}).to_parquet("shop.parquet")
    Path("log").mkdir()
    for number, user in enumerate("ab"):
        log = {"user_id": [user] * 3, "item_id": item_ids[number : number + 3], "timestamp": [1, 2, 3]}
        Dataset.from_dict(log).to_parquet(f"log/part-{number}.parquet")


@pytest.mark.parametrize(
    "name", [name for name, page in NAME_OF.items() if blocks(page, "python") and name not in RUN_ELSEWHERE]
)
def test_python_runs_as_pasted(name, names):
    """All blocks of a page, one after the other, with the names of those before."""
    names["load_table"] = tsrec_hf.load_table
    write_orders()
    write_log(names["sid_index"].item_ids)
    for number, block in enumerate(blocks(NAME_OF[name], "python"), start=1):
        exec(compile(block, f"{name}, block {number}", "exec", dont_inherit=True), names)


def test_ten_lines_recommend_five_items(names, capsys):
    [block] = blocks(ROOT / "README.md", "python")
    exec(compile(block, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(re.search(r"-\d+\.\d\d  (<\w+_\d+>){3}  \w+ \w+", line) for line in lines)
    assert block in blocks(DOCS / "get_started.md", "python")


def test_the_readme_is_a_screen():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 80


def test_links_lead_somewhere():
    """Of the README and among the pages, also to sections; the pages link to nothing outside of the site."""
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"https?://", link):
                continue
            target, _, anchor = link.partition("#")
            path = (page.parent / target).resolve() if target else page
            generated = path.parent == DOCS / "api"
            assert path.is_file() or generated, f"{page.name}: {link}"
            assert page.parent == ROOT or path.is_relative_to(DOCS), f"{page.name}: {link} leaves the site"
            if anchor and not generated:
                titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
                slugs = {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}
                assert anchor in slugs, f"{page.name}: {link}"


def test_pictures_are_as_drawn(tmp_path):
    drawing = runpy.run_path(str(DOCS / "draw_pictures.py"))
    drawing["main"](tmp_path)
    drawn = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.svg")}
    kept = {path.name: path.read_text(encoding="utf-8") for path in (DOCS / "pictures").glob("*.svg")}
    assert drawn == kept, "run `python docs/draw_pictures.py`"
    shown = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert all(f"pictures/{name}" in shown for name in kept)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` does: any warning is an error."""
    pytest.importorskip("mkdocs", reason="needs the extra `docs`")
    pytest.importorskip("mkdocstrings", reason="needs the extra `docs`")
    pytest.importorskip("material", reason="needs the extra `docs`")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(ROOT)
        config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
        config.plugins.on_startup(command="build", dirty=False)
        build(config)
    return folder


@pytest.mark.slow
def test_every_public_name_has_an_entry(site):
    pages = {path.name: path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html")}
    missing = [
        name
        for name in tsrec_hf.__all__
        if name != "__version__"
        and not any(re.search(rf'id="tsrec_hf[\w.]*\.{name}"', page) for page in pages.values())
    ]
    assert not missing


@pytest.mark.slow
def test_nothing_is_fetched_by_a_readers_browser(site):
    for page in site.rglob("*.html"):
        tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text(encoding="utf-8"))
        assert not [tag for tag in tags if re.search(r"(?:src|href)=\"?(?:https?:)?//", tag)], page.name


@pytest.mark.slow
def test_language_models_get_a_list_and_a_whole(site):
    summary, whole = ((site / name).read_text(encoding="utf-8") for name in ("llms.txt", "llms-full.txt"))
    assert summary.startswith("# tsrec_hf\n\n> ")
    links = re.findall(r"^- \[[^\]]+\]\(([^)]+)\): \S", summary, flags=re.MULTILINE)
    assert len(links) >= len(PAGES) - 1 and all((site / link).is_file() for link in links)
    assert all(f"## {name}\n" in whole for name in tsrec_hf.__all__ if name != "__version__")
