import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tsrec_hf import SAInitReport, TokenDescription, TokenSemantics, TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.models import PUBLISHED_SA_INIT, SIDIndex, initialize_sid_embeddings


# A vocabulary of four words in two dimensions, then the four SID tokens of two levels. Worked examples use it alone.
WORDS = {"x": [1.0, 0.0], "y": [0.0, 1.0], "u": [3.0, 4.0], "v": [-1.0, 2.0]}
INDEX = SIDIndex(["1", "2"], [[0, 0], [1, 1]])
KEYWORDS = {"<a_0>": ["x u", "y"], "<a_1>": ["y", "v"], "<b_0>": ["u"], "<b_1>": ["v", "u"]}


def initialize_published(model, tokenizer, semantics, **kwargs) -> SAInitReport:
    """Worked examples start from the published form, whose steps a reader can follow one by one."""
    return initialize_sid_embeddings(model, tokenizer, semantics, **{**PUBLISHED_SA_INIT, **kwargs})


class PaperTokenizer:
    """One token a word; its index spells four SID tokens, with ids 4 to 7."""

    sid_index = INDEX
    sid_token_ids = [[4, 5], [6, 7]]

    def get_added_vocab(self) -> dict[str, int]:
        return {}

    def __call__(self, texts: list[str], add_special_tokens: bool):
        assert add_special_tokens is False
        vocabulary = {word: number for number, word in enumerate([*WORDS, *sum(INDEX.tokens, [])])}
        return SimpleNamespace(input_ids=[[vocabulary[word] for word in text.split()] for text in texts])


class PaperModel(nn.Module):
    """Two matrices of rows; the output's words are the input's, doubled and with swapped dimensions."""

    def __init__(self, tied: bool = True, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        words = torch.tensor(list(WORDS.values()))
        self.inputs = nn.Embedding(8, 2, _weight=torch.cat([words, torch.full((4, 2), 9.0)]).to(dtype))
        self.outputs = nn.Linear(2, 8, bias=False, dtype=dtype)
        if tied:
            self.outputs.weight = self.inputs.weight
        else:
            self.outputs.weight.data = torch.cat([2 * words.flip(1), torch.full((4, 2), 7.0)]).to(dtype)

    def get_input_embeddings(self) -> nn.Module:
        return self.inputs

    def get_output_embeddings(self) -> nn.Module:
        return self.outputs


def semantics_of(keywords: dict[str, list[str]]) -> TokenSemantics:
    return TokenSemantics(TokenDescription(token, "", words) for token, words in keywords.items())


def rows_after(keywords=KEYWORDS, tied=True, dtype=torch.float32, **kwargs) -> torch.Tensor:
    model = PaperModel(tied, dtype)
    initialize_published(model, PaperTokenizer(), semantics_of(keywords), **kwargs)
    return model.inputs.weight[4:].detach()


def close(found: torch.Tensor, expected: list[list[float]], **kwargs) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), **kwargs)


