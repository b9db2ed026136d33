import copy
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

from tsrec_hf.data import PromptBuilder, build_grpo_rows
from tsrec_hf.evaluation import RecommendationEvaluator
from tsrec_hf.models import SIDIndex, TSRecForCausalLM
from tsrec_hf.rewards import RewardOnCodes, exact_match_reward, prefix_reward, ranking_reward
from tsrec_hf.trainers import TSRecGRPOConfig, TSRecGRPOTrainer
from tsrec_hf.trainers.branches import LegalTokens, score_completions
from tsrec_hf.trainers.recommendation_metrics import RecommendationMetrics
from tsrec_hf.trainers.rollouts import roll_out


KINDS = ["qwen2", "llama", "gpt2", "gemma3", "mistral"]
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}


@pytest.fixture
def rows(dataset, tokenizer):
    return build_grpo_rows(dataset.train, tokenizer)


@pytest.fixture
def make_trainer(model, tokenizer, rows, tmp_path):
    def make(model=model, processing_class=tokenizer, train_dataset=rows, reward_funcs=prefix_reward, **arguments):
        names = {"eval_dataset", "eval_interactions", "callbacks", "peft_config"} & set(arguments)
        kwargs = {name: arguments.pop(name) for name in names}
        defaults = {
            "output_dir": str(tmp_path / "out"),
            "max_steps": 2,
            "num_generations": 4,
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 8,
            "logging_steps": 1,
            "learning_rate": 0.01,
            "lr_scheduler_type": "constant",
            "report_to": "none",
            "bf16": False,
            "disable_tqdm": True,
            "eval_num_beams": 7,
            "save_strategy": "no",
        }
        args = TSRecGRPOConfig(**{**defaults, **arguments})
        return TSRecGRPOTrainer(
            model, reward_funcs, args, train_dataset=train_dataset, processing_class=processing_class, **kwargs
        )

    return make


def logs_of(trainer, name="reward"):
    return [entry for entry in trainer.state.log_history if name in entry]


def weights_of(model) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def first_batch(trainer):
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


def loss_and_gradients(trainer, batch):
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


def assert_same_gradients(ours, theirs) -> None:
    assert set(ours) == set(theirs) and ours
    norm = torch.stack([gradient.norm() for gradient in theirs.values()]).norm()
    assert norm > 1e-4
    difference = torch.stack([(ours[name] - theirs[name]).norm() for name in theirs]).norm()
    assert difference / norm < 1e-3


class TestRollouts:
    @pytest.mark.parametrize("rollout", ["beam", "sample", "mixed"])
    def test_completions_are_distinct_sids_by_falling_score(self, model, tokenizer, dataset, rollout):
        prompts = [PromptBuilder(tokenizer).sequence_prompt_ids(history) for history in dataset.train["history"]]
        torch.manual_seed(0)
        groups = roll_out(model, tokenizer, prompts, 5, rollout, temperature=1.5)
        sids = {tuple(ids) for ids in tokenizer.encode_sids(tokenizer.sid_index.item_ids)}
        for prompt, group in zip(prompts, groups, strict=True):
            assert len(set(map(tuple, group))) == 5 and set(map(tuple, group)) <= sids
            scores = self.scores(
                model, tokenizer, prompt, group, 1.5, "vocabulary" if rollout == "beam" else "catalogue"
            )
            assert scores == sorted(scores, reverse=True)

    def scores(self, model, tokenizer, prompt, group, temperature, scoring) -> list[float]:
        scores = score_completions(
            model,
            model.backbone,
            torch.tensor([prompt]),
            torch.ones(1, len(prompt), dtype=torch.long),
            torch.tensor([group]),
            LegalTokens(tokenizer.sid_index.trie, tokenizer.sid_token_ids),
            scoring,
            temperature,
        )
        return scores.log_probs.sum(-1).tolist()

    @pytest.mark.parametrize("scoring", ["vocabulary", "catalogue"])
    def test_beams_are_those_of_recommend_and_mixed_holds_half_of_them(self, model, tokenizer, dataset, scoring):
        histories = dataset.train["history"][:]
        prompts = [PromptBuilder(tokenizer).sequence_prompt_ids(history) for history in histories]
        expected = model.recommend(tokenizer, histories, top_k=4, num_beams=4, scoring=scoring)
        found = roll_out(model, tokenizer, prompts, 4, "beam", scoring)
        for row, group in zip(expected, found):
            sids = list(dict.fromkeys(recommendation.sid for recommendation in row))
            assert ["".join(tokenizer.convert_ids_to_tokens(ids)) for ids in group][: len(sids)] == sids
        if scoring == "catalogue":
            top_two = [group[:2] for group in roll_out(model, tokenizer, prompts, 2, "beam", scoring)]
            torch.manual_seed(0)
            many = [roll_out(model, tokenizer, prompts, 4, "mixed") for _ in range(8)]
            for mixed in many:
                assert all(ids in group for best, group in zip(top_two, mixed) for ids in best)
            assert any(mixed != many[0] for mixed in many)

    def test_nothing_of_a_generation_config_leaks_in(self, model, tokenizer, dataset):
        prompts = [PromptBuilder(tokenizer).sequence_prompt_ids(history) for history in dataset.train["history"]]
        expected = roll_out(model, tokenizer, prompts, 4)
        for config in (model.generation_config, model.backbone.generation_config):
            config.temperature, config.do_sample, config.top_k, config.num_beams = 0.1, True, 1, 3
            config.suppress_tokens, config.repetition_penalty = tokenizer.sid_token_ids[0], 5.0
        model.train()
        assert roll_out(model, tokenizer, prompts, 4) == expected
        assert model.training


