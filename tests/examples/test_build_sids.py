"""`examples/build_sids.py`, as users call it, on a small catalogue."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trl import TrlParser

from tsrec_hf.items import load_minionerec, open_dataset
from tsrec_hf.models import SIDIndex
from tsrec_hf.recipes.build import weights_of
from tsrec_hf.recipes.options import BuildOptions
from tsrec_hf.sids import ResidualKMeans


sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the extra `sids`")
pytest.importorskip("faiss", reason="needs the extra `sids`")
from sentence_transformers.sentence_transformer.modules import BoW  # noqa: E402


EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIGS = sorted((EXAMPLES / "configs").glob("build_sids*.yaml"))
COLORS, THINGS = ["red", "green", "blue", "black"], ["hammer", "saw", "nail", "glue", "tape", "drill"]


def run_here(monkeypatch, **settings) -> None:
    line = []
    for name, value in settings.items():
        values = value if isinstance(value, list) else [value]
        line += [f"--{name}", *map(str, values)]
    monkeypatch.setattr(sys, "argv", ["build_sids.py", *line])
    runpy.run_path(str(EXAMPLES / "build_sids.py"), run_name="__main__")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """A model that counts words."""
    folder = tmp_path_factory.mktemp("encoder")
    model = sentence_transformers.SentenceTransformer(modules=[BoW([*COLORS, *THINGS, "sharp"])], device="cpu")
    model.save(str(folder))
    return folder


@pytest.fixture
def shop(tmp_path: Path, encoder: Path) -> dict:
    """24 items under other names than ours, one without a title, and 12 customers who took ten of them each."""
    titles = [f"{color} {thing}" for color in COLORS for thing in THINGS]
    rows = [f"{number:03},<b>{title}</b>,sharp" for number, title in enumerate(titles)]
    (tmp_path / "items.csv").write_text("\n".join(["sku,name,about", *rows, "024,,sharp"]) + "\n")
    orders = [f"u{user},{(user + 5 * step) % 24:03},{100 * user + step}" for user in range(12) for step in range(10)]
    (tmp_path / "orders.csv").write_text("\n".join(["customer,sku,seconds", *orders, "u0,024,7"]) + "\n")
    return {
        "items_file": tmp_path / "items.csv",
        "interactions_file": tmp_path / "orders.csv",
        "item_columns": ["item_id=sku", "title=name", "description=about"],
        "interaction_columns": ["user_id=customer", "item_id=sku", "timestamp=seconds"],
        "encoder": encoder,
        "level_sizes": [8, 4],
        "output_dir": tmp_path / "shop",
    }


def test_from_tables_to_a_folder_of_the_other_scripts(shop, tmp_path: Path, monkeypatch, capsys) -> None:
    run_here(monkeypatch, **shop, export_dir=tmp_path / "export")
    printed = capsys.readouterr().out
    assert "| items without a title dropped | 24 (-1) | 12 | 121 |" in printed
    assert "| interactions with unknown items dropped | 24 | 12 | 120 (-1) |" in printed
    assert "collision rate 0.00%" in printed and "Collision rate before reassignment: " in printed
    assert "| next item's prefix | shuffled |" in printed
    dataset = open_dataset(tmp_path / "shop")
    assert len(dataset.items) == 24 and dataset.items[0]["title"] == "red hammer"
    index = dataset.sid_index
    # The embeddings' order is that of the items and of the index, as `describe_tokens.py --embeddings_file` takes it.
    assert index.item_ids == dataset.items["item_id"][:] == [f"{number:03}" for number in range(24)]
    assert np.load(tmp_path / "shop" / "embeddings.npy").shape == (24, 11)
    assert len(np.unique(index.codes, axis=0)) == 24 and len(dataset.train) > len(dataset.test) > 0
    # MiniOneRec's layout is another folder: one folder holds one index.
    assert not (tmp_path / "shop" / "index.json").exists()
    assert load_minionerec(tmp_path / "export").train.to_dict() == dataset.train.to_dict()
    # No token is left without items.
    assert (index.codes.max(axis=0) + 1 == index.level_sizes).all()
    files = {path.name for path in (tmp_path / "shop").iterdir()}
    assert files >= {
        "report.md",
        "report.json",
        "report.png",
        "residual_kmeans.safetensors",
        "embeddings.npy",
        "file_set.json",
        "cache",
    }
    report = json.loads((tmp_path / "shop" / "report.json").read_text())
    assert report["collision_rate"] == 0 and min(report["use"]) > 0
    # Balanced, where nobody says otherwise.
    assert ResidualKMeans.load(tmp_path / "shop").balanced
    # The same settings make the same SIDs.
    run_here(monkeypatch, **{**shop, "output_dir": tmp_path / "again"})
    assert SIDIndex.load(tmp_path / "again").fingerprint == index.fingerprint


def test_new_items_get_codes_of_the_same_quantiser(shop, tmp_path: Path, monkeypatch, capsys) -> None:
    settings = shop
    run_here(monkeypatch, **settings)
    before = SIDIndex.load(tmp_path / "shop")
    with (tmp_path / "items.csv").open("a") as file:
        file.write("100,red sharp saw,\n101,blue sharp nail,\n")
    later = {**shop, "output_dir": tmp_path / "june", "extend_dir": tmp_path / "shop"}
    run_here(monkeypatch, **later)
    assert "24 items keep their SIDs, 2 are new." in capsys.readouterr().out
    after = SIDIndex.load(tmp_path / "june")
    assert after.fits(before.fingerprint) and after.fingerprint != before.fingerprint
    assert len(after) == 26 and after.tokens == before.tokens
    assert [after.sid_of(one) for one in before.item_ids] == [before.sid_of(one) for one in before.item_ids]
    embeddings = np.load(tmp_path / "june" / "embeddings.npy")
    assert len(embeddings) == 26 and len(np.unique(after.codes, axis=0)) == 26
    # The quantiser travels on.
    june, shop = (ResidualKMeans.load(tmp_path / name).encode(embeddings) for name in ("june", "shop"))
    assert (june == shop).all()
    with pytest.raises(ValueError, match="these differ .there, here.*'collisions': .'reassign', 'keep'."):
        run_here(monkeypatch, **later, collisions="keep")
    # A pair of two runs looks right: both files are whole, and of the same shapes.
    run_here(monkeypatch, **{**settings, "output_dir": tmp_path / "other", "seed": 1})
    name = "residual_kmeans.safetensors"
    (tmp_path / "shop" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(ValueError, match=f"{name} as it was written with the other files of .*a file of another run"):
        run_here(monkeypatch, **later)


def test_what_was_taken_together_joins_the_contents(shop, tmp_path: Path, monkeypatch) -> None:
    run_here(monkeypatch, **shop, collaborative_weight=0.5)
    # 11 words, and as many directions as there are items.
    assert np.load(tmp_path / "shop" / "embeddings.npy").shape == (24, 11 + 24)
    with pytest.raises(ValueError, match="SIDs of contents alone with `--extend_dir`"):
        later = {"output_dir": tmp_path / "june", "extend_dir": tmp_path / "shop"}
        run_here(monkeypatch, **{**shop, **later}, collaborative_weight=0.5)


def test_an_encoder_that_does_not_know_the_language_stops_the_run(shop, tmp_path: Path, monkeypatch) -> None:
    titles = "กาแฟ ชา น้ำ โต๊ะ เก้าอี้ หมวก เสื้อ ขวด".split()
    rows = [f"{number},hammer {title},sharp" for number, title in enumerate(titles)]
    (tmp_path / "items.csv").write_text("\n".join(["sku,name,about", *rows]) + "\n")
    settings = {name: value for name, value in shop.items() if not name.startswith("interaction")}
    with pytest.raises(ValueError, match="100% of the items have nearly the vector of a different text.*multilingual"):
        run_here(monkeypatch, **settings)
    assert not (tmp_path / "shop" / "report.md").exists()


def test_images_beside_the_items(shop, clip_dir, tmp_path: Path, monkeypatch) -> None:
    rows = ["item_id,title,photo"]
    for number, color in enumerate(("red", "green", "blue", "black") * 3):
        name = f"{number}.png" if number else ""
        if name:
            Image.new("RGB", (16, 16 + number), color).save(tmp_path / name)
        rows.append(f"{number},{color} hammer,{name}")
    (tmp_path / "photos.csv").write_text("\n".join(rows) + "\n")
    settings = {"items_file": tmp_path / "photos.csv", "output_dir": tmp_path / "photos", "level_sizes": [4, 4]}
    run_here(monkeypatch, **settings, encoder=clip_dir, fields=["title=1"], image_column="photo", image_weight=3)
    embeddings = np.load(tmp_path / "photos" / "embeddings.npy")
    # Of unit length; a quarter of it is text, three quarters are image, of which the first item has none.
    lengths = np.square(embeddings[:, :8]).sum(axis=1), np.square(embeddings[:, 8:]).sum(axis=1)
    np.testing.assert_allclose(lengths[0], 0.25, atol=1e-5)
    np.testing.assert_allclose(lengths[1], [0, *[0.75] * 11], atol=1e-5)
    index = SIDIndex.load(tmp_path / "photos")
    assert len(np.unique(index.codes, axis=0)) == 12
    assert not len(open_dataset(tmp_path / "photos").train)  # the items alone


@pytest.mark.parametrize(
    ("settings", "levels"),
    [
        ({"quantizer": "rqvae", "collisions": "suffix"}, 3),
        ({"balanced": True, "collisions": "sinkhorn", "split": "leave_one_out", "user_k": 10, "item_k": 2}, 2),
        ({"collisions": "keep", "fields": ["title=1", "about=0.1"], "item_columns": ["item_id=sku", "title=name"]}, 2),
    ],
    ids=["rqvae", "balanced", "keep"],
)
def test_other_ways(shop, tmp_path: Path, monkeypatch, settings: dict, levels: int) -> None:
    run_here(monkeypatch, **{**shop, **settings})
    index = SIDIndex.load(tmp_path / "shop")
    assert index.num_levels == levels and len(index) == 24
    distinct = len(np.unique(index.codes, axis=0))
    assert distinct == 24 or settings["collisions"] == "keep"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_configurations_are_read(config: Path) -> None:
    line = ["--config", str(config), "--items_file", "here", "--output_dir", "there"]
    [args] = TrlParser(BuildOptions).parse_args_and_config(line)
    assert args.items_file == "here" and args.level_sizes == [256, 256, 256]
    assert weights_of(args)["brand"] == 0.2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quantizer": "kmeans"}, "Expected `quantizer` among"),
        ({"split": "random"}, "Expected `split` among"),
        ({"quantizer": "rqvae", "balanced": True}, "`--balanced` is an option of residual k-means"),
        ({"item_columns": ["sku"]}, "Expected `--item_columns` as pairs such as title=name, but found .'sku'."),
        ({"fields": ["title=much"]}, "Expected `--fields` as columns and weights such as title=1"),
        ({"format": "recbole"}, "RecBole's folder holds the interactions too"),
        ({"format": "amazon"}, "Columns are named for tables; those of 'amazon' are known"),
        ({"item_columns": ["item_id=nr", "title=name"]}, r"to have the columns \['nr'\], .*our column 'item_id'"),
        ({"collisions": "drop"}, "Expected `policy` among"),
    ],
)
def test_settings_that_do_not_fit(shop, monkeypatch, settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run_here(monkeypatch, **{**shop, **settings})


def test_published_sequences_get_sids_with_all_items(tmp_path: Path, monkeypatch, caplog, capsys) -> None:
    encoder = tmp_path / "encoder"
    words = [*COLORS, *THINGS, "untitled"]
    sentence_transformers.SentenceTransformer(modules=[BoW(words)], device="cpu").save(str(encoder))
    titles = [f"{color} {thing}" for color in COLORS for thing in THINGS]
    (tmp_path / "Toy.inter.json").write_text(
        json.dumps({f"u{user}": [(user + 5 * step) % 24 for step in range(3 + user)] for user in range(9)})
    )
    # One item of published sequences has no title.
    rows = [f"{number},{title if number != 5 else ''}" for number, title in enumerate(titles)]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title", *rows, ""]))
    settings = {"format": "lcrec", "items_file": tmp_path, "encoder": encoder, "level_sizes": [8, 4]}
    caplog.set_level("INFO")
    run_here(monkeypatch, **settings, output_dir=tmp_path / "toy", fields=["title=1"])
    dataset = open_dataset(tmp_path / "toy")
    assert len(dataset.items) == len(dataset.sid_index) == 24 and len(dataset.test) == 9
    assert sorted(dataset.test["history"][:], key=len)[-1] == [str((8 + 5 * step) % 24) for step in range(10)]
    assert "split leave-one-out" in caplog.text
    assert "1 items have no text and are embedded as 'untitled item'." in capsys.readouterr().out
    assert dataset.items["title"][5] == ""
