"""
A page to try a recommender in the browser:

    pip install ".[space]"      # in a clone of the repository
    python examples/space/app.py outputs/demo/checkpoint     # a folder or a Hub id; --share for a public link

As a Space it reads the Hub id from the variable `TSREC_CHECKPOINT`.
"""

import argparse
import os
import sys

from source import check_source
from worker import MOST_WAITING, Worker


DEFAULT_CHECKPOINT = "outputs/demo/checkpoint"


def main() -> None:
    parser = argparse.ArgumentParser(description="A page to try a recommender in the browser.")
    parser.add_argument(
        "checkpoint",
        nargs="?",
        default=os.environ.get("TSREC_CHECKPOINT", DEFAULT_CHECKPOINT),
        help="folder or Hub id; by default $TSREC_CHECKPOINT, else %(default)s",
    )
    parser.add_argument("--revision", help="commit, branch or tag of a Hub id")
    parser.add_argument("--port", type=int, help="by default 7860, or the first free one after it")
    parser.add_argument(
        "--share",
        action="store_true",
        help="make a public link, good for a week, by a tunnel through Gradio's servers",
    )
    args = parser.parse_args()

    try:
        check_source(args.checkpoint, args.revision)
    except FileNotFoundError as error:
        sys.exit(str(error))
    worker = Worker(args.checkpoint, args.revision)
    try:
        try:
            from page import CSS, THEME, build_page
        except ModuleNotFoundError as error:
            sys.exit(f'{error}. Install what the page needs: `pip install ".[space]"` in a clone of the repository.')

        page = build_page(worker.ask, name=args.checkpoint.rstrip("/").removesuffix("/checkpoint").split("/")[-1])
        page.queue(max_size=MOST_WAITING)
        page.launch(
            server_port=args.port, share=args.share, css=CSS, theme=THEME, prevent_thread_lock=True, ssr_mode=False
        )
        try:
            worker.loading.result()
        except (OSError, ValueError) as error:
            page.close()
            sys.exit(str(error))
        page.block_thread()
    finally:
        worker.close()


if __name__ == "__main__":
    main()
