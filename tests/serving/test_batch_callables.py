import pickle

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import BoW

from tsrec_hf.serving import EmbedBatch, EncodeBatch, RecommendBatch
from tsrec_hf.sids import ResidualKMeans, embed_items


USERS = {
    "user_id": ["ann", "bob", "cid"],
    "history": [["hammer"], ["apple", "pear"], ["nail", "saw", "screw"]],
    "returned": [["nail"], [], ["bread", "hammer"]],
}


@pytest.fixture
def folder(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_recommends_as_the_model_does(folder, model, tokenizer):
    of_users = {"exclude_items": "returned"}
    recommend = RecommendBatch(folder, of_users=of_users, device="cpu", top_k=4, exclude_history=True)
    lists = model.recommend(
        tokenizer, USERS["history"], top_k=4, exclude_history=True, exclude_items=USERS["returned"]
    )
    expected = {
        "user_id": USERS["user_id"],
        "items": [[item.item_id for item in one] for one in lists],
        "scores": [[pytest.approx(item.score, abs=1e-6) for item in one] for one in lists],
    }
    assert recommend(USERS) == expected
    assert recommend(pa.table(USERS)).to_pydict() == expected
    as_numpy = {name: np.array([np.array(v) for v in USERS[name]], dtype=object) for name in ("history", "returned")}
    assert recommend({"user_id": np.array(USERS["user_id"]), **as_numpy}) == expected
    rows = Dataset.from_dict(USERS).map(recommend, batched=True, batch_size=2, remove_columns=["history", "returned"])
    assert rows.to_dict() == expected


def test_no_model_is_sent(folder):
    recommend = RecommendBatch(folder, device="cpu", top_k=2)
    small = len(pickle.dumps(recommend))
    made = recommend(USERS)
    assert len(pickle.dumps(recommend)) == small < 1000
    assert pickle.loads(pickle.dumps(recommend))(USERS) == made


def test_missing_columns_are_named(folder):
    with pytest.raises(ValueError, match=r"columns \['past', 'user_id'\], but \['past'\] are missing"):
        RecommendBatch(folder, history="past")(USERS)


def test_embeds_and_encodes(tmp_path):
    encoder = SentenceTransformer(modules=[BoW(["hammer", "steel", "nail", "saw"])], device="cpu")
    encoder.save(str(tmp_path / "encoder"))
    items = {"item_id": ["a", "b", "c"], "title": ["hammer steel", "nail", "saw nail"]}
    embed = EmbedBatch(tmp_path / "encoder", device="cpu")
    made = embed(items)
    expected = embed_items(Dataset.from_dict(items), encoder, fields={"title": 1.0})
    assert np.array(made["embedding"], dtype=np.float32) == pytest.approx(expected)
    quantizer = ResidualKMeans([2, 2]).fit(expected)
    quantizer.save(tmp_path)
    encode = EncodeBatch(tmp_path)
    assert encode(made) == {"item_id": items["item_id"], "codes": quantizer.encode(expected).tolist()}
    with pytest.raises(ValueError, match="vectors of one width"):
        encode({"item_id": ["a", "b"], "embedding": [[1.0, 2.0, 3.0, 4.0], [1.0]]})
