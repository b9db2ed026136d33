"""The page: a history, which begins as that of a real user, and what the recommender makes of it."""

from collections.abc import Callable
from pathlib import Path

import gradio as gr
from cards import history_html, message_html, recommendations_html, results_html, story_html
from link import READ, WRITE, history_of, link_of
from lists import lists_html
from walk import walk_html


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
# Only the view that is looked at is computed.
VIEWS = {"cards": "Recommended", "lists": "Compare", "walk": "Search tree"}


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
        chosen = history_html(answer("items", history), answer("about")["max_history"])
        return results_html(answer("search", query), query, history), chosen

    def begin(query: str, address: str) -> tuple[list[str], str, str, str, dict]:
        facts = answer("about")
        levels = " × ".join(map(str, facts["level_sizes"]))
        text = f"{facts['num_items']:,} items, spelled with {levels} tokens"
        linked = history_of(address, facts["max_items"])
        history = answer("known", linked)
        if len(history) < len(linked):
            left_out = len(linked) - len(history)
            gr.Warning(
                f"{left_out} of {len(linked)} items of the link are left out: this catalogue does not hold them."
            )
        history = history or answer("example")
        has_prior = gr.update(visible=facts["has_prior"])
        return history, *show_lists(history, query), message_html(text, "about"), has_prior

    def act(history: list[str], query: str, event: gr.EventData) -> tuple[list[str], str, str]:
        # A second click may be underway when the first has already done it.
        rest = [item for item in history if item != event.item]
        history = [*rest, event.item] if event.action == "add" else rest
        return history, *show_lists(history, query)

    def take_example(history: list[str], query: str) -> tuple[list[str], str, str]:
        history = answer("example", history)
        return history, *show_lists(history, query)

    def clear(query: str) -> tuple[list[str], str, str]:
        return [], *show_lists([], query)

    def show_view(history: list[str], use_prior: bool, view: str) -> tuple:
        """The line on the user, and the view that is looked at; the others stay as they are."""
        if not history:
            nothing = "Nothing yet: the model needs a history of one item or more. “Another example” brings one."
            return "", *_only(view, message_html(nothing))
        try:
            return _answer_view(ask, history, use_prior, view)
        except (KeyError, ValueError) as error:
            return "", *_only(view, message_html(str(error.args[0]), "error"))

    def recommend_items(
        item_ids: list[str], top_k: int = TOP_K, use_prior: bool = True, unknown_items: str = "error"
    ) -> list[dict]:
        """Items recommended after these item ids, oldest first, as the page shows them."""
        return answer("recommend", item_ids, top_k, use_prior, unknown_items)

    def search_items(query: str, limit: int = 12) -> dict:
        """Items whose title, year, genre or brand matches."""
        return answer("search", query, limit)

    plain = {"js_on_load": ON_CLICK, "apply_default_css": False}
    with gr.Blocks(title=f"{name}: what next?", analytics_enabled=False) as page:
        history, view = gr.State([]), gr.State("cards")
        gr.Markdown(
            f"# What next?\nThe model **{name}** answers a history in semantic IDs, token by token. Begin with this "
            "one, or click another together.",
            elem_id="heading",
        )
        about = gr.HTML(message_html("", "about"), apply_default_css=False)
        with gr.Row(equal_height=False, elem_classes="columns"):
            with gr.Column(scale=2, min_width=300, elem_id="choose", elem_classes="choose"):
                gr.Markdown("### The history")
                chosen = gr.HTML(message_html("Loading the recommender …", "busy"), **plain)
                with gr.Row():
                    example = gr.Button("Another example", size="sm", min_width=100, elem_id="example")
                    empty = gr.Button("Clear", size="sm", min_width=100, elem_id="clear")
                link = gr.Textbox(
                    label="Link to this history", max_lines=1, buttons=["copy"], interactive=False, elem_id="link"
                )
                gr.Markdown("### Search the catalogue")
                query = gr.Textbox(
                    label="Search",
                    max_length=200,
                    placeholder="Title, year, genre, brand, or an item id",
                    container=False,
                    elem_id="query",
                )
                results = gr.HTML(message_html("", "busy"), **plain)
            with gr.Column(scale=3, min_width=300, elem_classes="answer"):
                story = gr.HTML("", apply_default_css=False, elem_id="story")
                use_prior = gr.Checkbox(
                    True,
                    label="With the prior: counts of what was taken next",
                    visible=False,
                    container=False,
                    elem_id="use-prior",
                )
                shown = {}
                with gr.Tabs():
                    tabs = {}
                    for key, label in VIEWS.items():
                        with gr.Tab(label, id=key) as tabs[key]:
                            shown[key] = gr.HTML(message_html("Loading …", "busy"), elem_id=key, **plain)

        lists, hidden = [results, chosen], {"show_progress": "hidden", "api_visibility": "private"}
        page.load(begin, [query, link], [history, *lists, about, use_prior], js=READ, **hidden)
        query.input(
            lambda *given: show_lists(*given)[0], [history, query], results, trigger_mode="always_last", **hidden
        )
        for listed in (results, chosen, shown["cards"], shown["lists"]):
            listed.act(act, [history, query], [history, *lists], trigger_mode="multiple", **hidden)
        example.click(take_example, [history, query], [history, *lists], **hidden)
        empty.click(clear, query, [history, *lists], **hidden)
        history.change(link_of, history, link, **hidden).then(None, link, link, js=WRITE)
        for key, tab in tabs.items():
            tab.select(lambda key=key: key, None, view, **hidden)
        for changed in (history, use_prior, view):
            changed.change(
                show_view,
                [history, use_prior, view],
                [story, *shown.values()],
                trigger_mode="always_last",
                show_progress="minimal",
                api_visibility="private",
            )
        gr.api(recommend_items, api_name="recommend")
        gr.api(search_items, api_name="search")
    return page


def _answer_view(ask: Callable, history: list[str], use_prior: bool, view: str) -> tuple:
    """What the recommender says, as HTML: the line on the user, and a value for every view."""
    target = ask("taken_next", history)
    target_id = None if target is None else target["item_id"]
    if view == "lists":
        lists = ask("compare", history, TOP_K)
        html = lists_html(lists, target_id)
        found = lists["model"] if lists["fused"] is None or not use_prior else lists["fused"]
    else:
        found = ask("recommend", history, TOP_K, use_prior)
    if view == "walk":
        html = walk_html(ask("walk", history, TOP_K, use_prior), target and target["title"])
    elif view == "cards":
        html = recommendations_html(found, ask("tokens_in", history), ask("about")["described"], target_id)
    ids = [item["item_id"] for item in found]
    place = ids.index(target_id) + 1 if target_id in ids else None
    return story_html(ask("items", history), target, place, len(found)), *_only(view, html)


def _only(view: str, html: str) -> list:
    """A value for one view; the others keep theirs."""
    return [html if key == view else gr.skip() for key in VIEWS]
