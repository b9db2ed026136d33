import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BloomConfig,
    FalconH1Config,
    GptOssConfig,
    JambaConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    MptConfig,
    Qwen3NextConfig,
    RobertaConfig,
)

from tsrec_hf import PromptBuilder, TSRecForCausalLM
from tsrec_hf.models import probing_tsrec, tree_passes_tsrec
from tsrec_hf.models.probing_tsrec import KINDS, Probe, fastest_kind


SIZES = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
TINY = {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 3}
ENCODER = {**SIZES, "num_attention_heads": 4, "pad_token_id": 3, "is_decoder": True}
CONFIGS = {
    "llama": lambda: LlamaConfig(**TINY),
    "window": lambda: MistralConfig(**TINY, sliding_window=12),
    "sinks": lambda: GptOssConfig(
        **TINY,
        head_dim=8,
        num_local_experts=4,
        sliding_window=12,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "routers": lambda: MixtralConfig(**TINY, num_local_experts=4, output_router_logits=True),
    "distances": lambda: BloomConfig(vocab_size=64, hidden_size=16, n_layer=2, n_head=4, pad_token_id=3),
    "more distances": lambda: MptConfig(vocab_size=64, d_model=16, n_layers=2, n_heads=4, expansion_ratio=2),
    "convolutions": lambda: Lfm2Config(**TINY, layer_types=["conv", "full_attention"]),
    "recurrent states": lambda: JambaConfig(
        **TINY, num_experts=2, attn_layer_period=2, attn_layer_offset=1, mamba_d_state=4, mamba_dt_rank=4
    ),
    "routers and recurrent states": lambda: Qwen3NextConfig(
        **TINY,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        linear_num_value_heads=2,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention"],
        output_router_logits=True,
    ),
    "positions by padding": lambda: RobertaConfig(**ENCODER),
    "an encoder's head": lambda: BertConfig(**ENCODER),
}


@pytest.fixture(autouse=True)
def nothing_found(monkeypatch):
    monkeypatch.setattr(probing_tsrec, "_found", {})


@pytest.fixture
def recommender_of(make_recommender, save_backbone, monkeypatch):
    """Makes a tiny recommender of a configuration."""

    def make(config):
        def resized(vocab, tied):
            config.vocab_size = vocab
            return config

        monkeypatch.setitem(save_backbone.__globals__["BACKBONES"], "this", resized)
        return make_recommender("this", semantics=None)

    return make


def make(name: str, std: float | None = 0.3):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    for parameter in model.parameters():
        if std and parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=std)
    model.tie_weights()
    return model


@pytest.mark.parametrize(
    "name, kind",
    [
        ("llama", "tree"),
        ("window", "tree"),
        ("sinks", "tree"),
        ("routers", "tree"),
        ("an encoder's head", "tree"),
        ("distances", "copies"),
        ("convolutions", "copies"),
        ("routers and recurrent states", "copies"),
        ("positions by padding", "plain"),
        ("recurrent states", "plain"),
    ],
)
def test_the_fastest_kind_that_is_right(name, kind) -> None:
    assert fastest_kind(Probe(make(name), 40)) == kind


