"""A tiny catalogue, tokenizer and model, made in memory, for the tests and for the examples in docstrings."""

import doctest
import importlib.util
import re

import datasets
import pytest
import torch
from _pytest.doctest import DoctestItem
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)


# Modules that vLLM loads, beside it.
if importlib.util.find_spec("vllm") is None:
    collect_ignore = ["tsrec_hf/serving/vllm_model.py", "tsrec_hf/serving/vllm_processor.py"]

TITLES = {
    "hammer": "claw hammer",
    "nail": "steel nail",
    "screw": "steel screw",
    "saw": "hand saw",
    "apple": "red apple",
    "pear": "green pear",
    "bread": "rye bread",
    "cheese": "hard cheese",
}
CODES = [[0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 2, 1]]
WORDS = """
    tools metal fruit food fresh dairy sharp fastener handle steel red green hard claw hammer nail screw saw hand apple
    pear rye bread cheese like items chosen in order the next title of is : , . means which token a description for
    keywords
""".split()

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
BACKBONES = {
    "qwen2": lambda vocab, tied: Qwen2Config(
        vocab_size=vocab, num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=tied, **TINY
    ),
    "llama": lambda vocab, tied: LlamaConfig(
        vocab_size=vocab, num_key_value_heads=1, max_position_embeddings=256, tie_word_embeddings=tied, **TINY
    ),
    "gpt2": lambda vocab, tied: GPT2Config(
        vocab_size=vocab, n_embd=16, n_layer=2, n_head=4, n_positions=256, tie_word_embeddings=tied
    ),
    "gemma3": lambda vocab, tied: Gemma3TextConfig(
        vocab_size=vocab,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=256,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention"],
        tie_word_embeddings=tied,
        **TINY,
    ),
    # Distances instead of positions.
    "bloom": lambda vocab, tied: BloomConfig(
        vocab_size=vocab, hidden_size=16, n_layer=2, n_head=4, tie_word_embeddings=tied
    ),
    "mistral": lambda vocab, tied: MistralConfig(
        vocab_size=vocab,
        num_key_value_heads=2,
        max_position_embeddings=256,
        sliding_window=6,
        tie_word_embeddings=tied,
        **TINY,
    ),
    # Routers, and no loss of theirs.
    "llama4": lambda vocab, tied: Llama4TextConfig(
        vocab_size=vocab,
        num_key_value_heads=1,
        head_dim=8,
        num_local_experts=2,
        intermediate_size_mlp=32,
        max_position_embeddings=256,
        attention_chunk_size=256,
        tie_word_embeddings=tied,
        **TINY,
    ),
}


def make_backbone_tokenizer(add_bos: bool = False) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that knows the tiny catalogue's words, one token a word."""
    specials = ["<unk>", "<s>", "</s>", "<pad>"]
    vocabulary = {token: number for number, token in enumerate([*specials, *dict.fromkeys(WORDS)])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[:,.]"), behavior="isolated")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        **({"add_bos_token": True} if add_bos else {}),
    )


def save_backbone(folder, kind: str = "llama", tied: bool = True, padded_rows: int = 0, add_bos: bool = False) -> str:
    """
    Writes a tiny random backbone with its tokenizer, as a folder for `from_backbone`.

    The tokenizer stands in the subfolder `tokenizer` as well: beside a configuration of type `qwen2`, transformers
    would read it as Qwen2's own kind and lose the words.
    """
    tokenizer = make_backbone_tokenizer(add_bos)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(BACKBONES[kind](len(tokenizer) + padded_rows, tied))
    for parameter in model.parameters():
        # Default weights are so small that every SID would score alike.
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tokenizer.save_pretrained(f"{folder}/tokenizer")
    return str(folder)


def make_sid_index():
    from tsrec_hf import SIDIndex

    return SIDIndex(list(TITLES), CODES, titles=list(TITLES.values()))