class TestPoolingWorkedByHand:
    def test_mean_weighs_a_keyword_by_its_sub_tokens(self) -> None:
        # <a_0>: (x + u + y) / 3 and not ((x + u) / 2 + y) / 2.  x (1, 0), y (0, 1), u (3, 4), v (-1, 2).
        expected = [[4 / 3, 5 / 3], [-1 / 2, 3 / 2], [3.0, 4.0], [1.0, 3.0]]
        close(rows_after(norm=None), expected)

    def test_idf(self) -> None:
        # 4 tokens. "x u" is a keyword of 1 of them: log 4. "y" is one of 3: log(4/3). "u" and "v", of 2: log 2.
        # <a_0>: the mean of x and u, (2, 2), weighs log 4 / (log 4 + log 4/3), and y (0, 1) the rest.
        keywords = {**KEYWORDS, "<b_0>": ["u", "y"]}
        rare, common, middle = math.log(4), math.log(4 / 3), math.log(2)
        a_0, b_0 = rare / (rare + common), middle / (middle + common)
        a_1 = middle / (common + middle)  # the weight of "v"
        expected = [
            [a_0 * 2, a_0 * 2 + (1 - a_0)],
            [-a_1, (1 - a_1) + a_1 * 2],
            [b_0 * 3, b_0 * 4 + (1 - b_0)],
            [1.0, 3.0],
        ]
        close(rows_after(keywords, pooling="idf", norm=None), expected)

    def test_idf_of_keywords_that_all_tokens_have(self) -> None:
        # "y" weighs log(4/4) = 0, unless a token has no other.
        keywords = {"<a_0>": ["y", "u"], "<a_1>": ["y"], "<b_0>": ["y", "v"], "<b_1>": ["y", "x"]}
        close(rows_after(keywords, pooling="idf", norm=None), [WORDS["u"], WORDS["y"], WORDS["v"], WORDS["x"]])

    def test_a_keyword_said_twice_counts_for_one_token_of_the_idf(self) -> None:
        keywords = {"<a_0>": ["x", "x", "u"], "<a_1>": ["u"], "<b_0>": ["v"], "<b_1>": ["y"]}
        # "x": log 4, twice; "u": log 2. So x weighs 4/5 and u 1/5.
        close(rows_after(keywords, pooling="idf", norm=None)[0], [4 / 5 + 3 / 5, 4 / 5])

    def test_blank_keywords_are_passed_over(self) -> None:
        close(rows_after({**KEYWORDS, "<b_0>": ["", " ", "u"]}, norm=None)[2], [3.0, 4.0])

    def test_center(self) -> None:
        # Mean of the four rows: ((4/3 - 1/2 + 3 + 1) / 4, (5/3 + 3/2 + 4 + 3) / 4) = (29/24, 61/24).
        rows = [[4 / 3, 5 / 3], [-1 / 2, 3 / 2], [3.0, 4.0], [1.0, 3.0]]
        close(rows_after(norm=None, center=True), [[a - 29 / 24, b - 61 / 24] for a, b in rows])

    def test_center_is_over_the_levels_that_are_initialised(self) -> None:
        # <a_0> and <a_1>: their mean is (5/12, 19/12), half their difference (11/12, 1/12).
        expected = [[11 / 12, 1 / 12], [-11 / 12, -1 / 12], [9.0, 9.0], [9.0, 9.0]]
        close(rows_after(norm=None, center=True, levels=1), expected)


class TestNorm:
    DIRECTIONS = torch.tensor([[4 / 3, 5 / 3], [-1 / 2, 3 / 2], [3.0, 4.0], [1.0, 3.0]])

    @pytest.mark.parametrize(
        ("norm", "length"),
        [
            ("vocab_mean", (1 + 1 + 5 + math.sqrt(5)) / 4),  # norms of x, y, u, v
            ("match_resize", math.hypot(3 / 4, 7 / 4)),  # norm of their mean
            (0.25, 0.25),
            (2, 2.0),
        ],
    )
    @pytest.mark.parametrize("center", [False, True])
    def test_every_row_has_the_norm_and_keeps_its_direction(self, norm, length, center) -> None:
        rows = rows_after(norm=norm, center=center)
        directions = self.DIRECTIONS - self.DIRECTIONS.mean(0) if center else self.DIRECTIONS
        torch.testing.assert_close(rows, length * nn.functional.normalize(directions, dim=-1))

    def test_the_studys_best_form_is_the_default(self) -> None:
        model = PaperModel()
        initialize_sid_embeddings(model, PaperTokenizer(), semantics_of(KEYWORDS))
        best = rows_after(pooling="idf", center=True, norm="match_resize")
        assert torch.equal(model.inputs.weight[4:], best) and not torch.equal(best, rows_after())

    def test_centring_comes_before_scaling(self) -> None:
        rows = rows_after(norm=1.0, center=True)
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(4))