@pytest.mark.parametrize(
    "name",
    [
        "window",
        "sinks",
        "routers",
        "distances",
        "more distances",
        "convolutions",
        "routers and recurrent states",
        "positions by padding",
    ],
)
def test_lists_are_those_of_plain_forward_passes(recommender_of, name) -> None:
    model, tokenizer = recommender_of(CONFIGS[name]())
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(std=0.3)
    histories = [["hammer"], ["apple", "pear", "bread", "cheese", "nail"]]
    found = model.recommend(tokenizer, histories, top_k=4, num_beams=8, scoring="vocabulary")
    sids = dict(zip(tokenizer.sid_index.item_ids, tokenizer.encode_sids(tokenizer.sid_index.item_ids)))
    for history, row in zip(histories, found):
        prompt = PromptBuilder(tokenizer).sequence_prompt_ids(history)
        scores = {}
        for item, ids in sids.items():
            with torch.no_grad():
                logits = model.backbone(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
            scores[item] = float(logits.log_softmax(-1).gather(-1, torch.tensor(ids).unsqueeze(-1)).sum())
        assert [r.score for r in row] == pytest.approx(sorted(scores.values(), reverse=True)[:4], abs=1e-4)
        assert [scores[r.item_id] for r in row] == pytest.approx([r.score for r in row], abs=1e-4)


MASK = tree_passes_tsrec.tree_attention_mask


def everyone(visible, *args):
    """A mask that is ignored: whoever came before is seen."""
    return MASK(torch.ones_like(visible).tril(visible.shape[-1] - visible.shape[-2]), *args)


def no_window(visible, queries, keys, config, dtype):
    return torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min).unsqueeze(1)


def by_column(self, input_ids, mask, positions, **kwargs):
    start = self._cache.get_seq_length()
    columns = torch.arange(start, start + input_ids.shape[1]).expand_as(positions)
    return RUN(self, input_ids, mask, columns, **kwargs)


RUN = tree_passes_tsrec.TreePasses._run


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
class TestMistakesAreFound:
    def test_none(self, dtype) -> None:
        for name in ("llama", "window"):
            probe = Probe(make(name).to(dtype), 40)
            assert all(probe.agrees(kind) for kind in ("tree", "packed", "copies", "plain"))

    @pytest.mark.parametrize("name, mask", [("llama", everyone), ("window", no_window)])
    def test_masks(self, monkeypatch, dtype, name, mask) -> None:
        monkeypatch.setattr(tree_passes_tsrec, "tree_attention_mask", mask)
        probe = Probe(make(name).to(dtype), 40)
        assert not probe.agrees("tree") and not probe.agrees("packed") and probe.agrees("copies")

    def test_positions(self, monkeypatch, dtype) -> None:
        monkeypatch.setattr(tree_passes_tsrec.TreePasses, "_run", by_column)
        assert not Probe(make("llama").to(dtype), 40).agrees("tree")

    def test_copies_in_another_order(self, monkeypatch, dtype) -> None:
        from transformers import DynamicCache

        reorder = DynamicCache.reorder_cache
        monkeypatch.setattr(DynamicCache, "reorder_cache", lambda self, rows: reorder(self, rows.flip(0)))
        assert not Probe(make("llama").to(dtype), 40).agrees("copies")


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_products_of_less_precision_are_no_mistake(precision) -> None:
    """`float32` weights whose products are those of bfloat16, where a processor has units for them."""
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        probe = Probe(make("llama"))
        assert fastest_kind(probe) == "tree" and probe.agrees("packed")
        assert probe.dtype in (torch.float16, torch.bfloat16)
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_window_matters_where_sequences_are_longer(monkeypatch) -> None:
    monkeypatch.setattr(tree_passes_tsrec, "tree_attention_mask", no_window)
    assert Probe(make("window"), 12).agrees("tree")
    assert not Probe(make("window"), 13).agrees("tree")
    assert Probe(make("window"), 12).agrees("tree")


def counted(model) -> list[int]:
    """Tokens of every forward pass of a model from now on."""
    tokens = []
    model.get_input_embeddings().register_forward_pre_hook(lambda module, args: tokens.append(args[0].numel()))
    return tokens


def test_findings_are_kept_for_the_process() -> None:
    model = make("llama")
    tokens = counted(model)
    assert fastest_kind(Probe(model, 60)) == "tree" and tokens
    again = make("llama")
    tokens = counted(again)
    assert fastest_kind(Probe(again, 60)) == "tree" and not tokens
    other = make("llama")
    other.config.rope_parameters = {"rope_type": "default", "rope_theta": 100.0}
    fastest_kind(Probe(other, 60))
    fastest_kind(Probe(make("llama").to(torch.bfloat16), 60))
    assert len(probing_tsrec._found) == 3