def make_dataset():
    from tsrec_hf import RecommendationDataset

    def split(rows):
        users, histories, targets = zip(*rows)
        return datasets.Dataset.from_dict({"user_id": users, "history": histories, "target": targets})

    items = datasets.Dataset.from_dict(
        {"item_id": list(TITLES), "title": list(TITLES.values()), "description": ["a " + t for t in TITLES.values()]}
    )
    train = [
        ("ann", ["hammer"], "nail"),
        ("bob", ["apple"], "pear"),
        ("ann", ["hammer", "nail"], "saw"),
        ("bob", ["apple", "pear"], "bread"),
        ("ann", ["hammer", "nail", "saw"], "screw"),
        ("cid", ["bread"], "hammer"),
    ]
    valid = [("cid", ["bread", "hammer"], "nail"), ("ann", ["hammer", "nail", "saw", "screw"], "hammer")]
    test = [("bob", ["apple", "pear", "bread"], "cheese"), ("cid", ["bread", "hammer", "nail"], "bread")]
    return RecommendationDataset(
        items=items, train=split(train), valid=split(valid), test=split(test), sid_index=make_sid_index(), name="tiny"
    )


def make_semantics():
    from tsrec_hf import TokenDescription, TokenSemantics

    keywords = {
        "<a_0>": ["tools", "metal"],
        "<a_1>": ["food", "fresh"],
        "<b_0>": ["handle", "fruit"],
        "<b_1>": ["fastener", "steel"],
        "<b_2>": ["dairy", "hard"],
        "<c_0>": ["hammer", "steel", "rye bread"],
        "<c_1>": ["sharp", "green"],
    }
    return TokenSemantics(TokenDescription(t, f"{words[0]} items", words) for t, words in keywords.items())


_parse = doctest.DocTestParser.parse


def _parse_fenced(self, string: str, name: str = "<string>"):
    """Reads docstring examples that stand in a fence of backticks, whose last line is no expected output."""
    return _parse(self, re.sub(r"(?m)^\s*```.*$", "", string), name)


# pytest's finder holds a parser made at import, so the method is what can be replaced.
doctest.DocTestParser.parse = _parse_fenced


@pytest.fixture(scope="session")
def backbone_dir(tmp_path_factory):
    return save_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(name="save_backbone", scope="session")
def _save_backbone():
    """The function `save_backbone`, for tests that need another kind of backbone than `backbone_dir`."""
    return save_backbone


@pytest.fixture
def sid_index():
    return make_sid_index()


@pytest.fixture
def dataset():
    return make_dataset()


@pytest.fixture
def semantics():
    return make_semantics()


@pytest.fixture
def tokenizer(backbone_dir, sid_index):
    from tsrec_hf import TSRecTokenizer

    return TSRecTokenizer.from_backbone(backbone_dir, sid_index)


@pytest.fixture
def model(backbone_dir, tokenizer, semantics):
    from tsrec_hf import TSRecForCausalLM

    return TSRecForCausalLM.from_backbone(backbone_dir, tokenizer, semantics)


@pytest.fixture
def make_recommender(tmp_path, sid_index, semantics):
    """Makes a tiny recommender of any kind of backbone: `model, tokenizer = make_recommender("gpt2", tied=False)`."""
    from tsrec_hf import TSRecForCausalLM, TSRecTokenizer

    def make(kind: str = "llama", index=sid_index, semantics=semantics, **kwargs):
        folder = save_backbone(tmp_path / f"{kind}-{len(list(tmp_path.iterdir()))}", kind, **kwargs)
        tokenizer = TSRecTokenizer.from_backbone(f"{folder}/tokenizer", index)
        return TSRecForCausalLM.from_backbone(folder, tokenizer, semantics), tokenizer

    return make


@pytest.fixture
def datasets_cache(tmp_path, monkeypatch):
    """An empty folder in the place of the cache of `datasets`."""
    folder = tmp_path / "datasets-cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


@pytest.fixture(autouse=True)
def _names_in_docstrings(request):
    """Docstring examples may use the tiny catalogue, tokenizer and model by these names."""
    if isinstance(request.node, DoctestItem):
        names = request.getfixturevalue("doctest_namespace")
        source = "".join(example.source for example in request.node.dtest.examples)
        for name in ("sid_index", "dataset", "semantics", "tokenizer", "model"):
            if re.search(rf"\b{name}\b", source):
                names[name] = request.getfixturevalue(name)