class TestLevelsAndMissing:
    @pytest.mark.parametrize("levels", [1, 2])
    def test_deeper_levels_are_left_alone(self, levels) -> None:
        rows = rows_after(levels=levels)
        changed = (rows != 9).all(dim=-1).tolist()
        assert changed == [True, True, levels == 2, levels == 2]
        # Norms and idf of the first level do not know of the second.
        if levels == 1:
            close(
                rows_after({k: KEYWORDS[k] for k in ("<a_0>", "<a_1>")}, levels=1, norm=None)[:2],
                [[4 / 3, 5 / 3], [-0.5, 1.5]],
            )

    def test_missing_tokens_are_named(self) -> None:
        for keywords in (
            {**KEYWORDS, "<b_0>": []},
            {k: v for k, v in KEYWORDS.items() if k != "<b_0>"},
            {**KEYWORDS, "<b_0>": [" "]},
        ):
            model = PaperModel()
            with pytest.raises(ValueError, match="1 of 4 have none, '<b_0>' among them.*missing='resize'"):
                initialize_published(model, PaperTokenizer(), semantics_of(keywords))
            assert (model.inputs.weight[4:] == 9).all()  # Nothing was written.

    def test_missing_resize_leaves_the_rows(self) -> None:
        model = PaperModel()
        report = initialize_published(
            model, PaperTokenizer(), semantics_of({**KEYWORDS, "<b_0>": []}), missing="resize", norm=None
        )
        close(model.inputs.weight[4:].detach(), [[4 / 3, 5 / 3], [-1 / 2, 3 / 2], [9.0, 9.0], [1.0, 3.0]])
        assert report.settings["tokens_without_keywords"] == 1
        assert [row["tokens"] for row in report.levels] == [2, 1]

    def test_no_keywords_at_all(self) -> None:
        with pytest.raises(ValueError, match="4 of 4 have none"):
            rows_after({}, missing="resize")

    def test_missing_rows_of_a_real_model_are_the_resize_default(self, save_backbone, tmp_path, semantics) -> None:
        folder = save_backbone(tmp_path, padded_rows=20)
        index = SIDIndex(["1", "2"], [[0, 0], [1, 3]])  # <b_3> is not described.
        tokenizer = TSRecTokenizer.from_backbone(f"{folder}/tokenizer", index)
        model = TSRecForCausalLM.from_backbone(folder, tokenizer, semantics, {"missing": "resize"})
        weight, first = model.get_input_embeddings().weight, tokenizer.sid_token_ids[0][0]
        torch.testing.assert_close(weight[tokenizer.sid_token_ids[1][3]], weight[:first].mean(0))


class TestShuffle:
    KEYWORDS = {
        f"<{letter}_{code}>": [f"{word}"]
        for letter, words in {"a": "xy", "b": "uv"}.items()
        for code, word in enumerate(words)
    }

    def test_permutes_within_levels(self) -> None:
        seen = set()
        for seed in range(20):
            rows = rows_after(self.KEYWORDS, norm=None, shuffle_seed=seed).tolist()
            assert sorted(rows[:2]) == sorted([WORDS["x"], WORDS["y"]])
            assert sorted(rows[2:]) == sorted([WORDS["u"], WORDS["v"]])
            assert rows == rows_after(self.KEYWORDS, norm=None, shuffle_seed=seed).tolist()
            seen.add(str(rows))
        assert len(seen) == 4  # Two tokens a level: 2 x 2 ways.

    def test_differs_from_unshuffled_where_there_is_much_to_shuffle(self, backbone_dir) -> None:
        words = "tools metal fruit food fresh dairy sharp fastener handle steel red green".split()
        index = SIDIndex([str(row) for row in range(12)], [[row, 0] for row in range(12)])
        semantics = semantics_of({**{f"<a_{row}>": [word] for row, word in enumerate(words)}, "<b_0>": ["hard"]})
        tokenizer = TSRecTokenizer.from_backbone(backbone_dir, index)
        plain, shuffled, again = (
            TSRecForCausalLM.from_backbone(
                backbone_dir, tokenizer, semantics, {**PUBLISHED_SA_INIT, "shuffle_seed": seed}
            )
            for seed in (None, 3, 3)
        )
        rows, permuted, same = (
            model.get_input_embeddings().weight[tokenizer.sid_token_ids[0]] for model in (plain, shuffled, again)
        )
        assert torch.equal(permuted, same)
        # Each shuffled row is one of the plain rows, to the bit, and most are those of another token.
        source = [next(i for i, row in enumerate(rows) if torch.equal(row, other)) for other in permuted]
        assert sorted(source) == list(range(12)) and sum(place != of for place, of in enumerate(source)) > 6
        assert shuffled.config.sid_initialization["shuffle_seed"] == 3
        # Called by itself it is what the checkpoint tells as well.
        report = initialize_sid_embeddings(shuffled, tokenizer, semantics)
        assert shuffled.config.sid_initialization == report.to_dict() and report.settings["pooling"] == "idf"