class TestLoss:
    @pytest.mark.parametrize("beta", [0.0, 0.1])
    @pytest.mark.parametrize("kind", ["qwen2", "llama", "gemma3", "mistral"])
    def test_one_pass_equals_trls_own_path(self, make_trainer, make_recommender, dataset, kind, beta):
        model, tokenizer = make_recommender(kind)
        trainer = make_trainer(
            model, tokenizer, build_grpo_rows(dataset.train, tokenizer), beta=beta, temperature=1.3, max_steps=1
        )
        batch = first_batch(trainer)
        assert len(set(batch["prompt_mask"].sum(-1).tolist())) > 1  # or padding is not tested
        assert ("ref_per_token_logps" in batch) == (beta > 0)
        ours, our_gradients = loss_and_gradients(trainer, batch)
        trainer.args.shared_prefix = False
        theirs, their_gradients = loss_and_gradients(trainer, batch)
        assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
        assert_same_gradients(our_gradients, their_gradients)
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        plain, entropy, _ = trainer._get_per_token_logps_and_entropies(model, ids, mask, 3, compute_entropy=True)
        trainer.args.shared_prefix = True
        # Chunks of whole groups, whatever the size asked for.
        for batch_size in (None, 4, 3):
            shared, shared_entropy, _ = trainer._get_per_token_logps_and_entropies(
                model, ids, mask, 3, batch_size, compute_entropy=True
            )
            torch.testing.assert_close(shared, plain, atol=1e-4, rtol=0)
            torch.testing.assert_close(shared_entropy, entropy, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("scoring", ["vocabulary", "catalogue"])
    @pytest.mark.parametrize(
        "kind, shared", [*((kind, True) for kind in KINDS), ("gpt2", False), ("bloom", False), ("llama", False)]
    )
    def test_one_pass_equals_a_plain_forward_per_completion(self, make_recommender, dataset, kind, shared, scoring):
        model, tokenizer = make_recommender(kind, tied=False)
        prompts = [PromptBuilder(tokenizer).sequence_prompt_ids(history) for history in dataset.train["history"][:3]]
        width = max(map(len, prompts))
        groups = roll_out(model, tokenizer, prompts, 5)
        scores = score_completions(
            model,
            model.backbone,
            torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts]),
            torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]),
            torch.tensor(groups),
            LegalTokens(tokenizer.sid_index.trie, tokenizer.sid_token_ids),
            scoring,
            temperature=0.7,
            shared_prefix=shared,
        )
        every = {tuple(ids) for ids in tokenizer.encode_sids(tokenizer.sid_index.item_ids)}
        flat = [(prompt, ids) for prompt, group in zip(prompts, groups) for ids in group]
        for row, (prompt, ids) in enumerate(flat):
            logits = model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1] / 0.7
            for level, token_id in enumerate(ids):
                legal = sorted({sid[level] for sid in every if sid[:level] == tuple(ids[:level])})
                over_legal = logits[level, legal].log_softmax(-1)
                entropy = -(over_legal.exp() * over_legal).sum()
                torch.testing.assert_close(scores.legal_entropies[row, level], entropy.detach(), atol=1e-4, rtol=0)
                expected = over_legal[legal.index(token_id)]
                if scoring == "vocabulary":
                    everything = logits[level].log_softmax(-1)
                    expected, entropy = everything[token_id], -(everything.exp() * everything).sum()
                torch.testing.assert_close(scores.log_probs[row, level], expected, atol=1e-4, rtol=0)
                torch.testing.assert_close(scores.entropies[row, level], entropy, atol=1e-4, rtol=0)

    def test_completions_must_be_sids(self, tokenizer):
        [ids] = tokenizer.encode_sids(["nail"])
        legal = LegalTokens(tokenizer.sid_index.trie, tokenizer.sid_token_ids)
        with pytest.raises(ValueError, match="completion 1 has token .* at level 2"):
            legal.along(torch.tensor([ids, [*ids[:2], tokenizer.sid_token_ids[2][1]]]))

    @pytest.mark.parametrize("scoring", ["vocabulary", "catalogue"])
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"beta": 0.2},
            {"num_iterations": 2, "max_steps": 4, "epsilon": 0.001},
            {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
            {"peft_config": LoraConfig(**LORA)},
            {"peft_config": LoraConfig(**LORA), "beta": 0.2},
            {"scale_rewards": "batch", "loss_type": "grpo", "importance_sampling_level": "sequence"},
        ],
        ids=["plain", "beta", "iterations", "accumulation", "lora", "lora and beta", "sequence level"],
    )
    def test_training_with_one_pass_equals_training_without(self, make_trainer, model, settings, scoring):
        # Its SID rows were trained before: adapters may leave them as they are.
        model.config.run_facts = {
            "stages": [
                {
                    "method": "SFT",
                    "trainable": "all",
                    "trainable_parameters": 1,
                    "steps": 1,
                    "epochs": 1.0,
                    "settings": {},
                    "rows": 6,
                }
            ]
        }
        results = []
        for shared_prefix in (True, False):
            trainer = make_trainer(
                copy.deepcopy(model),
                shared_prefix=shared_prefix,
                scoring=scoring,
                optim="sgd",
                learning_rate=0.3,
                max_grad_norm=0.0,
                **{**settings, "peft_config": copy.deepcopy(settings.get("peft_config"))},
            )
            before = weights_of(trainer.model).clone()
            trainer.train()
            results.append((weights_of(trainer.model) - before, logs_of(trainer)))
        (ours, our_logs), (theirs, their_logs) = results
        assert theirs.norm() > 1e-3 and (ours - theirs).norm() / theirs.norm() < 1e-3
        for name in ("loss", "reward", "entropy", "kl", "grad_norm"):
            for entry, expected in zip(our_logs, their_logs, strict=True):
                if name in expected:
                    assert entry[name] == pytest.approx(expected[name], abs=2e-4)

    def test_groups_stay_together(self, make_trainer):
        trainer = make_trainer(gradient_accumulation_steps=2, per_device_train_batch_size=4)
        trainer.model.train()
        batch = next(iter(trainer.get_train_dataloader()))
        inputs = trainer._prepare_inputs(batch)
        assert len(batch) == 8 and len(inputs["prompt_ids"]) == 4
        assert (inputs["prompt_ids"] == inputs["prompt_ids"][0]).all()
        assert len(inputs["completion_ids"].unique(dim=0)) == 4

    def test_backbones_without_tree_masks(self, make_trainer, make_recommender, dataset):
        model, tokenizer = make_recommender("bloom")
        rows = build_grpo_rows(dataset.train, tokenizer)
        with pytest.raises(ValueError, match="cannot share a pass through `BloomForCausalLM`.*`shared_prefix=False`"):
            make_trainer(model, tokenizer, rows)
        # Its attention is eager alone, for the reference as well.
        trainer = make_trainer(model, tokenizer, rows, shared_prefix=False, max_steps=1, beta=0.1)
        trainer.train()
        assert logs_of(trainer)[0]["completions/invalid"] == 0
        assert trainer.ref_model.backbone.config._attn_implementation == "eager"
        assert logs_of(trainer)[0]["kl"] == pytest.approx(0.0, abs=1e-6)