@pytest.mark.parametrize(
    "name, passes, tokens",
    [
        ("llama", 5 + 2, 36 + 9),  # plain rows; prefix, prompts, two levels; packed prompts and one level
        ("convolutions", 5, 48),  # plain rows; the prefix, which leaves no keys; prompts and their paths
    ],
)
def test_it_costs_less_than_one_prompt_where_no_length_matters(name, passes, tokens) -> None:
    model = make(name)
    found = counted(model)
    probe = Probe(model, 100)
    if fastest_kind(probe) == "tree":
        probe.agrees("packed")
    assert (len(found), sum(found)) == (passes, tokens)


@pytest.mark.parametrize("length", [96, 400])
@pytest.mark.parametrize("kind", ["tree", "copies"])
def test_it_costs_less_than_three_prompts_where_a_window_is_as_long(monkeypatch, length, kind) -> None:
    config = MistralConfig(**TINY, sliding_window=length - 1)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    if kind == "copies":
        monkeypatch.setattr(tree_passes_tsrec, "tree_attention_mask", everyone)
    tokens = counted(model)
    probe = Probe(model, length)
    assert fastest_kind(probe) == kind
    # All that a search asks for.
    assert probe.agrees("packed") == (kind == "tree")
    assert 2 * length < sum(tokens) < 3 * length


def test_what_rounding_hides_is_not_kept() -> None:
    # Weights that a model starts from, where contexts hardly matter.
    assert Probe(make("llama", std=1e-5).to(torch.bfloat16), 40).agrees("tree")
    assert not probing_tsrec._found
    assert Probe(make("llama").to(torch.bfloat16), 40).agrees("tree")
    assert len(probing_tsrec._found) == 1


def test_what_is_not_causal_is_refused() -> None:
    model = make("an encoder's head")
    model.config.is_decoder = False
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
    with pytest.raises(ValueError, match="`BertLMHeadModel` cannot recommend: its logits depend on the tokens behind"):
        fastest_kind(Probe(model, 40))


def test_what_runs_no_plain_pass_is_refused(monkeypatch) -> None:
    model = make("llama")
    monkeypatch.setattr(model, "forward", lambda input_ids, **kwargs: 1 / 0)
    with pytest.raises(ValueError, match="cannot recommend: a plain forward pass of 9 tokens ends in ZeroDivisionErr"):
        fastest_kind(Probe(model, 12))


def test_nan_is_left_to_the_search(model, tokenizer) -> None:
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="scores that are numbers"):
        model.recommend(tokenizer, [["hammer"]], top_k=2)
    assert not probing_tsrec._found


def test_every_kind_has_its_passes() -> None:
    assert list(KINDS) == ["tree", "copies", "plain"]


def test_buffers_that_are_not_saved_come_back(recommender_of, tmp_path) -> None:
    mamba = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
    model, _ = recommender_of(FalconH1Config(**TINY, **mamba))
    model.save_pretrained(tmp_path / "saved")
    loaded = TSRecForCausalLM.from_pretrained(tmp_path / "saved")
    buffers = dict(loaded.named_buffers())
    assert buffers and all(torch.equal(buffers[name], buffer) for name, buffer in model.named_buffers())


def test_attention_is_what_the_backbone_supports(make_recommender, tmp_path) -> None:
    model, tokenizer = make_recommender("bloom")
    assert not model._supports_sdpa and model.backbone.config._attn_implementation == "eager"
    model.save_pretrained(tmp_path / "saved")
    loaded = TSRecForCausalLM.from_pretrained(tmp_path / "saved")
    assert loaded.backbone.config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="does not support an attention implementation"):
        TSRecForCausalLM.from_pretrained(tmp_path / "saved", attn_implementation="sdpa")
    model, _ = make_recommender("llama")
    assert model._supports_sdpa and model.backbone.config._attn_implementation == "sdpa"
