"""The page: search, a history clicked together, and what the recommender makes of it."""

from collections.abc import Callable
from pathlib import Path

import gradio as gr
from cards import history_html, message_html, recommendations_html, results_html


CSS = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
# The browser's own fonts: nothing is fetched from elsewhere.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
# One listener for all buttons of a list, which come and go.
ON_CLICK = """
element.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-action]");
    if (button && !button.disabled) trigger("act", {action: button.dataset.action, item: button.dataset.item});
});
"""
TOP_K = 10


def build_page(ask: Callable, name: str) -> gr.Blocks:
    """
    Lays out the page.

    Args:
        ask (`Callable`):
            `ask(method, *arguments)` calls that method of a [`Recommender`] and returns what it returns.
        name (`str`):
            What the recommender is called in the heading.

    Returns:
        `gradio.Blocks`: The page, to be launched with `THEME` and `CSS`.
    """

    def answer(method: str, *arguments):
        try:
            return ask(method, *arguments)
        except (KeyError, ValueError) as error:
            raise gr.Error(str(error.args[0]), print_exception=False) from error

    def show_lists(history: list[str], query: str) -> tuple[str, str]:
        items = [{"item_id": item, "title": answer("title_of", item)} for item in history]
        return results_html(answer("search", query), query, history), history_html(
            items, answer("about")["max_history"]
        )

    def begin(query: str) -> tuple[str, str, str, dict]:
        facts = answer("about")
        levels = " × ".join(map(str, facts["level_sizes"]))
        text = f"{facts['num_items']:,} items, spelled with {levels} tokens"
        return *show_lists([], query), message_html(text, "about"), gr.update(visible=facts["has_prior"])

    def act(history: list[str], query: str, event: gr.EventData) -> tuple[list[str], str, str]:
        # A second click may be underway when the first has already done it.
        rest = [item for item in history if item != event.item]
        history = [*rest, event.item] if event.action == "add" else rest
        return history, *show_lists(history, query)

    def take_example(query: str) -> tuple[list[str], str, str]:
        history = answer("example")
        return history, *show_lists(history, query)

    def clear(query: str) -> tuple[list[str], str, str]:
        return [], *show_lists([], query)

    def show_recommendations(history: list[str], use_prior: bool) -> str:
        if not history:
            return message_html(
                "Nothing yet: the model needs a history of one item or more. “Try an example” makes one."
            )
        try:
            found = ask("recommend", history, TOP_K, use_prior)
        except (KeyError, ValueError) as error:
            return message_html(str(error.args[0]), "error")
        tokens = {meaning["token"] for item in history for meaning in ask("explain", item)}
        return recommendations_html(found, tokens, ask("about")["described"])

    def recommend_items(
        item_ids: list[str], top_k: int = TOP_K, use_prior: bool = True, unknown_items: str = "error"
    ) -> list[dict]:
        """Items recommended after these item ids, oldest first, as the page shows them."""
        return answer("recommend", item_ids, top_k, use_prior, unknown_items)

    def search_items(query: str, limit: int = 12) -> dict:
        """Items whose titles match."""
        return answer("search", query, limit)

    plain = {"js_on_load": ON_CLICK, "apply_default_css": False}
    with gr.Blocks(title=f"{name}: what next?", analytics_enabled=False) as page:
        history = gr.State([])
        gr.Markdown(
            f"# What next?\nClick a history together. The model **{name}** answers in semantic IDs, token by token; "
            "open a card to read what its tokens mean."
        )
        about = gr.HTML(message_html("", "about"), apply_default_css=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300, elem_classes="choose"):
                gr.Markdown("### 1. Search the catalogue")
                query = gr.Textbox(
                    label="Search",
                    max_length=200,
                    placeholder="Words of a title, or an item id",
                    container=False,
                    autofocus=True,
                )
                results = gr.HTML(message_html("Loading the recommender …", "busy"), **plain)
                gr.Markdown("### 2. The history")
                chosen = gr.HTML(history_html([], 1), **plain)
                with gr.Row():
                    example = gr.Button("Try an example", size="sm", min_width=120, elem_id="example")
                    empty = gr.Button("Clear", size="sm", min_width=120, elem_id="clear")
            with gr.Column(scale=3, min_width=300):
                gr.Markdown("### 3. Recommended next")
                use_prior = gr.Checkbox(
                    True, label="With the prior: counts of what was taken next", visible=False, elem_id="use-prior"
                )
                recommended = gr.HTML(show_recommendations([], True), elem_id="recommended", **plain)

        lists, hidden = [results, chosen], {"show_progress": "hidden", "api_visibility": "private"}
        page.load(begin, query, [*lists, about, use_prior], **hidden)
        query.input(
            lambda *given: show_lists(*given)[0], [history, query], results, trigger_mode="always_last", **hidden
        )
        for listed in (results, chosen, recommended):
            listed.act(act, [history, query], [history, *lists], trigger_mode="multiple", **hidden)
        example.click(take_example, query, [history, *lists], **hidden)
        empty.click(clear, query, [history, *lists], **hidden)
        for changed in (history, use_prior):
            changed.change(
                show_recommendations,
                [history, use_prior],
                recommended,
                trigger_mode="always_last",
                show_progress="minimal",
                api_visibility="private",
            )
        gr.api(recommend_items, api_name="recommend")
        gr.api(search_items, api_name="search")
    return page