class TestRewards:
    def test_equal_prompts_keep_their_targets(self, make_trainer, tokenizer):
        prompt = PromptBuilder(tokenizer).sequence_prompt(["hammer"])
        rows = Dataset.from_dict({"prompt": [prompt] * 2, "target": ["nail", "apple"]})
        trainer = make_trainer(train_dataset=rows, reward_funcs=exact_match_reward, num_generations=7,
                               per_device_train_batch_size=14)  # fmt: skip
        batch = first_batch(trainer)
        assert (batch["prompt_ids"] == batch["prompt_ids"][0]).all()
        best = batch["advantages"].view(2, 7).argmax(dim=1).tolist()
        completions = batch["completion_ids"].view(2, 7, 3)
        found = {tuple(completions[row, place].tolist()) for row, place in enumerate(best)}
        assert found == {tuple(ids) for ids in tokenizer.encode_sids(["nail", "apple"])}

    def test_advantages_of_sequences_by_hand(self, make_trainer):
        trainer = make_trainer(reward_funcs=[prefix_reward, ranking_reward], reward_weights=[2.0, 0.5])
        batch = first_batch(trainer)
        rewards = [dict(trainer._logs["rewards"])[name] for name in ("prefix_reward", "ranking_reward")]
        total = torch.tensor([2 * a + 0.5 * b for a, b in zip(*rewards)]).view(-1, 4)
        expected = (total - total.mean(1, keepdim=True)) / (total.std(1, keepdim=True) + 1e-4)
        torch.testing.assert_close(batch["advantages"].view(-1, 4), expected)
        assert expected.abs().sum() > 0

    def test_advantages_of_tokens_by_hand(self, make_trainer, tokenizer):
        prompt = PromptBuilder(tokenizer).sequence_prompt(["hammer"])
        rows = Dataset.from_dict({"prompt": [prompt], "target": ["nail"]})
        by_level = partial(prefix_reward, per_level=True)
        trainer = make_trainer(
            train_dataset=rows, reward_funcs=[by_level, exact_match_reward], reward_weights=[3.0, 1.0],
            advantage_level="token", num_generations=2, per_device_train_batch_size=2,
        )  # fmt: skip
        nail, saw = tokenizer.encode_sids(["nail", "saw"])  # <a_0><b_1><c_0> and <a_0><b_0><c_1>
        trainer._roll_out = lambda prompts, group: [[saw, nail]] * len(prompts)
        batch = first_batch(trainer)
        # Rewards of tokens: nail 3 * (1/3, 1/3, 1/3) + 1 at each, saw 3 * (1/3, 0, 0) + 0. Level by level, the pairs
        # (saw, nail) are (1, 2), (0, 2) and (0, 2): means 1.5, 1, 1 and standard deviations sqrt(1/2), sqrt(2) twice.
        half, one = 0.5 / (math.sqrt(0.5) + 1e-4), 1 / (math.sqrt(2) + 1e-4)
        expected = torch.tensor([[-half, -one, -one], [half, one, one]])
        torch.testing.assert_close(batch["advantages"], expected)
        loss, gradients = loss_and_gradients(trainer, batch)
        assert loss.isfinite() and gradients

        unscaled = make_trainer(
            train_dataset=rows, reward_funcs=[by_level], advantage_level="token", scale_rewards="none",
            num_generations=2, per_device_train_batch_size=2,
        )  # fmt: skip
        unscaled._roll_out = trainer._roll_out
        torch.testing.assert_close(
            first_batch(unscaled)["advantages"], torch.tensor([[0, -1 / 6, -1 / 6], [0, 1 / 6, 1 / 6]])
        )

    @pytest.mark.parametrize("missing", [None, math.nan])
    def test_completions_that_no_reward_applies_to_move_nothing(self, make_trainer, missing):
        def graded(codes):
            return [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], missing, [0.0, 0.0, 3.0]]

        def level_missing(codes):
            return [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, math.nan, 0.0], [0.0, 0.0, 3.0]]

        def applies_to_none(codes):
            return [missing] * len(codes)

        for function in (graded, level_missing):
            trainer = make_trainer(
                reward_funcs=[function, applies_to_none], advantage_level="token", per_device_train_batch_size=4,
                scale_rewards="none",
            )  # fmt: skip
            # By level over the three that are rewarded: means 1/3, 0 and 4/3.
            expected = torch.tensor([[2, 0, -4], [-1, 0, -1], [0, 0, 0], [-1, 0, 5]]) / 3
            torch.testing.assert_close(first_batch(trainer)["advantages"], expected)
            trainer = make_trainer(
                reward_funcs=function, per_device_train_batch_size=4, scale_rewards="none"
            )  # sums 1, 1, none and 3
            torch.testing.assert_close(first_batch(trainer)["advantages"], torch.tensor([-2, -2, 0, 4]) / 3)

    def test_wrapped_functions_are_what_they_wrap(self, make_trainer, tokenizer):
        by_level = partial(prefix_reward, per_level=True)
        kwargs = {"advantage_level": "token", "per_device_train_batch_size": 4}
        expected = first_batch(make_trainer(reward_funcs=[by_level, ranking_reward], **kwargs))
        wrapped = [RewardOnCodes(function, tokenizer) for function in (by_level, ranking_reward)]
        found = first_batch(make_trainer(reward_funcs=tuple(wrapped), **kwargs))
        torch.testing.assert_close(found["advantages"], expected["advantages"])

    def test_stock_reward_functions_still_work(self, make_trainer):
        def length_reward(completions, target, **kwargs):
            assert all(isinstance(item, str) for item in target)
            return [float(len(text.replace(" ", ""))) for text in completions]

        trainer = make_trainer(reward_funcs=[length_reward, exact_match_reward], max_steps=1)
        trainer.train()
        # Three tokens of five characters each.
        assert logs_of(trainer)[0]["rewards/length_reward/mean"] == 15

    @pytest.mark.parametrize("dynamic_sampling", [False, True])
    @pytest.mark.parametrize("form", [lambda found: found, list, lambda found: [[one, one * 0] for one in found]])
    def test_rewards_may_be_tensors_of_any_type(self, make_trainer, dynamic_sampling, form):
        def numbers(completion_ids, **kwargs):
            return [float(ids[0] % 3) for ids in completion_ids]

        def tensors(completion_ids, **kwargs):
            return form(torch.tensor(numbers(completion_ids), dtype=torch.bfloat16, requires_grad=True))

        trainer = make_trainer(reward_funcs=[numbers, tensors], max_steps=1, dynamic_sampling=dynamic_sampling)
        trainer.train()
        [entry] = logs_of(trainer)
        assert entry["rewards/numbers/mean"] == entry["rewards/tensors/mean"] > 0

    def test_a_reward_that_is_no_list_is_named(self, make_trainer):
        def scalar(completion_ids, **kwargs):
            return torch.tensor(1.0)

        trainer = make_trainer(reward_funcs=scalar, max_steps=1)
        with pytest.raises(TypeError, match="the reward 'scalar' to give a reward for each of 8 .*found `float`"):
            trainer.train()

    def test_an_asynchronous_reward_of_codes_is_refused(self, make_trainer):
        async def remote(codes, target_codes, **kwargs):
            return [0.0] * len(codes)

        with pytest.raises(ValueError, match="the reward 'remote' of codes or items to be an ordinary function"):
            make_trainer(reward_funcs=remote)

    def test_columns_that_an_evaluation_lacks_are_told(self, make_trainer, rows, dataset, caplog):
        priced = rows.add_column("price", [1.0] * len(rows))
        with caplog.at_level("WARNING", logger="tsrec_hf"):
            make_trainer(train_dataset=priced, eval_interactions=dataset.valid)
        assert "Interactions of the evaluation lack ['price'] of the training rows" in caplog.text

    def test_columns_that_rewards_take_are_there_in_evaluations(self, make_trainer, dataset, tokenizer):
        priced = dataset.train.map(lambda row, place: {"price": float(place)}, with_indices=True)
        seen = {"train": [], "eval": []}

        def reward(completion_ids, price, target, **kwargs):
            assert "history" not in kwargs and "user_id" not in kwargs
            seen["train" if trainer.model.training else "eval"] += list(zip(target, price))
            return [float(ids[0] % 3) for ids in completion_ids]

        rows = build_grpo_rows(priced, tokenizer, columns=["price"])
        assert rows.column_names == ["prompt", "target", "price"]
        trainer = make_trainer(train_dataset=rows, reward_funcs=reward, eval_interactions=priced, max_steps=1)
        trainer.train()
        trainer.evaluate()
        known = set(zip(priced["target"], priced["price"]))
        assert set(seen["eval"]) == known and seen["train"] and set(seen["train"]) <= known

    def test_our_functions_work_in_the_stock_trainer(self, model, tokenizer, rows, tmp_path):
        args = GRPOConfig(
            str(tmp_path), num_generations=4, per_device_train_batch_size=4, max_completion_length=3, max_steps=1,
            remove_unused_columns=False, report_to="none", bf16=False, use_cpu=True, logging_steps=1,
        )  # fmt: skip
        reward = RewardOnCodes(ranking_reward, tokenizer, num_generations=4)
        trainer = GRPOTrainer(model, reward, args, train_dataset=rows, processing_class=tokenizer)
        hammer, nail = tokenizer.encode_sids(["hammer", "nail"])

        def generate(prompt_ids, *args):
            return [nail, hammer, nail[:2], [5, 6, 7]] * (len(prompt_ids) // 4), None

        trainer._generate_single_turn = generate
        trainer.train()
        [entry] = logs_of(trainer)
        # Whichever of the two is the target, the other is a miss among the first two ranks; else there is no signal.
        assert entry["rewards/ranking_reward/mean"] in (0.0, pytest.approx(-0.25, abs=0.12))

    def test_groups_without_signal_give_way(self, make_trainer, tokenizer):
        prompt = PromptBuilder(tokenizer).sequence_prompt
        rows = Dataset.from_dict(
            {"prompt": [prompt(["hammer"]), prompt(["apple"])] * 8, "target": ["nail", "cheese"] * 8}
        )
        nail, saw, apple = tokenizer.encode_sids(["nail", "saw", "apple"])

        def roll_out(prompts, group, recommender=None):
            return [[nail, apple] if prompt == prompts_of["hammer"] else [saw, apple] for prompt in prompts]

        kwargs = {
            "train_dataset": rows, "reward_funcs": exact_match_reward, "num_generations": 2,
            "per_device_train_batch_size": 8, "max_steps": 3,
        }  # fmt: skip
        prompts_of = {item: PromptBuilder(tokenizer).sequence_prompt_ids([item]) for item in ("hammer", "apple")}
        plain = make_trainer(**kwargs)
        plain._roll_out = roll_out
        plain.train()
        assert any(entry["frac_reward_zero_std"] > 0 for entry in logs_of(plain))
        drawing = make_trainer(**kwargs, dynamic_sampling=True, dynamic_sampling_max_draws=20)
        drawing._roll_out = roll_out
        drawing.train()
        for entry in logs_of(drawing):
            assert entry["frac_reward_zero_std"] == 0 and entry["dynamic_sampling/with_signal"] == 1
            assert entry["hits/share_of_groups"] == 1
        assert any(entry["dynamic_sampling/drawn"] > 1 for entry in logs_of(drawing))
        # Where there is none to be found, it says so and goes on.
        silent = make_trainer(
            **{**kwargs, "train_dataset": rows.select([1] * 8), "max_steps": 1}, dynamic_sampling=True
        )
        silent._roll_out = roll_out
        silent.train()
        assert logs_of(silent)[0]["dynamic_sampling/with_signal"] == 0
        assert logs_of(silent)[0]["dynamic_sampling/drawn"] == 4

    def test_levels_that_differ_are_a_signal_for_tokens(self, make_trainer):
        # The sums are equal, and the advantages of tokens are not 0: nothing is drawn for it.
        def by_level(codes):
            return [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]] * (len(codes) // 2)

        drawn = {}
        for level in ("token", "sequence"):
            trainer = make_trainer(
                reward_funcs=by_level, advantage_level=level, dynamic_sampling=True, per_device_train_batch_size=4,
                max_steps=1,
            )  # fmt: skip
            trainer.train()
            drawn[level] = [logs_of(trainer)[0][f"dynamic_sampling/{name}"] for name in ("drawn", "with_signal")]
        assert drawn == {"token": [1.0, 1.0], "sequence": [4.0, 0.0]}

    @pytest.mark.parametrize("dynamic_sampling", [True, False])
    def test_rewards_are_computed_once_a_step(self, make_trainer, dynamic_sampling):
        seen = []

        def graded(codes):
            seen.append(len(codes))
            return [[float(place), 0.0, 0.0] for place in range(len(codes))]

        def stock(completions, log_metric, log_extra, **kwargs):
            seen.append(len(completions))
            log_extra("length", [len(text) for text in completions])
            log_metric("stock", 0.5)
            return [1.0] * len(completions)

        trainer = make_trainer(
            reward_funcs=[graded, stock], advantage_level="token", dynamic_sampling=dynamic_sampling, max_steps=1
        )
        trainer.train()
        # Eight completions, by two functions.
        assert sum(seen) == 16 and logs_of(trainer)[0]["stock"] == 0.5
        assert len(trainer._logs["extra"]["length"]) == 8

    def test_dynamic_sampling_needs_plain_functions(self, make_trainer):
        async def judged(completions, **kwargs):
            return [0.0] * len(completions)

        with pytest.raises(ValueError, match="reward models and asynchronous functions.*`dynamic_sampling=False`"):
            make_trainer(reward_funcs=judged, dynamic_sampling=True)

    @pytest.mark.parametrize("dynamic_sampling", [False, True])
    def test_the_target_may_always_be_in_its_group(self, make_trainer, tokenizer, rows, dynamic_sampling):
        """A search that never finds it."""
        rows = rows.select(range(2))
        items = tokenizer.sid_index.item_ids

        def graded(codes):
            return [float(place) for place in range(len(codes))]

        def share_of_groups(**settings):
            trainer = make_trainer(
                reward_funcs=graded, train_dataset=rows, dynamic_sampling=dynamic_sampling, max_steps=1, **settings
            )
            targets = tokenizer.encode_sids(rows["target"])
            others = [sid for sid in tokenizer.encode_sids(items) if sid not in targets][:4]
            trainer._roll_out = lambda prompts, *args: [list(others) for _ in prompts]
            batch = first_batch(trainer)
            trainer.train()
            groups = batch["completion_ids"].view(2, 4, -1).tolist()
            assert all(len({tuple(sid) for sid in group}) == 4 for group in groups)
            return logs_of(trainer)[0]["hits/share_of_groups"]

        assert (share_of_groups(), share_of_groups(include_target=True)) == (0, 1)

    @pytest.mark.parametrize("missing", [None, math.nan])
    def test_rewards_that_do_not_apply_are_no_signal(self, make_trainer, missing):
        def sparse(codes):
            return [0.5, missing, missing, missing]

        trainer = make_trainer(reward_funcs=sparse, dynamic_sampling=True, per_device_train_batch_size=4, max_steps=1)
        trainer.train()
        assert logs_of(trainer)[0]["dynamic_sampling/with_signal"] == 0

        def applies_to_none(codes):
            return [missing] * len(codes)

        trainer = make_trainer(
            reward_funcs=[lambda codes: [0.5, missing, 1.0, missing], applies_to_none], dynamic_sampling=True,
            per_device_train_batch_size=4, max_steps=1,
        )  # fmt: skip
        trainer.train()
        assert logs_of(trainer)[0]["dynamic_sampling/with_signal"] == 1

    def test_groups_of_an_evaluation_do_not_outlive_it(self, make_trainer, rows):
        sizes = []

        def sized(codes, num_generations):
            sizes.append((len(codes), num_generations))
            return [float(number) for number in range(len(codes))]

        trainer = make_trainer(
            reward_funcs=sized, dynamic_sampling=True, eval_dataset=rows, num_generations_eval=2,
            per_device_train_batch_size=4, per_device_eval_batch_size=12, eval_strategy="steps", eval_steps=1,
        )  # fmt: skip
        trainer.train()
        # An evaluation reads 6 rows twice at once, a draw and a batch have one group of 4.
        assert set(sizes) == {(12, 2), (4, 4)}

    def test_a_draw_makes_the_model_searchable_once(self, make_trainer, monkeypatch):
        # Under FSDP all processes do it together, and each draws as often as it must.
        trainer = make_trainer(reward_funcs=lambda codes: [1.0] * len(codes), dynamic_sampling=True, max_steps=1)
        asked, searchable = [], trainer.searchable
        monkeypatch.setattr(trainer, "searchable", lambda: asked.append(1) or searchable())
        trainer.train()
        assert logs_of(trainer)[0]["dynamic_sampling/drawn"] == 4 and len(asked) == 1


class TestReference:
    def test_the_reference_is_the_policy_in_memory(self, make_trainer, model):
        with torch.no_grad():  # as SA-Init or a merge would have changed it since it was loaded
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        name = model.config._name_or_path
        trainer = make_trainer(model, beta=0.1, max_steps=3)
        assert torch.equal(weights_of(trainer.ref_model), weights_of(model))
        assert model.config._name_or_path == name
        trainer.train()
        first, *_, last = [entry["kl"] for entry in logs_of(trainer)]
        assert abs(first) < 1e-7 and last > 1e-5

    def test_it_is_synchronised_saved_and_restored(self, make_trainer, model, tmp_path):
        settings = {
            "beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.5,
            "max_steps": 4, "save_strategy": "steps", "save_steps": 2, "rollout": "sample", "num_iterations": 2,
        }  # fmt: skip
        whole = make_trainer(copy.deepcopy(model), **settings)
        start = weights_of(whole.ref_model).clone()
        whole.train()
        assert not torch.equal(weights_of(whole.ref_model), start)
        resumed = make_trainer(copy.deepcopy(model), **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
        assert torch.equal(weights_of(resumed.ref_model), weights_of(whole.ref_model))
        assert torch.equal(weights_of(resumed.model), weights_of(whole.model))
        assert [entry["kl"] for entry in logs_of(resumed)] == [entry["kl"] for entry in logs_of(whole)]

    def test_going_on_in_the_middle_of_a_generation_is_told(self, make_trainer, tmp_path, caplog):
        arguments = {"num_iterations": 2, "max_steps": 3, "save_strategy": "steps", "save_steps": 1}
        make_trainer(**arguments).train()
        for step, told in ((2, False), (1, True)):
            caplog.clear()
            trainer = make_trainer(**arguments)
            trainer.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{step}"))
            assert trainer.state.global_step == 3
            assert ("middle of a generation" in caplog.text) == told
            assert ("Save at multiples of 2 steps" in caplog.text) == told

    def test_a_checkpoint_without_it_is_refused(self, make_trainer, model, tmp_path):
        settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
        make_trainer(copy.deepcopy(model), **settings).train()
        trainer = make_trainer(copy.deepcopy(model), beta=0.1, **settings)
        with pytest.raises(FileNotFoundError, match="reference model in .*reference.*`beta=0`"):
            trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))


