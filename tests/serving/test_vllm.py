"""What stands between vLLM and the search: quick tests with an engine made of our model, slow ones with vLLM's own."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from tsrec_hf import PopularityPrior, export_backbone, recommend_vllm
from tsrec_hf.serving import SIDConstraint
from tsrec_hf.serving.vllm_search import _constraint_of_engine


needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
ITEMS = ["hammer", "nail", "saw", "pear", "apple", "bread", "cheese"]
HISTORIES = [["hammer", "nail"], ["apple"], ["bread", "pear", "saw"]]
OPTIONS = [
    {},
    {"top_k": 3, "num_beams": 3},
    {"top_k": 4, "exclude_history": True, "exclude_items": ["cheese"]},
    {"top_k": 2, "allowed_items": [["nail"], ["bread", "cheese"], ITEMS]},
    {"top_k": 4, "prior": {"cheese": 20.0, "nail": 0.0}, "prior_weight": 0.5},
    {"top_k": 4, "prior": {"cheese": 20.0}, "prior_form": "mixture"},
    {"top_k": 3, "search": "exact"},
]


def assert_same(lists, expected):
    assert [[item.item_id for item in row] for row in lists] == [[item.item_id for item in row] for row in expected]
    for row, wanted in zip(lists, expected):
        for item, other in zip(row, wanted):
            assert item.score == pytest.approx(other.score, abs=1e-4) and item[3:4] == other[3:4]


################
# The processor, behind names of vLLM
################
def process_dict_updates(entries, batch_update, new_state):
    """vLLM's, for requests that come."""
    for index, *request in batch_update or ():
        entries[index] = new_state(*request)
        if entries[index] is None:
            del entries[index]


@pytest.fixture
def processor_class(monkeypatch):
    """The processor's module, imported beside a vLLM that has names alone."""
    if importlib.util.find_spec("vllm") is None:
        names = {
            "vllm": {"SamplingParams": SimpleNamespace},
            "vllm.config": {"VllmConfig": SimpleNamespace},
            "vllm.v1": {},
            "vllm.v1.sample": {},
            "vllm.v1.sample.logits_processor": {"BatchUpdate": object, "LogitsProcessor": object},
            "vllm.v1.sample.logits_processor.builtin": {"process_dict_updates": process_dict_updates},
        }
        for name, attributes in names.items():
            module = ModuleType(name)
            vars(module).update(attributes)
            monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "tsrec_hf.serving.vllm_processor", raising=False)
    from tsrec_hf.serving.vllm_processor import SIDLogitsProcessor

    monkeypatch.setattr("tsrec_hf.serving.vllm_processor.process_dict_updates", process_dict_updates)
    yield SIDLogitsProcessor
    sys.modules.pop("tsrec_hf.serving.vllm_processor")


def params(**extra_args):
    return SimpleNamespace(extra_args=extra_args or None)


def config_of(folder):
    return SimpleNamespace(model_config=SimpleNamespace(model=str(folder), revision=None))


def test_the_processor_keeps_requests_to_sids(processor_class, tokenizer, model, tmp_path):
    folder = export_backbone(model, tmp_path / "export", tokenizer)
    processor = processor_class(config_of(folder), torch.device("cpu"), False)
    assert not processor.is_argmax_invariant()
    ids = tokenizer.convert_tokens_to_ids
    answer = []
    processor.update_state(
        [
            (0, params(), ids(["<a_0>", "<b_0>", "<c_0>"]), answer),
            (1, params(), ids(["like", "<a_1>", "<b_1>"]), []),
            (2, params(valid_sids_only=False), ids(["like"]), []),
        ]
    )
    size = len(tokenizer)

    def allowed():
        logits = processor.apply(torch.zeros(3, size))
        return [tokenizer.convert_ids_to_tokens((row > -torch.inf).nonzero().flatten()) for row in logits]

    first, second, third = allowed()
    assert (first, second, len(third)) == (["<a_0>", "<a_1>"], ["<c_0>"], size)
    answer.append(ids("<a_1>"))  # as the engine does, without telling
    processor.update_state(None)
    assert allowed()[0] == ["<b_0>", "<b_1>", "<b_2>"]
    answer.append(-1)
    with pytest.raises(RuntimeError, match="async_scheduling=False"):
        allowed()


def test_the_processor_leaves_other_models_alone(processor_class, backbone_dir):
    processor = processor_class(config_of(backbone_dir), torch.device("cpu"), False)
    processor.update_state([(0, params(), [1], [])])
    assert processor.is_argmax_invariant() and torch.equal(processor.apply(torch.ones(1, 5)), torch.ones(1, 5))


def test_the_switch_is_checked(processor_class):
    processor_class.validate_params(params()), processor_class.validate_params(params(valid_sids_only=False))
    with pytest.raises(ValueError, match="`valid_sids_only` in `extra_args` .* found 'no'"):
        processor_class.validate_params(params(valid_sids_only="no"))


