"""Which embeddings `tsrec prior` weighs in."""

import numpy as np
import pytest

from tsrec_hf.models import SIDIndex, SimilarityPrior, TSRecTokenizer
from tsrec_hf.recipes import choose_prior
from tsrec_hf.recipes.choose_prior import embed_titles, embeddings_of
from tsrec_hf.recipes.options import PriorOptions
from tsrec_hf.sids.catalogue import save_embeddings


@pytest.fixture
def folder(dataset, tmp_path):
    return dataset.save(tmp_path / "shop")


def options(folder, **settings) -> PriorOptions:
    return PriorOptions(model_name_or_path="model", data_dir=str(folder), **settings)


def test_embeddings_of_the_folder_are_taken_unless_told_otherwise(folder, dataset) -> None:
    index = dataset.sid_index
    assert embeddings_of(options(folder), dataset, index) is None
    with pytest.raises(FileNotFoundError, match="Expected embeddings.npy in .*Name an encoder: `--encoder"):
        embeddings_of(options(folder, similarity=True), dataset, index)
    embeddings = np.random.default_rng(0).normal(size=(len(index), 4)).astype(np.float32)
    save_embeddings(folder, embeddings, index)
    for settings in ({}, {"similarity": True}, {"encoder": "not needed"}):
        assert np.array_equal(embeddings_of(options(folder, **settings), dataset, index), embeddings)
    assert embeddings_of(options(folder, similarity=False), dataset, index) is None


def test_an_encoder_embeds_the_titles_in_the_order_of_the_index(folder, dataset, tmp_path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the extra `sids`")
    from sentence_transformers.sentence_transformer.modules import BoW

    words = sorted({word for title in dataset.items["title"][:] for word in title.split()})
    model = sentence_transformers.SentenceTransformer(modules=[BoW(words)], device="cpu")
    model.save(str(tmp_path / "encoder"))
    order = np.arange(len(dataset.sid_index))[::-1]
    index = SIDIndex([dataset.sid_index.item_ids[row] for row in order], dataset.sid_index.codes[order])
    found = embeddings_of(options(folder, encoder=str(tmp_path / "encoder")), dataset, index)
    title_of = dict(zip(dataset.items["item_id"][:], dataset.items["title"][:]))
    expected = model.encode([title_of[item_id] for item_id in index.item_ids], normalize_embeddings=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # An item without a title is like no other.
    first = dataset.items[0]["item_id"]
    untitled = dataset.items.map(lambda item: {"title": " " if item["item_id"] == first else item["title"]})
    expected[index.item_ids.index(first)] = 0
    np.testing.assert_allclose(embed_titles(untitled, index, str(tmp_path / "encoder")), expected, atol=1e-6)


def test_similarity_is_among_the_priors(folder, dataset, model, tokenizer, tmp_path, monkeypatch) -> None:
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    save_embeddings(folder, np.eye(len(dataset.sid_index), dtype=np.float32), dataset.sid_index)
    seen = []
    fit_prior = choose_prior.fit_prior
    monkeypatch.setattr(
        choose_prior, "fit_prior", lambda *args, **kwargs: seen.append(args[2]) or fit_prior(*args, **kwargs)
    )
    choose_prior.main(PriorOptions(str(tmp_path / "model"), str(folder)))
    assert [type(prior).__name__ for prior in seen[0]] == ["NextItemPrior", "PopularityPrior", "SimilarityPrior"]
    assert isinstance(seen[0][2], SimilarityPrior) and TSRecTokenizer.from_pretrained(tmp_path / "model")