class TestLogs:
    def test_what_is_logged(self, make_trainer, dataset):
        trainer = make_trainer(beta=0.1, reward_funcs=[exact_match_reward, ranking_reward])
        trainer.train()
        for entry in logs_of(trainer):
            for name in (
                "reward", "rewards/exact_match_reward/mean", "rewards/ranking_reward/mean", "frac_reward_zero_std",
                "kl", "entropy", "entropy_legal", "hits/share_of_groups",
            ):  # fmt: skip
                assert math.isfinite(entry[name]), name
            assert entry["completions/invalid"] == 0 and entry["completions/clipped_ratio"] == 0
            assert 0 < entry["entropy_legal"] < math.log(3)  # no prefix has more than three children
            hits = entry["hits/share_of_groups"]
            assert entry["rewards/exact_match_reward/mean"] == pytest.approx(hits / 4)
            assert entry["frac_reward_zero_std"] == pytest.approx(1 - hits)

    def test_rank_of_the_target(self, make_trainer, tokenizer):
        prompt = PromptBuilder(tokenizer).sequence_prompt(["hammer"])
        rows = Dataset.from_dict({"prompt": [prompt] * 2, "target": ["nail", "bread"]})
        trainer = make_trainer(train_dataset=rows, max_steps=1)
        completions = tokenizer.encode_sids(["saw", "hammer", "nail", "apple"])
        trainer._roll_out = lambda prompts, group: [completions] * len(prompts)
        trainer.train()
        [entry] = logs_of(trainer)
        assert (entry["hits/share_of_groups"], entry["hits/mean_rank_of_target"]) == (0.5, 3.0)

    def test_evaluation_recommends_and_picks_the_best(self, make_trainer, dataset, tokenizer):
        trainer = make_trainer(
            eval_interactions=dataset.train, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
            max_steps=3, load_best_model_at_end=True, metric_for_best_model="eval_ndcg@10", learning_rate=0.05,
        )  # fmt: skip
        trainer.train()
        scores = {entry["step"]: entry["eval_ndcg@10"] for entry in logs_of(trainer, "eval_ndcg@10")}
        assert len(scores) == 3 and len(set(scores.values())) > 1
        assert trainer.state.best_metric == max(scores.values())
        evaluator = RecommendationEvaluator(dataset.train, tokenizer.sid_index, train=dataset.train)
        expected = evaluator.evaluate_model(trainer.recommender, tokenizer, num_beams=7)["all"]["ndcg@10"]
        assert trainer.state.best_metric == pytest.approx(expected)
        assert all(math.isfinite(entry["eval_reward"]) for entry in logs_of(trainer, "eval_reward"))

    def test_the_start_stays_where_rewards_make_lists_worse(self, make_trainer, dataset, monkeypatch):
        made_up = iter([0.3, 0.2, 0.1])
        monkeypatch.setattr(RecommendationMetrics, "measure", lambda *args: {"ndcg@10": next(made_up)})
        trainer = make_trainer(
            eval_interactions=dataset.train, eval_strategy="steps", eval_steps=1, eval_on_start=True,
            save_strategy="steps", save_steps=1, max_steps=2, load_best_model_at_end=True,
            metric_for_best_model="eval_ndcg@10", learning_rate=0.05,
        )  # fmt: skip
        weights = [parameter.detach().clone() for parameter in trainer.model.parameters()]
        trainer.train()
        assert trainer.state.best_global_step == 0
        pairs = zip(weights, trainer.model.parameters(), strict=True)
        assert all(torch.equal(one, two) for one, two in pairs)

    @pytest.mark.parametrize("kind", ["numpy", "pandas"])
    def test_interactions_in_other_formats(self, make_trainer, dataset, kind):
        found = [
            make_trainer(eval_interactions=rows).recommendation_metrics.measure(make_trainer().recommender, 0)
            for rows in (dataset.test, dataset.test.with_format(kind))
        ]
        assert found[0] == found[1] and "hr@10" in found[0]

    def test_it_learns_the_one_target_there_is(self, make_trainer, model, tokenizer):
        prompt = PromptBuilder(tokenizer).sequence_prompt(["hammer"])
        rows = Dataset.from_dict({"prompt": [prompt] * 4, "target": ["bread"] * 4})
        before = [r.item_id for r in model.recommend(tokenizer, [["hammer"]], top_k=8, num_beams=8)[0]].index("bread")
        trainer = make_trainer(
            train_dataset=rows, reward_funcs=exact_match_reward, num_generations=7, per_device_train_batch_size=7,
            max_steps=40, learning_rate=0.01,
        )  # fmt: skip
        trainer.train()
        [[best]] = model.recommend(tokenizer, [["hammer"]], top_k=1)
        assert before > 0 and best.item_id == "bread"


