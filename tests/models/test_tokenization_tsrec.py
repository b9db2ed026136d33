import copy
import json
import pickle
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AddedToken,
    AutoTokenizer,
    GemmaTokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)

from tsrec_hf.models import PROMPT_VERSION, SIDIndex, TSRecTokenizer


TEXTS = [
    "steel nail",
    "  like   hammer, items chosen in order: ",
    "unknownword",
    "",
    "<s>hammer</s>",
    ["red apple", "rye bread , hard cheese"],
]
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture
def rich_backbone(backbone_dir, tmp_path) -> str:
    """A tokenizer with all that a tokenizer can carry: more special tokens, a chat template, settings of its own."""
    base = AutoTokenizer.from_pretrained(
        backbone_dir, padding_side="left", truncation_side="left", model_max_length=77
    )
    base.add_special_tokens(
        {"extra_special_tokens": ["<|start|>", "<|end|>"], "mask_token": AddedToken("<mask>", lstrip=True)}
    )
    base.add_tokens(["gizmo"])
    base.chat_template = CHAT_TEMPLATE
    base.save_pretrained(tmp_path / "rich")
    return str(tmp_path / "rich")


@pytest.fixture
def bpe_backbone(tmp_path) -> str:
    """A byte-level BPE tokenizer, the kind most language models have."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(["steel nail, steel screw: claw hammer, hand saw. Items chosen in order"], trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>").save_pretrained(tmp_path / "bpe")
    return str(tmp_path / "bpe")


def encodings(tokenizer, texts=TEXTS) -> list[dict]:
    return [dict(tokenizer(text)) for text in texts] + [dict(tokenizer(texts[-1], padding=True))]


def test_text_is_encoded_as_the_backbone_encodes_it(backbone_dir, sid_index) -> None:
    base = AutoTokenizer.from_pretrained(backbone_dir)
    tokenizer = TSRecTokenizer.from_backbone(backbone_dir, sid_index)
    assert encodings(tokenizer) == encodings(base)
    vocabulary = tokenizer.get_vocab()
    assert {token: vocabulary[token] for token in base.get_vocab()} == base.get_vocab()
    assert tokenizer.special_tokens_map == base.special_tokens_map
    assert tokenizer.all_special_ids == base.all_special_ids
    ids = base("steel nail").input_ids
    assert tokenizer.decode(ids) == base.decode(ids)


def test_a_rich_backbone_keeps_everything(rich_backbone, sid_index) -> None:
    base = AutoTokenizer.from_pretrained(rich_backbone)
    tokenizer = TSRecTokenizer.from_backbone(rich_backbone, sid_index)
    texts = [*TEXTS[:-1], "like <mask> hammer", "<|start|>gizmo hammer<|end|>", ["red apple", "rye bread , hard"]]
    assert encodings(tokenizer, texts) == encodings(base, texts)
    for skip in (True, False):
        ids = base("<|start|>like gizmo<|end|></s>").input_ids
        assert tokenizer.decode(ids, skip_special_tokens=skip) == base.decode(ids, skip_special_tokens=skip)
    for name in ("padding_side", "truncation_side", "model_max_length", "chat_template", "extra_special_tokens"):
        assert getattr(tokenizer, name) == getattr(base, name), name
    assert tokenizer.padding_side == "left" and tokenizer.model_max_length == 77
    assert tokenizer.model_input_names == base.model_input_names
    assert tokenizer.sid_token_ids[0][0] == len(base)


def test_byte_level_bpe(bpe_backbone, sid_index) -> None:
    base = AutoTokenizer.from_pretrained(bpe_backbone)
    tokenizer = TSRecTokenizer.from_backbone(bpe_backbone, sid_index)
    texts = ["steel  nail, ü 🛠", " hammer", "a\nb", ["x", "yy zz"]]
    assert base.pad_token is None and tokenizer.pad_token == "<|end|>"  # Batches must be padded by something.
    assert [tokenizer(text).input_ids for text in texts] == [base(text).input_ids for text in texts]
    text = "steel<a_0><b_1><c_0> nail <a_1>"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def word_pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    letters = sorted(set("steelnailscrewhammer"))
    pieces = ["<unk>", "<s>", "</s>", "<pad>", "<eos>", "<bos>", "\u2581", *letters, *("\u2581" + c for c in letters)]
    return {piece: number for number, piece in enumerate(pieces)}, [("\u2581", letter) for letter in letters]


def byte_pieces() -> dict[str, int]:
    return {
        piece: number for number, piece in enumerate(["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }


@pytest.mark.parametrize(
    "make_base",
    [
        lambda: LlamaTokenizer(*word_pieces(), add_bos_token=True),
        lambda: LlamaTokenizer(*word_pieces(), add_bos_token=False),
        lambda: GemmaTokenizer(*word_pieces()),
        lambda: GPT2Tokenizer(byte_pieces(), []),
        lambda: GPT2Tokenizer(byte_pieces(), [], add_prefix_space=True),
        lambda: Qwen2Tokenizer(byte_pieces(), []),
    ],
    ids=["llama with bos", "llama", "gemma", "gpt2", "gpt2 with space", "qwen2"],
)
def test_tokenizers_with_classes_of_their_own(make_base, sid_index, tmp_path) -> None:
    make_base().save_pretrained(tmp_path / "base")
    base = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert type(base) is type(make_base())
    made = TSRecTokenizer.from_backbone(tmp_path / "base", sid_index)
    made.save_pretrained(tmp_path / "saved")
    for tokenizer in (made, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        for text in ("steel nail", "  steel   nail ", "nail", "</s>nail\n hammer", "X\u00fc \U0001f6e0", ""):
            ids = base(text).input_ids
            assert tokenizer(text).input_ids == ids
            for skip in (True, False):
                expected = base.decode(ids, skip_special_tokens=skip)
                assert tokenizer.decode(ids, skip_special_tokens=skip) == expected
        pieces = tokenizer.tokenize("steel<a_0><b_1><c_0> nail<a_1>")
        start = pieces.index("<a_0>")
        assert pieces[start : start + 3] == ["<a_0>", "<b_1>", "<c_0>"] and pieces[-1] == "<a_1>"
        assert pieces[:start] == base.tokenize("steel")


def test_new_ids_follow_the_backbones(tokenizer, backbone_dir) -> None:
    first = len(AutoTokenizer.from_pretrained(backbone_dir))
    assert tokenizer.sid_token_ids == [
        [first, first + 1],
        [first + 2, first + 3, first + 4],
        [first + 5, first + 6],
    ]
    assert len(tokenizer) == first + 7
    for ids, tokens in zip(tokenizer.sid_token_ids, tokenizer.sid_index.tokens):
        assert tokenizer.convert_ids_to_tokens(ids) == tokens


def test_adjacent_sids_are_one_token_each(tokenizer) -> None:
    text = "hammer<a_0><b_1><c_0><a_1><b_2><c_1>nail <a_0> <b_0>saw"
    tokens = ["hammer", "<a_0>", "<b_1>", "<c_0>", "<a_1>", "<b_2>", "<c_1>", "nail", "<a_0>", "<b_0>", "saw"]
    assert tokenizer.tokenize(text) == tokens
    assert tokenizer.tokenize("x<a_0>y<a_7>")[1] == "<a_0>"
    assert "<unk>" in tokenizer.tokenize("<a_7>")  # no token of this index


def test_sids_are_not_stripped_with_the_special_tokens(tokenizer) -> None:
    ids = tokenizer("<s>hammer<a_0><b_1></s>").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).split() == ["hammer", "<a_0>", "<b_1>"]
    assert not set(sum(tokenizer.sid_token_ids, [])) & set(tokenizer.all_special_ids)


def test_encode_sids(tokenizer) -> None:
    items = ["cheese", "nail", "screw", "nail"]
    expected = [tokenizer(tokenizer.sid_index.sid_of(item), add_special_tokens=False).input_ids for item in items]
    assert tokenizer.encode_sids(items) == expected
    assert tokenizer.encode_sids([]) == []
    with pytest.raises(KeyError, match="'spoon' is not among the 8 items"):
        tokenizer.encode_sids(["nail", "spoon"])


class TestSaveAndLoad:
    def check_same(self, loaded, tokenizer) -> None:
        assert type(loaded) is TSRecTokenizer
        texts = [*TEXTS, "like <mask> gizmo<a_0><b_1><c_0><|end|>"]
        assert [loaded(text) for text in texts] == [tokenizer(text) for text in texts]
        assert loaded.get_vocab() == tokenizer.get_vocab()
        assert loaded.sid_index == tokenizer.sid_index and loaded.sid_token_ids == tokenizer.sid_token_ids
        assert loaded.prompt_version == tokenizer.prompt_version == PROMPT_VERSION
        assert loaded.special_tokens_map == tokenizer.special_tokens_map
        assert loaded.all_special_tokens == tokenizer.all_special_tokens
        for name in ("padding_side", "truncation_side", "model_max_length", "chat_template", "extra_special_tokens"):
            assert getattr(loaded, name) == getattr(tokenizer, name), name

    @pytest.mark.parametrize("load", [TSRecTokenizer.from_pretrained, AutoTokenizer.from_pretrained])
    def test_identical(self, rich_backbone, sid_index, tmp_path, load) -> None:
        tokenizer = TSRecTokenizer.from_backbone(rich_backbone, sid_index)
        files = tokenizer.save_pretrained(tmp_path / "one")
        assert str(tmp_path / "one" / "sid_index.safetensors") in map(str, files)
        loaded = load(str(tmp_path / "one"))
        self.check_same(loaded, tokenizer)
        loaded.save_pretrained(tmp_path / "two")  # The second generation as well, after the first one is gone.
        shutil.rmtree(tmp_path / "one")
        shutil.rmtree(rich_backbone)
        self.check_same(load(str(tmp_path / "two")), tokenizer)
        assert str(tmp_path) not in (tmp_path / "two" / "tokenizer_config.json").read_text()

    def test_byte_level_bpe(self, bpe_backbone, sid_index, tmp_path) -> None:
        tokenizer = TSRecTokenizer.from_backbone(bpe_backbone, sid_index)
        tokenizer.save_pretrained(tmp_path / "saved")
        loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
        self.check_same(loaded, tokenizer)
        text = "steel nail, ü<a_0><b_1><c_0>  hammer"
        assert loaded.decode(loaded(text).input_ids) == text

    def test_settings_changed_later_are_saved(self, tokenizer, tmp_path) -> None:
        tokenizer.padding_side = "left"
        tokenizer.chat_template = CHAT_TEMPLATE
        tokenizer.pad_token = "</s>"
        tokenizer.save_pretrained(tmp_path)
        loaded = TSRecTokenizer.from_pretrained(tmp_path)
        assert (loaded.padding_side, loaded.chat_template, loaded.pad_token) == ("left", CHAT_TEMPLATE, "</s>")

    @pytest.mark.parametrize("clone", [copy.deepcopy, lambda tokenizer: pickle.loads(pickle.dumps(tokenizer))])
    def test_pickle_and_deepcopy(self, tokenizer, clone) -> None:
        self.check_same(clone(tokenizer), tokenizer)

    def test_folder_without_index(self, tokenizer, tmp_path) -> None:
        tokenizer.save_pretrained(tmp_path)
        (tmp_path / "sid_index.safetensors").unlink()
        for load in (TSRecTokenizer.from_pretrained, AutoTokenizer.from_pretrained):
            with pytest.raises(FileNotFoundError, match="'sid_index.safetensors' beside the tokenizer.*no such file"):
                load(tmp_path)

    def test_a_plain_backbones_folder(self, backbone_dir) -> None:
        with pytest.raises(FileNotFoundError, match="make one with `TSRecTokenizer.from_backbone`"):
            TSRecTokenizer.from_pretrained(backbone_dir)

    def test_truncated_index(self, tokenizer, tmp_path) -> None:
        tokenizer.save_pretrained(tmp_path)
        path = tmp_path / "sid_index.safetensors"
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(ValueError, match="truncated"):
            TSRecTokenizer.from_pretrained(tmp_path)

    @pytest.mark.parametrize(
        "other",
        [
            SIDIndex(["1", "2"], [[0, 0], [8, 1]]),  # tokens that the tokenizer does not have
            SIDIndex(["1", "2"], [[0, 0, 1], [1, 2, 0]]),  # the same tokens, other items
        ],
        ids=["other tokens", "other items"],
    )
    def test_index_of_another_checkpoint(self, tokenizer, tmp_path, other) -> None:
        tokenizer.save_pretrained(tmp_path)
        other.save(tmp_path)
        with pytest.raises(ValueError, match="belong to different checkpoints"):
            TSRecTokenizer.from_pretrained(tmp_path)

    def test_tokens_missing_from_the_tokenizer(self, tokenizer, tmp_path) -> None:
        # As a folder whose tokenizer was written without the index's fingerprint.
        tokenizer.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "tokenizer_config.json").read_text())
        del config["tsrec_sid_index_fingerprint"]
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        assert TSRecTokenizer.from_pretrained(tmp_path).sid_index == tokenizer.sid_index
        SIDIndex(["1", "2"], [[0, 0], [8, 1]]).save(tmp_path)
        with pytest.raises(ValueError, match="'<a_2>', which is not a token of the tokenizer"):
            TSRecTokenizer.from_pretrained(tmp_path)


class TestFromBackbone:
    def test_wants_an_index(self, backbone_dir, sid_index, tmp_path) -> None:
        with pytest.raises(TypeError, match="`sid_index` to be a `SIDIndex`, but found `PosixPath`"):
            TSRecTokenizer.from_backbone(backbone_dir, sid_index.save(tmp_path))

    def test_arguments_reach_the_backbones_tokenizer(self, backbone_dir, sid_index) -> None:
        tokenizer = TSRecTokenizer.from_backbone(Path(backbone_dir), sid_index, padding_side="left", eos_token="<s>")
        assert tokenizer.padding_side == "left" and tokenizer.eos_token == "<s>"

    @pytest.mark.parametrize("token", ["<pad>", "<s>"])
    def test_a_sid_token_that_the_backbone_knows(self, backbone_dir, token) -> None:
        # Its row would be overwritten, and the vocabulary before it taken for the whole one.
        index = SIDIndex(["1", "2"], [[0, 0], [0, 1]], tokens=[["<a_0>"], ["<b_0>", token]])
        with pytest.raises(ValueError, match=f"new to .*holds '{token}'.*overwritten"):
            TSRecTokenizer.from_backbone(backbone_dir, index)

    def test_a_checkpoint_in_place_of_a_backbone(self, tokenizer, tmp_path) -> None:
        tokenizer.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="holds '<a_0>'.*TSRecTokenizer.from_pretrained"):
            TSRecTokenizer.from_backbone(tmp_path, tokenizer.sid_index)

    def test_a_backbone_without_an_end_token(self, backbone_dir, sid_index, tmp_path) -> None:
        base = AutoTokenizer.from_pretrained(backbone_dir)
        base.eos_token = None
        base.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="end token.*it has none.*eos_token="):
            TSRecTokenizer.from_backbone(tmp_path, sid_index)
        assert TSRecTokenizer.from_backbone(tmp_path, sid_index, eos_token="</s>").eos_token_id == base.vocab["</s>"]
