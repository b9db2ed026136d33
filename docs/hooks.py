"""
What MkDocs cannot make of Markdown alone: a page of the API for each room of the package, from its docstrings, and
`llms.txt` with `llms-full.txt` (https://llmstxt.org), for readers that are language models.
"""

import ast
import re
from pathlib import Path

import griffe
from docstrings import TRLDocstrings, path_of  # beside this file, which MkDocs puts on the path
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation, Section
from mkdocs.structure.pages import Page

import tsrec_hf


PACKAGE = Path(tsrec_hf.__file__).parent
API = "api"


def names_of_rooms() -> dict[str, list[str]]:
    """Public names by room; a module that is imported by itself counts for its room."""
    names: dict[str, list[str]] = {}
    for module, in_module in tsrec_hf._ROOM_OF.items():
        names.setdefault(module.partition(".")[0], []).extend(in_module)
    return names


def api_page(room: str, names: list[str]) -> str:
    """Markdown of a room's page: what the room is, and a directive of mkdocstrings for each of its names."""
    file = next(path for path in (PACKAGE / room / "__init__.py", PACKAGE / f"{room}.py") if path.is_file())
    about = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    directives = "\n\n".join(f"::: {path_of(name)}" for name in names)
    return f"# {room}\n\n{about}\n\n{directives}\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    [api] = [entry["API"] for entry in config.nav or [] if isinstance(entry, dict) and "API" in entry]
    api.extend(f"{API}/{room}.md" for room in names_of_rooms())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for room, names in names_of_rooms().items():
        files.append(File.generated(config, f"{API}/{room}.md", content=api_page(room, names)))
    return files


_pages: list[Page] = []


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> None:
    _pages[:] = nav.pages


def section_of(page: Page) -> str:
    """Title of the outermost section of the navigation that a page stands in."""
    titles = [one.title for one in page.ancestors if isinstance(one, Section)]
    return titles[-1] if titles else "More"


def first_sentence(markdown: str) -> str:
    """The first sentence below the title, as plain text."""
    without_code = re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)
    paragraphs = [part.strip() for part in without_code.split("\n\n")]
    text = next((part for part in paragraphs if part and not part.startswith(("#", "!", "|", "- "))), "")
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(text.split()))
    return re.split(r"(?<=\.) (?=[A-Z])", text)[0]


def docstring_of(package: griffe.Module, name: str) -> str:
    docstring = package[path_of(name).partition(".")[2]].docstring
    return f"## {name}\n\n{docstring.value if docstring else ''}"


def on_post_build(config: MkDocsConfig) -> None:
    """Writes a list of the pages, and one text of all that they say."""
    extensions = griffe.load_extensions(TRLDocstrings)
    package = griffe.load("tsrec_hf", search_paths=[PACKAGE.parent], extensions=extensions, resolve_aliases=True)
    summary, whole, section = [f"# {config.site_name}\n\n> {config.site_description}\n"], [], ""
    for page in _pages:
        if section_of(page) != section:
            section = section_of(page)
            summary.append(f"\n## {section}\n")
        text = page.markdown or ""
        summary.append(f"- [{page.title}]({page.url}): {first_sentence(text)}")
        room = Path(page.file.src_uri).stem
        if page.file.src_uri.startswith(f"{API}/") and room in names_of_rooms():
            about, _, _ = text.partition(":::")
            text = "\n\n".join([about.strip(), *(docstring_of(package, name) for name in names_of_rooms()[room])])
        whole.append(text.strip())
    folder = Path(config.site_dir)
    folder.joinpath("llms.txt").write_text("\n".join(summary) + "\n", encoding="utf-8")
    folder.joinpath("llms-full.txt").write_text("\n\n---\n\n".join(whole) + "\n", encoding="utf-8")
