"""A recommender behind HTTP: the server of a clone's `examples/serve`."""

import runpy
import sys
from pathlib import Path

from .options import ServeOptions


APP = Path(__file__).parents[2] / "examples" / "serve" / "app.py"


def main(args: ServeOptions) -> None:
    if not APP.is_file():
        raise FileNotFoundError(
            f"Expected the server in {APP}, as a clone of the repository has it, but there is none. Install the "
            "package in a clone by `pip install --editable .`, or open a page by `make space`."
        )
    words = [word for name, value in vars(args).items() if value is not None for word in (f"--{name}", str(value))]
    sys.argv = [str(APP), *words]
    runpy.run_path(str(APP), run_name="__main__")
