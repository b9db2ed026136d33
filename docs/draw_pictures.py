"""
Draws the pictures of the concept pages as SVG, on a light ground of their own, so that they read in both themes:

    python docs/draw_pictures.py
"""

from html import escape
from pathlib import Path


FOLDER = Path(__file__).parent / "pictures"
INK, GREY, LINE = "#1d2330", "#5b6475", "#9aa3b5"
BLUE, GREEN, AMBER, ROSE, WHITE = "#dbe6fd", "#d6f0df", "#fdeccb", "#fbdada", "#ffffff"
HEAD = """<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0L8 4L0 8z" fill="#5b6475"/></marker></defs>"""


class Picture:
    """Shapes on a light ground; positions are in pixels, of boxes that of their upper left corner."""

    def __init__(self, width: int, height: int, title: str):
        self.width, self.height, self.title, self.shapes = width, height, title, []

    def text(self, x: float, y: float, words: str, anchor: str = "middle", size: int = 14, colour: str = INK) -> None:
        style = f'font-size="{size}" fill="{colour}" text-anchor="{anchor}"'
        self.shapes.append(f'<text x="{x:g}" y="{y:g}" {style}>{escape(words)}</text>')

    def box(self, x: float, y: float, width: float, height: float, lines: str, fill: str = WHITE) -> None:
        place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        self.shapes.append(f'<rect {place} rx="7" fill="{fill}" stroke="{LINE}"/>')
        words = lines.split("\n")
        for number, line in enumerate(words):
            self.text(x + width / 2, y + height / 2 + 5 + 18 * (number - (len(words) - 1) / 2), line)

    def line(self, x1: float, y1: float, x2: float, y2: float, arrow: bool = True, dashed: bool = False) -> None:
        style = 'marker-end="url(#head)" ' * arrow + 'stroke-dasharray="5 4" ' * dashed
        self.shapes.append(f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" stroke="{GREY}" fill="none" {style}/>')

    def dot(self, x: float, y: float, fill: str, radius: float = 6) -> None:
        self.shapes.append(f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{fill}" stroke="{GREY}"/>')

    def bar(self, x: float, y: float, width: float, fill: str) -> None:
        self.shapes.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="16" rx="3" fill="{fill}"/>')

    def save(self, name: str, folder: Path) -> None:
        size = f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}"'
        start = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="system-ui, sans-serif">'
        ground = f'<rect width="{self.width}" height="{self.height}" rx="12" fill="#f6f7fb"/>'
        parts = [start, f"<title>{escape(self.title)}</title>", HEAD, ground, *self.shapes, "</svg>"]
        (folder / f"{name}.svg").write_text("\n".join(parts) + "\n", encoding="utf-8")


def pipeline() -> Picture:
    picture = Picture(900, 190, "From two tables to a recommender")
    stages = [
        ("items.csv\ninteractions.csv", WHITE, "read, clean, split"),
        ("semantic IDs", BLUE, "encoder, quantiser"),
        ("descriptions", GREEN, "keywords of clusters"),
        ("language model", AMBER, "SA-Init, TS-Align, SFT"),
        ("recommender", ROSE, "tree search, priors"),
    ]
    for number, (lines, fill, below) in enumerate(stages):
        x = 20 + 176 * number
        picture.box(x, 50, 140, 60, lines, fill)
        picture.text(x + 70, 138, below, size=12, colour=GREY)
        if number:
            picture.line(x - 34, 80, x - 3, 80)
    return picture


def semantic_ids() -> Picture:
    picture = Picture(900, 330, "An item's text becomes one code a level")
    picture.box(20, 120, 150, 60, "“claw hammer,\nsteel, 450 g”")
    picture.line(172, 150, 218, 150)
    picture.box(220, 120, 110, 60, "embedding", BLUE)
    levels = [("level a: all items", 236, 0), ("level b: what is left", 231, 1), ("level c: and again", 226, 2)]
    for title, code, level in levels:
        x = 372 + 178 * level
        picture.line(x - 40, 150, x - 4, 150)
        picture.box(x, 66, 138, 168, "")
        picture.text(x + 69, 54, title, size=12, colour=GREY)
        spread = 46 - 12 * level
        for number, (across, down) in enumerate([(-0.7, -0.9), (0.8, -0.6), (-0.6, 0.8), (0.75, 0.95)]):
            chosen = number == (level + 1) % 4
            centre = (x + 69 + across * spread, 150 + down * spread)
            for dx, dy in ((-9, -4), (7, -8), (2, 9)):
                picture.dot(centre[0] + dx, centre[1] + dy, AMBER if chosen else WHITE, 4)
            picture.dot(*centre, ROSE if chosen else LINE, 5)
        picture.line(x + 69, 236, x + 69, 262)
        picture.text(x + 69, 284, f"<{'abc'[level]}_{code}>", size=18)
    picture.text(95, 284, "SID of the item:", size=14, colour=GREY)
    picture.text(
        450, 315, "items that share a prefix are alike; the longer the prefix, the more", size=12, colour=GREY
    )
    return picture


def sa_init() -> Picture:
    picture = Picture(900, 300, "A SID token starts from the keywords of its cluster")
    picture.box(20, 108, 130, 60, "<a_12>\nits items", BLUE)
    for number, (word, weight) in enumerate(
        [("hammer", "rare: 2.1"), ("steel", "rare: 1.7"), ("tool", "common: 0.2")]
    ):
        y = 40 + 80 * number
        picture.line(152, 138, 207, y + 28)
        picture.box(210, y, 130, 50, word, GREEN)
        picture.text(275, y + 66, weight, size=12, colour=GREY)
        picture.line(342, y + 25, 418, 138)
    picture.box(420, 108, 130, 60, "weighted mean\nof their rows", WHITE)
    picture.line(552, 138, 596, 138)
    picture.box(598, 108, 120, 60, "minus the mean\nof all tokens", WHITE)
    picture.line(720, 138, 758, 138)
    picture.box(760, 108, 120, 60, "scaled:\nrow of <a_12>", AMBER)
    picture.text(485, 92, "pooling", size=12, colour=GREY)
    picture.text(658, 92, "center", size=12, colour=GREY)
    picture.text(820, 92, "norm", size=12, colour=GREY)
    return picture


def ts_align() -> Picture:
    picture = Picture(900, 210, "TS-Align asks both ways")
    picture.box(40, 66, 190, 76, "<a_12>", BLUE)
    picture.box(610, 66, 250, 76, "“Hand tools of steel\nfor driving nails.”", GREEN)
    picture.line(234, 88, 606, 88)
    picture.line(606, 122, 234, 122)
    picture.text(420, 78, "a description for it", size=13, colour=GREY)
    picture.text(420, 144, "which token means it", size=13, colour=GREY)
    picture.text(450, 188, "the loss is on the answers only, in both rows", size=12, colour=GREY)
    return picture


def tree_decoding() -> Picture:
    picture = Picture(900, 370, "One prompt, and a tree of the SIDs that exist")
    picture.box(20, 150, 190, 70, "Items chosen in order:\n<a_0><b_1><c_0>…", BLUE)
    picture.text(115, 245, "read once, not once a beam", size=12, colour=GREY)
    firsts = [("<a_0>", 80, "0.6", GREEN), ("<a_1>", 190, "0.3", GREEN), ("<a_2>", 300, "0.1", WHITE)]
    for token, y, probability, fill in firsts:
        picture.line(212, 185, 296, y, dashed=fill == WHITE)
        picture.box(298, y - 20, 90, 40, token, fill)
        picture.text(262, y + (18 if y > 185 else -4), probability, size=12, colour=GREY)
    seconds = [("<b_0>", 40, 0, GREEN), ("<b_1>", 115, 0, GREEN), ("<b_0>", 190, 1, GREEN), ("<b_2>", 265, 1, WHITE)]
    for token, y, parent, fill in seconds:
        picture.line(390, firsts[parent][1], 476, y, dashed=fill == WHITE)
        picture.box(478, y - 20, 90, 40, token, fill)
    leaves = [("hammer", 40, 40), ("nail", 115, 115), ("apple", 190, 190)]
    for item, y, parent in leaves:
        picture.line(570, parent, 656, y)
        picture.box(658, y - 20, 110, 40, item, AMBER)
    picture.box(658, 245, 110, 40, "sold out", ROSE)
    picture.line(570, 265, 656, 265, dashed=True)
    picture.text(
        450, 348, "dashed: cut by the beams, or closed because nothing below may be shown", size=12, colour=GREY
    )
    return picture


def priors() -> Picture:
    picture = Picture(900, 250, "A model and a prior, item by item")
    columns = [
        ("log p(SID | history)", 190, BLUE, (150, 60, 110)),
        ("+ weight · log prior", 430, GREEN, (40, 120, 90)),
    ]
    for title, x, fill, widths in columns:
        picture.text(x + 80, 44, title)
        for number, width in enumerate(widths):
            picture.bar(x, 72 + 46 * number, width, "#7ba0f0" if fill == BLUE else "#6cc58c")
    picture.text(750, 44, "rank")
    for number, (item, rank) in enumerate([("hand saw", "2"), ("steel nail", "3"), ("steel screw", "1")]):
        picture.text(160, 85 + 46 * number, item, anchor="end")
        picture.text(750, 85 + 46 * number, rank, size=18)
        picture.line(640, 80 + 46 * number, 700, 80 + 46 * number)
    picture.text(
        450,
        228,
        "prefixes are ranked by the best item below them, so that no lifted item is lost",
        size=12,
        colour=GREY,
    )
    return picture


PICTURES = (pipeline, semantic_ids, sa_init, ts_align, tree_decoding, priors)


def main(folder: Path = FOLDER) -> None:
    folder.mkdir(exist_ok=True)
    for draw in PICTURES:
        draw().save(draw.__name__, folder)


if __name__ == "__main__":
    main()
