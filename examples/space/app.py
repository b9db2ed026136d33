"""
A page to try a recommender in the browser:

    pip install "tsrec_hf[space]"
    python examples/space/app.py outputs/demo/checkpoint     # a folder or a Hub id

As a Space it reads the Hub id from the variable `TSREC_CHECKPOINT`.
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from threading import Thread


DEFAULT_CHECKPOINT = "outputs/demo/checkpoint"

# In the recommender's process only.
_recommender = None


def load(checkpoint: str) -> None:
    """Loads the recommender in its process."""
    global _recommender
    if os.name == "posix":
        # Where cores are few, the page comes first.
        os.nice(10)
    from recommender import Recommender

    Thread(target=end_with_the_page, daemon=True).start()
    _recommender = Recommender(checkpoint)


def end_with_the_page() -> None:
    """Without it the process would outlive a page that is killed."""
    parent_process().join()
    os._exit(0)


def call(method: str, *arguments):
    """Calls a method of the recommender in its process."""
    return getattr(_recommender, method)(*arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description="A page to try a recommender in the browser.")
    parser.add_argument(
        "checkpoint",
        nargs="?",
        default=os.environ.get("TSREC_CHECKPOINT", DEFAULT_CHECKPOINT),
        help="folder or Hub id; by default $TSREC_CHECKPOINT, else %(default)s",
    )
    parser.add_argument("--port", type=int, help="by default 7860, or the first free one after it")
    args = parser.parse_args()

    # torch and Gradio take two to three seconds to import, each. In two processes they do it at once, and the page
    # stays quick while the recommender computes.
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
        loading = process.submit(load, args.checkpoint)
        try:
            from page import CSS, THEME, build_page
        except ModuleNotFoundError as error:
            sys.exit(f'{error}. Install what the page needs: `pip install "tsrec_hf[space]"`.')

        page = build_page(
            lambda method, *arguments: process.submit(call, method, *arguments).result(),
            name=args.checkpoint.rstrip("/").removesuffix("/checkpoint").split("/")[-1],
        )
        page.launch(server_port=args.port, css=CSS, theme=THEME, prevent_thread_lock=True, ssr_mode=False)
        try:
            loading.result()
        except (OSError, ValueError) as error:
            page.close()
            sys.exit(str(error))
        page.block_thread()


if __name__ == "__main__":
    main()