class TestMatrices:
    def test_untied_rows_come_from_their_own_matrix(self) -> None:
        model = PaperModel(tied=False)
        report = initialize_published(model, PaperTokenizer(), semantics_of(KEYWORDS), norm=None)
        rows = torch.tensor([[4 / 3, 5 / 3], [-1 / 2, 3 / 2], [3.0, 4.0], [1.0, 3.0]])
        torch.testing.assert_close(model.inputs.weight[4:].detach(), rows)
        torch.testing.assert_close(model.outputs.weight[4:].detach(), 2 * rows.flip(1))
        assert [(row["matrix"], row["level"]) for row in report.levels] == [
            ("input", 1),
            ("input", 2),
            ("output", 1),
            ("output", 2),
        ]
        # Norms too: those of the output's vocabulary are twice as long.
        initialize_published(model, PaperTokenizer(), semantics_of(KEYWORDS))
        mean_norm = (1 + 1 + 5 + math.sqrt(5)) / 4
        torch.testing.assert_close(model.inputs.weight[4:].norm(dim=-1), torch.full((4,), mean_norm))
        torch.testing.assert_close(model.outputs.weight[4:].norm(dim=-1), torch.full((4,), 2 * mean_norm))

    @pytest.mark.parametrize("tied", [True, False])
    @pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt2", "gemma3", "mistral"])
    def test_old_rows_stay_and_ties_hold(self, save_backbone, tmp_path, sid_index, semantics, kind, tied) -> None:
        folder = save_backbone(tmp_path, kind, tied, padded_rows=30)
        tokenizer = TSRecTokenizer.from_backbone(f"{folder}/tokenizer", sid_index)
        model = TSRecForCausalLM.from_backbone(folder, tokenizer)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        initialize_published(model, tokenizer, semantics, pooling="idf", center=True)
        sids = sum(tokenizer.sid_token_ids, [])
        changed = set()
        for name, value in model.state_dict().items():
            rows = (value != before[name]).reshape(len(value), -1).any(dim=-1).nonzero().flatten().tolist()
            if rows:
                assert rows == sids
                changed.add(name)
        assert len(changed) == 2  # Input and output; the state dict names a tied matrix twice.
        assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) is tied

    def test_bfloat16_is_computed_in_float32(self, save_backbone, tmp_path, sid_index, semantics) -> None:
        folder = save_backbone(tmp_path)
        tokenizer = TSRecTokenizer.from_backbone(folder, sid_index)
        for settings in ({}, {"pooling": "idf", "center": True}, {"norm": "match_resize"}):
            settings = {**PUBLISHED_SA_INIT, **settings}
            model = TSRecForCausalLM.from_backbone(folder, tokenizer, semantics, settings, dtype=torch.bfloat16)
            exact = TSRecForCausalLM.from_backbone(folder, tokenizer, dtype=torch.bfloat16).float()
            initialize_published(exact, tokenizer, semantics, **settings)
            weight, exact_weight = (m.get_input_embeddings().weight for m in (model, exact))
            assert weight.dtype == torch.bfloat16
            # Rounded once, at the end.
            assert torch.equal(weight, exact_weight.to(torch.bfloat16))

    def test_gradients_are_not_recorded(self) -> None:
        model = PaperModel()
        initialize_published(model, PaperTokenizer(), semantics_of(KEYWORDS))
        assert model.inputs.weight.requires_grad and model.inputs.weight.is_leaf