class TestErrors:
    def test_catalogue_smaller_than_a_group(self, make_trainer):
        with pytest.raises(ValueError, match="at least `num_generations`=8 SIDs.*found 7"):
            make_trainer(num_generations=8)

    @pytest.mark.parametrize(
        ("columns", "error", "match"),
        [
            ({"prompt": ["x"]}, ValueError, r"\['target'\] are missing from \['prompt'\].*`build_grpo_rows`"),
            ({"prompt": ["x"], "target": ["spoon"]}, KeyError, "'spoon' is not among"),
            ({"prompt": [[{"role": "user", "content": "x"}]], "target": ["nail"]}, TypeError, "no conversations"),
        ],
    )
    def test_rows(self, make_trainer, columns, error, match):
        with pytest.raises(error, match=match):
            make_trainer(train_dataset=Dataset.from_dict(columns))
        with pytest.raises(error, match=match):
            make_trainer(eval_dataset=Dataset.from_dict(columns))

    def test_an_evaluation_that_would_split_groups(self, make_trainer, rows):
        # At the start, not after training.
        with pytest.raises(ValueError, match="`per_device_eval_batch_size`=6 is no multiple of `num_generations`=4"):
            make_trainer(eval_dataset=rows, per_device_eval_batch_size=6)
        make_trainer(per_device_eval_batch_size=6)

    def test_no_rows_and_no_rewards(self, make_trainer, rows):
        with pytest.raises(ValueError, match="Expected a train dataset with rows"):
            make_trainer(train_dataset=rows.select([]))
        with pytest.raises(ValueError, match="No reward source"):
            make_trainer(reward_funcs=None)

    def test_arguments(self, make_trainer, model, rows, tmp_path):
        with pytest.raises(TypeError, match="`TSRecGRPOConfig`, but found `GRPOConfig`"):
            TSRecGRPOTrainer(model, exact_match_reward, GRPOConfig(str(tmp_path), bf16=False, use_cpu=True))
        with pytest.raises(ValueError, match="Expected `processing_class`"):
            make_trainer(processing_class=None)
        with pytest.raises(TypeError, match="found `list`"):
            make_trainer(train_dataset=[{"prompt": "x", "target": "nail"}])

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            (
                {"per_device_train_batch_size": 6},
                "`per_device_train_batch_size`=6 is no multiple of `num_generations`=4",
            ),
            (
                {"eval_strategy": "steps", "num_generations_eval": 3, "per_device_eval_batch_size": 8},
                "`per_device_eval_batch_size`=8 is no multiple of `num_generations_eval`=3",
            ),
            ({"rollout": "greedy"}, "`rollout` to be one of .*'greedy'"),
            ({"scoring": "items"}, "`scoring` to be one of"),
            ({"advantage_level": "level"}, "`advantage_level` to be one of"),
            ({"temperature": 0.0}, "positive `temperature`"),
            ({"pad_to_multiple_of": 8}, "`pad_to_multiple_of` does not apply"),
            ({"top_p": 0.9}, "`top_p`=0.9 does not apply"),
            ({"top_k": 5}, "`top_k`=5 does not apply"),
            ({"min_p": 0.1}, "`min_p`=0.1 does not apply"),
            ({"repetition_penalty": 1.2}, "`repetition_penalty`=1.2 does not apply"),
            ({"generation_kwargs": {"num_beams": 3}}, "`generation_kwargs`={'num_beams': 3} does not apply"),
            ({"num_generations": 0}, "`num_generations` of at least 2.*found 0"),
            ({"mask_truncated_completions": True}, "always whole"),
            ({"advantage_level": "token", "scale_rewards": "batch"}, "within groups.*'batch'"),
            ({"dynamic_sampling_max_draws": 0}, "`dynamic_sampling_max_draws` of at least 1"),
            ({"eval_num_beams": 0}, "`eval_num_beams`"),
        ],
    )
    def test_settings(self, make_trainer, arguments, match):
        with pytest.raises(ValueError, match=match):
            make_trainer(**arguments)

    def test_an_index_of_another_checkpoint(self, make_trainer, make_recommender, dataset):
        _, other = make_recommender("llama", index=SIDIndex(["a", "b"], [[0, 1], [1, 0]]), semantics=None)
        rows = Dataset.from_dict({"prompt": ["x"], "target": ["a"]})
        with pytest.raises(ValueError, match="belongs to the SID index"):
            make_trainer(processing_class=other, train_dataset=rows, num_generations=2)


def test_a_run_resumed_in_its_second_pass_takes_the_prompts_that_are_left(make_trainer, model, tmp_path):
    start = tmp_path / "start"
    model.save_pretrained(start)
    arguments = {"max_steps": -1, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 1}
    whole = make_trainer(**arguments)
    whole.train()
    later = whole.state.max_steps // 2 + 1
    resumed = make_trainer(
        model=TSRecForCausalLM.from_pretrained(start), **{**arguments, "output_dir": str(tmp_path / "resumed")}
    )
    resumed.train(resume_from_checkpoint=str(Path(whole.args.output_dir, f"checkpoint-{later}")))
    assert 1 < later < whole.state.max_steps == resumed.state.global_step
    for (name, one), two in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, two), name