################
# The driver, with an engine of our own
################
class Engine:
    """Answers requests as vLLM does, with a model of transformers and the constraint in the processor's place."""

    def __init__(self, model, folder, **settings):
        settings = {"logprobs_mode": "processed_logprobs", "max_logprobs": -1, **settings}
        config = SimpleNamespace(model=str(folder), revision=None, dtype=torch.float32, **settings)
        self.llm_engine = SimpleNamespace(model_config=config)
        self.model, self.constraint, self.num_requests = model, SIDConstraint.of_model(folder), 0

    def generate(self, inputs, sampling_params, use_tqdm):
        self.num_requests += len(inputs)
        return [self._answer(request["prompt_token_ids"], sampling_params.logprobs) for request in inputs]

    @torch.inference_mode()
    def _answer(self, token_ids, number):
        logits = self.model(input_ids=torch.tensor([token_ids])).logits[:, -1].float()
        if self.constraint is not None:
            self.constraint.restrict(logits, [0], [self.constraint.prefix_of(token_ids)])
        values, tokens = logits.log_softmax(-1)[0].topk(number)
        logprobs = SimpleNamespace(logprobs=values.tolist(), token_ids=tokens.tolist())
        return SimpleNamespace(outputs=[SimpleNamespace(logprobs=logprobs)])


@pytest.fixture
def folder(model, tokenizer, tmp_path):
    _constraint_of_engine.cache_clear()
    return export_backbone(model, tmp_path / "export", tokenizer)


@pytest.fixture
def engine(model, folder, monkeypatch):
    if importlib.util.find_spec("vllm") is None:
        module = ModuleType("vllm")
        module.SamplingParams = SimpleNamespace
        monkeypatch.setitem(sys.modules, "vllm", module)
    return Engine(model, folder)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_lists_are_those_of_recommend(engine, model, tokenizer, options):
    lists = recommend_vllm(engine, tokenizer, HISTORIES, **options)
    assert_same(lists, model.recommend(tokenizer, HISTORIES, **options))


def test_a_prefix_is_a_request(engine, tokenizer):
    recommend_vllm(engine, tokenizer, HISTORIES, top_k=2, num_beams=2)
    assert engine.num_requests == 3 * (1 + 2 + 2)


def test_the_fitted_prior_and_a_smaller_catalogue(engine, model, tokenizer, dataset):
    tokenizer.set_prior(PopularityPrior.fit(dataset.train, tokenizer.sid_index))
    tokenizer.sid_index = tokenizer.sid_index.without_items(["cheese"])
    histories = [["hammer", "cheese"], ["apple"]]
    options = {"unknown_items": "drop", "top_k": 5}
    assert_same(
        recommend_vllm(engine, tokenizer, histories, **options), model.recommend(tokenizer, histories, **options)
    )
    assert recommend_vllm(engine, tokenizer, [], top_k=1) == []
    with pytest.raises(KeyError, match="cheese"):
        recommend_vllm(engine, tokenizer, histories)


def test_engines_that_cannot_answer_are_refused(engine, model, tokenizer, folder, backbone_dir):
    for settings in ({"logprobs_mode": "raw_logprobs"}, {"max_logprobs": 2}):
        with pytest.raises(ValueError, match="processed_logprobs.* `max_logprobs` of -1 or at least 3, but found"):
            recommend_vllm(Engine(model, folder, **settings), tokenizer, HISTORIES)
    with pytest.raises(ValueError, match="holds no SIDs"):
        recommend_vllm(Engine(model, backbone_dir), tokenizer, HISTORIES)
    engine.constraint = None
    with pytest.raises(ValueError, match="logits processor is not loaded. Install"):
        recommend_vllm(engine, tokenizer, HISTORIES)
    tokenizer.sid_index = tokenizer.sid_index.with_items(["axe"], codes=[[1, 2, 0]])
    with pytest.raises(ValueError, match="but 1 are unknown to it"):
        recommend_vllm(engine, tokenizer, HISTORIES)


################
# vLLM's engine
################
@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize("form", ["checkpoint", "export"])
def test_lists_of_the_real_engine(form, save_backbone, sid_index, semantics, tmp_path, monkeypatch):
    """Of a model that vLLM has kernels for: the one of all other tests has heads of 4."""
    from transformers import AutoModelForCausalLM, LlamaConfig
    from vllm import LLM
    from vllm.sampling_params import BeamSearchParams

    from tsrec_hf import TSRecForCausalLM, TSRecTokenizer

    backbone = save_backbone(tmp_path / "backbone")
    torch.manual_seed(0)
    small = LlamaConfig.from_pretrained(
        backbone, hidden_size=128, intermediate_size=128, num_attention_heads=2, head_dim=64
    )
    AutoModelForCausalLM.from_config(small).save_pretrained(backbone)
    tokenizer = TSRecTokenizer.from_backbone(backbone, sid_index)
    model = TSRecForCausalLM.from_backbone(backbone, tokenizer, semantics)
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder), tokenizer.save_pretrained(folder)
    if form == "export":
        folder = export_backbone(model, tmp_path / "export", tokenizer)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    settings = {"dtype": "float32", "max_model_len": 128, "enforce_eager": True, "max_logprobs": -1}
    llm = LLM(str(folder), logprobs_mode="processed_logprobs", **settings)
    for options in OPTIONS:
        lists = recommend_vllm(llm, tokenizer, HISTORIES, **options)
        assert_same(lists, model.recommend(tokenizer, HISTORIES, **options))
    # vLLM's own beam search, with the processor in it.
    prompts = [{"prompt_token_ids": tokenizer.encode("like", add_special_tokens=False)}]
    beams = BeamSearchParams(beam_width=5, max_tokens=3, ignore_eos=True, length_penalty=0.0)
    [output] = llm.beam_search(prompts, beams)
    sids = {"".join(tokenizer.convert_ids_to_tokens(beam.tokens[1:])) for beam in output.sequences}
    assert len(sids) == 5 and all(sid_index.items_of(sid) for sid in sids)