class TestReport:
    @pytest.mark.parametrize("tied", [True, False])
    def test_figures_against_brute_force(self, save_backbone, tmp_path, sid_index, semantics, tied) -> None:
        folder = save_backbone(tmp_path, tied=tied)
        tokenizer = TSRecTokenizer.from_backbone(folder, sid_index)
        model = TSRecForCausalLM.from_backbone(folder, tokenizer)
        report = initialize_published(model, tokenizer, semantics, norm=None)
        matrices = {"input": model.get_input_embeddings(), "output": model.get_output_embeddings()}
        assert len(report.levels) == (3 if tied else 6)
        for figures in report.levels:
            ids = tokenizer.sid_token_ids[figures["level"] - 1]
            rows = [matrices[figures["matrix"]].weight[token_id].detach() for token_id in ids]
            cosines = [
                [torch.cosine_similarity(a, b, dim=0).item() for j, b in enumerate(rows) if j != i]
                for i, a in enumerate(rows)
            ]
            flat = sum(cosines, [])
            assert figures["tokens"] == len(ids)
            assert figures["mean_cosine"] == pytest.approx(sum(flat) / len(flat), abs=1e-5)
            assert figures["nearest_cosine"] == pytest.approx(sum(map(max, cosines)) / len(ids), abs=1e-5)
            assert figures["mean_norm"] == pytest.approx(sum(row.norm().item() for row in rows) / len(ids), abs=1e-5)

    def test_figures_worked_by_hand(self) -> None:
        model = PaperModel()
        report = initialize_published(
            model,
            PaperTokenizer(),
            semantics_of({"<a_0>": ["x"], "<a_1>": ["u"], "<b_0>": ["y"], "<b_1>": ["x"]}),
            norm=None,
        )
        # x (1, 0) and u (3, 4): cosine 3/5, norms 1 and 5; y and x: cosine 0, norms 1.
        assert report.levels[0] == pytest.approx(
            {"matrix": "input", "level": 1, "tokens": 2, "mean_cosine": 0.6, "nearest_cosine": 0.6, "mean_norm": 3.0}
        )
        assert report.levels[1] == pytest.approx(
            {"matrix": "input", "level": 2, "tokens": 2, "mean_cosine": 0.0, "nearest_cosine": 0.0, "mean_norm": 1.0}
        )
        assert report.settings == {
            "pooling": "mean",
            "center": False,
            "norm": None,
            "num_levels": 2,
            "shuffle_seed": None,
            "tokens_without_keywords": 0,
        }
        table = str(report).splitlines()
        assert table[0].startswith("SID initialisation: pooling=mean, center=False")
        assert table[2].split() == ["input", "1", "2", "0.600", "0.600", "3.000"] and len(table) == 4

    def test_a_level_of_one_token_has_no_cosines(self, backbone_dir, tmp_path) -> None:
        index = SIDIndex(["1", "2"], [[0, 0], [0, 1]])
        tokenizer = TSRecTokenizer.from_backbone(backbone_dir, index)
        semantics = semantics_of({"<a_0>": ["tools"], "<b_0>": ["red"], "<b_1>": ["green"]})
        model = TSRecForCausalLM.from_backbone(backbone_dir, tokenizer, semantics)
        report = SAInitReport.from_dict(model.config.sid_initialization)
        assert report.levels[0]["mean_cosine"] is None and report.levels[0]["nearest_cosine"] is None
        assert str(report).splitlines()[2].split()[:5] == ["input", "1", "1", "-", "-"]
        model.save_pretrained(tmp_path)
        # Strict JSON, as the Hub reads it: NaN is refused.
        json.loads((tmp_path / "config.json").read_text(), parse_constant=lambda name: pytest.fail(name))

    def test_survives_save_and_load(self, backbone_dir, tokenizer, semantics, tmp_path) -> None:
        settings = {"pooling": "idf", "center": True, "norm": 0.5, "levels": 2, "shuffle_seed": 7}
        model = TSRecForCausalLM.from_backbone(backbone_dir, tokenizer, semantics, settings)
        model.save_pretrained(tmp_path)
        loaded = TSRecForCausalLM.from_pretrained(tmp_path)
        assert loaded.config.sid_initialization == model.config.sid_initialization
        report = SAInitReport.from_dict(loaded.config.sid_initialization)
        assert report.to_dict() == model.config.sid_initialization
        assert report.settings == {
            "pooling": "idf",
            "center": True,
            "norm": 0.5,
            "num_levels": 2,
            "shuffle_seed": 7,
            "tokens_without_keywords": 0,
        }
        assert [row["level"] for row in report.levels] == [1, 2]
        assert SAInitReport.from_dict({"pooling": "resize"}) == SAInitReport({"pooling": "resize"}, [])


