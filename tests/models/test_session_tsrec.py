"""What a search session promises: a snapshot, and a model that is left as it was."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from tsrec_hf import NextItemPrior
from tsrec_hf.models import ItemPrior, PriorWeights, SearchSession, SIDSearch, recommending_tsrec
from tsrec_hf.models.evaluation_view_tsrec import evaluation_view
from tsrec_hf.models.filtering_tsrec import ItemFilter


HISTORIES = [["hammer", "nail"], ["apple"], ["bread", "cheese", "pear"], ["saw"]]


def test_tokens_and_items_of_leaves(model, tokenizer) -> None:
    session = SearchSession(model, tokenizer)
    every = torch.arange(session.trie.num_leaves)
    for leaf, token_ids in zip(every.tolist(), session.tokens_of(every).tolist()):
        items = [session.index.item_ids[row] for row in session.items_of(leaf)]
        assert items and tokenizer.encode_sids(items) == [token_ids] * len(items)


def test_a_user_alone_takes_no_pass_for_the_instruction(model, tokenizer) -> None:
    passes: list[dict] = []
    model.recommend(tokenizer, HISTORIES, top_k=8, num_beams=8)  # probes the backbone, once
    model.base_model.register_forward_pre_hook(lambda module, args, kwargs: passes.append(kwargs), with_kwargs=True)
    together = model.recommend(tokenizer, HISTORIES, top_k=8, num_beams=8)
    num_levels = tokenizer.sid_index.num_levels
    assert len(passes) == 1 + num_levels  # that of the instruction, which all share
    for history, expected in zip(HISTORIES, together, strict=True):
        passes.clear()
        [found] = model.recommend(tokenizer, [history], top_k=8, num_beams=8)
        assert len(passes) == num_levels
        assert [item.item_id for item in found] == [item.item_id for item in expected]
        assert [item.score for item in found] == pytest.approx([item.score for item in expected], abs=1e-5)


def test_the_session_keeps_the_catalogue_it_began_with(model, tokenizer) -> None:
    session = SearchSession(model, tokenizer)
    tokenizer.sid_index = tokenizer.sid_index.with_items(["axe"], codes=[[0, 0, 1]]).without_items(["hammer"])
    assert len(session.index) == 8 and session.prompts.history_ids(["hammer"])
    assert len(SearchSession(model, tokenizer).index) == 8 and "axe" in SearchSession(model, tokenizer).index


def test_no_item_gets_the_score_of_another_while_the_catalogue_grows(model, tokenizer, monkeypatch) -> None:
    """The catalogue changes between a search and the look-up of its items."""
    expected = model.recommend(tokenizer, HISTORIES, top_k=8)
    beam, original = SIDSearch.beam, tokenizer.sid_index

    def grow_meanwhile(*args, **kwargs):
        beams = beam(*args, **kwargs)
        # The new items come first in the trie, so that every leaf has another number.
        tokenizer.sid_index = tokenizer.sid_index.with_items([f"new {len(tokenizer.sid_index)}"], codes=[[0, 0, 0]])
        tokenizer.sid_index = (
            tokenizer.sid_index.without_items(["hammer"]) if "hammer" in tokenizer.sid_index else (tokenizer.sid_index)
        )
        return beams

    monkeypatch.setattr(SIDSearch, "beam", grow_meanwhile)
    assert model.recommend(tokenizer, HISTORIES, top_k=8, batch_size=4) == expected
    assert len(tokenizer.sid_index) == len(original)


def test_a_search_keeps_the_prior_of_its_start_while_the_catalogue_grows(
    model, tokenizer, dataset, monkeypatch
) -> None:
    """The catalogue and its prior change after a search has begun, before it needs the prior."""
    tokenizer.set_prior(NextItemPrior.fit(dataset.train, dataset.sid_index))
    expected = model.recommend(tokenizer, HISTORIES, top_k=3, exclude_items=["cheese"])

    def grow_before(*args):
        tokenizer.sid_index = tokenizer.sid_index.with_items([f"new {len(tokenizer.sid_index)}"], codes=[[0, 0, 0]])
        return ItemFilter(*args)

    monkeypatch.setattr(recommending_tsrec, "ItemFilter", grow_before)
    assert model.recommend(tokenizer, HISTORIES, top_k=3, exclude_items=["cheese"]) == expected
    assert len(tokenizer.prior.index) == len(tokenizer.sid_index) == len(dataset.sid_index) + 1


def test_a_prior_that_cannot_move_leaves_the_catalogue_as_it_was(model, tokenizer) -> None:
    class Uniform(ItemPrior):
        def weights(self, histories):
            return PriorWeights.of_all(torch.ones(len(self.index)), len(histories))

    index = tokenizer.sid_index
    tokenizer.set_prior(Uniform(index))
    with pytest.raises(TypeError):
        tokenizer.sid_index = index.with_items(["new"], codes=[[0, 0, 0]])
    assert tokenizer.sid_index is index
    assert model.recommend(tokenizer, [["hammer"]], top_k=1)


@pytest.mark.parametrize("scoring", ["vocabulary", "catalogue"])
def test_threads_beside_training(make_recommender, scoring) -> None:
    """Serial lists are found by 8 threads, while another thread switches modes, and no mode is changed by them."""
    model, tokenizer = make_recommender("gpt2")  # with dropout
    expected = model.recommend(tokenizer, HISTORIES, top_k=8, scoring=scoring)
    model.train()
    stop = threading.Event()

    def train() -> None:
        while not stop.wait(0.001):
            model.eval()
            model.train()

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(model.recommend, tokenizer, HISTORIES, top_k=8, scoring=scoring) for _ in range(24)]
            found = [call.result() for call in calls]
    finally:
        stop.set()
        trainer.join()
    for lists in found:
        for row, expected_row in zip(lists, expected, strict=True):
            assert [r.item_id for r in row] == [r.item_id for r in expected_row]
            assert [r.score for r in row] == pytest.approx([r.score for r in expected_row], abs=1e-5)
    assert all(module.training for module in model.modules())


class TestEvaluationView:
    def test_weights_are_shared_and_modes_are_not(self, model) -> None:
        model.train()
        view = evaluation_view(model)
        assert not any(module.training for module in view.modules())
        assert all(module.training for module in model.modules())
        pairs = zip(model.named_parameters(), view.named_parameters(), strict=True)
        assert all(name == other and one is another for (name, one), (other, another) in pairs)
        assert not {id(module) for module in model.modules()} & {id(module) for module in view.modules()}

    def test_a_module_in_two_places_has_one_view(self) -> None:
        shared = nn.Linear(2, 2)
        view = evaluation_view(nn.Sequential(shared, nn.ReLU(), shared))
        assert view[0] is view[2] is not shared

    def test_methods_put_on_an_instance_use_the_view(self) -> None:
        """As accelerate's hooks do, which keep the module's own `forward` and put another in its place."""
        from accelerate.hooks import ModelHook, add_hook_to_module

        layers = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.9)).train()
        add_hook_to_module(layers, ModelHook())
        inputs = torch.ones(1, 4)
        expected = layers[0](inputs)
        assert torch.equal(evaluation_view(layers)(inputs), expected)
        assert not torch.equal(layers(inputs), expected)

    @pytest.mark.parametrize("compiled", ["call", "forward", "module", "blocks"])
    def test_a_compiled_backbone_is_searched_as_it_was(self, model, tokenizer, compiled) -> None:
        """Compiled code runs the module that it was made of, in its mode and with its whole head."""
        histories = [["hammer"], ["apple", "pear"]]
        scorings = ("catalogue", "vocabulary")
        expected = [model.recommend(tokenizer, histories, top_k=4, scoring=scoring) for scoring in scorings]
        model.train()
        if compiled == "call":
            model.backbone.compile(backend="eager")
        elif compiled == "forward":
            model.backbone.forward = torch.compile(model.backbone.forward, backend="eager")
        elif compiled == "module":
            model.backbone = torch.compile(model.backbone, backend="eager")
        else:
            for block in model.backbone.model.layers:
                block.compile(backend="eager")
        assert [model.recommend(tokenizer, histories, top_k=4, scoring=scoring) for scoring in scorings] == expected

    def test_a_forward_that_nobody_can_follow_is_refused(self, model, tokenizer) -> None:
        forward = model.backbone.forward
        model.backbone.forward = lambda *args, **kwargs: forward(*args, **kwargs)
        with pytest.raises(ValueError, match="`forward` of a `LlamaForCausalLM` was replaced by the function"):
            model.recommend(tokenizer, [["hammer"]], top_k=1)

    def test_a_cut_head_is_the_views_alone(self, make_recommender) -> None:
        model, tokenizer = make_recommender("llama", tied=True)
        head = model.get_output_embeddings()
        search = SIDSearch(model.backbone, tokenizer.sid_index.trie, tokenizer.sid_token_ids, "catalogue")
        ids = [token_id for level in tokenizer.sid_token_ids for token_id in level]
        cut = search.backbone.get_output_embeddings()
        assert torch.equal(cut.weight, head.weight[ids]) and cut.out_features == len(ids)
        assert model.get_output_embeddings() is head and head.weight is model.get_input_embeddings().weight

    def test_a_cut_head_computes_in_float32(self, make_recommender) -> None:
        model, tokenizer = make_recommender("llama", tied=True)
        search = SIDSearch(model.bfloat16().backbone, tokenizer.sid_index.trie, tokenizer.sid_token_ids, "catalogue")
        hidden = torch.randn(2, model.config.get_text_config().hidden_size, dtype=torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            logits = search.backbone.get_output_embeddings()(hidden)
        rows = model.get_output_embeddings().weight[torch.tensor(sum(tokenizer.sid_token_ids, []))]
        torch.testing.assert_close(logits, hidden.float() @ rows.float().T)
        assert logits.dtype == torch.float32