class TestErrors:
    @pytest.mark.parametrize(
        ("kwargs", "words"),
        [
            ({"pooling": "max"}, "`pooling` 'mean' or 'idf', but found 'max'"),
            ({"norm": "mean"}, "'vocab_mean', 'match_resize', a number or None, but found 'mean'"),
            ({"norm": 0}, "`norm` above 0, but found 0"),
            ({"norm": -1.5}, "`norm` above 0, but found -1.5"),
            ({"norm": math.nan}, "as a finite number, but found nan"),
            ({"missing": "skip"}, "'error' or 'resize', but found 'skip'"),
            ({"levels": 0}, "`levels` from 1 to 2, but found 0"),
            ({"levels": 3}, "`levels` from 1 to 2, but found 3"),
        ],
    )
    def test_arguments(self, kwargs, words) -> None:
        with pytest.raises(ValueError, match=words):
            rows_after(**kwargs)

    def test_keywords_that_are_sid_tokens(self) -> None:
        with pytest.raises(ValueError, match="own tokens, but '<b_1>' is empty or a SID token"):
            rows_after({**KEYWORDS, "<a_0>": ["x", "<b_1>"]})

    def test_rows_that_centring_leaves_nothing_of(self) -> None:
        # What is left of equal rows is rounding, which the norm would blow up.
        same = {token: ["u", "v", "x"] for token in KEYWORDS}
        for settings in ({"center": True}, {"center": True, "pooling": "idf"}, {"center": True, "norm": None}):
            with pytest.raises(ValueError, match="'<a_0>' equal the mean of all 4 tokens.*center=False"):
                rows_after(same, **settings)
        rows_after(same)


def test_the_published_recipe_on_a_backbone(save_backbone, tmp_path, sid_index, semantics) -> None:
    # Mean of all keyword sub-tokens, scaled to the mean norm of the vocabulary, by the plainest loop.
    folder = save_backbone(tmp_path, "gpt2", padded_rows=4)
    tokenizer = TSRecTokenizer.from_backbone(folder, sid_index)
    model = TSRecForCausalLM.from_backbone(folder, tokenizer, semantics, PUBLISHED_SA_INIT)
    base = AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight.detach()
    first = tokenizer.sid_token_ids[0][0]
    length = torch.stack([row.norm() for row in base[:first]]).mean()  # The four rows of padding do not count.
    for token, token_id in zip(sum(sid_index.tokens, []), sum(tokenizer.sid_token_ids, [])):
        ids = sum((tokenizer(word, add_special_tokens=False).input_ids for word in semantics[token].keywords), [])
        mean = torch.stack([base[token_id] for token_id in ids]).mean(0)
        torch.testing.assert_close(model.get_input_embeddings().weight[token_id], mean / mean.norm() * length)
