"""
`recommend` with vLLM's engine in the model's place.

Everything but the logits is the search of `recommend`: rules, priors, ranking and ties. The engine gives, for each
prefix, the log-probabilities of the tokens that continue a SID, which `SIDLogitsProcessor` leaves; every prefix is a
request of one token, whose prompt is the user's and the prefix.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from tsrec_hf.models import Recommendation, SearchSession, SIDSearch, TSRecTokenizer
from tsrec_hf.models.recommending_tsrec import ItemSet, recommend_items

from .sid_constraint import SIDConstraint


if TYPE_CHECKING:
    from vllm import LLM

NUM_BEAMS = 50
# Batches are cut by users alone: vLLM's scheduler sees to memory.
NO_LIMIT = 1 << 62


def recommend_vllm(
    llm: "LLM",
    tokenizer: TSRecTokenizer,
    histories: Sequence[Sequence[str]],
    top_k: int = 10,
    num_beams: int = NUM_BEAMS,
    batch_size: int = 64,
    progress: bool = False,
    allowed_items: ItemSet | None = None,
    exclude_items: ItemSet | None = None,
    exclude_history: bool = False,
    search: str = "beam",
    prior: Any = "fitted",
    prior_form: str | None = None,
    prior_weight: float | None = None,
    unknown_items: str = "error",
) -> list[list[Recommendation]]:
    r"""
    Ranks the catalogue's items for each history with vLLM's engine, as [`TSRecForCausalLM.recommend`] does.

    Args:
        llm (`vllm.LLM`):
            Engine of a checkpoint, or of the folder that [`export_backbone`] wrote, with
            `logprobs_mode="processed_logprobs"` and `max_logprobs=-1`, where the package is installed beside vLLM.
        tokenizer ([`TSRecTokenizer`]):
            The checkpoint's tokenizer; its catalogue may lack items that the engine's has, but not the reverse.
        histories (`Sequence[Sequence[str]]`):
            Item ids of each user, oldest first.
        top_k, num_beams, progress, allowed_items, exclude_items, exclude_history, search, prior, prior_form,
        prior_weight, unknown_items (*optional*):
            As in [`TSRecForCausalLM.recommend`]; scores are those of `scoring="catalogue"`.
        batch_size (`int`, *optional*, defaults to `64`):
            Users whose prefixes are given to the engine together.

    Returns:
        `list[list[Recommendation]]`: For each user, best first.

    Raises:
        `ValueError`: an engine of other settings, without the processor, or of another catalogue. All that `recommend`
        raises.

    Example:

    ```python
    >>> from tsrec_hf import recommend_vllm

    >>> from vllm import LLM  # doctest: +SKIP
    >>> llm = LLM("outputs/sft", logprobs_mode="processed_logprobs", max_logprobs=-1)  # doctest: +SKIP
    >>> recommend_vllm(llm, tokenizer, [["117", "118"]], top_k=10)  # doctest: +SKIP
    ```
    """
    return recommend_items(
        VLLMSession(llm, tokenizer),
        histories,
        top_k=top_k,
        num_beams=num_beams,
        batch_size=batch_size,
        progress=progress,
        allowed_items=allowed_items,
        exclude_items=exclude_items,
        exclude_history=exclude_history,
        search=search,
        max_batch_tokens=NO_LIMIT,
        prior=prior,
        prior_form=prior_form,
        prior_weight=prior_weight,
        unknown_items=unknown_items,
    )


class VLLMSession(SearchSession):
    """
    A session whose logits an engine computes.

    Args:
        llm (`vllm.LLM`):
            The engine.
        tokenizer ([`TSRecTokenizer`]):
            The checkpoint's tokenizer.
    """

    def __init__(self, llm: "LLM", tokenizer: TSRecTokenizer):
        self._read_catalogue(tokenizer)
        # Where the search is; the model is where the engine has put it.
        self.device, self.dtype = torch.device("cpu"), llm.llm_engine.model_config.dtype
        self.trie = self.index.trie
        self.search = VLLMSearch(llm, self, tokenizer)


class VLLMSearch(SIDSearch):
    """
    The search of a [`VLLMSession`].

    Args:
        llm (`vllm.LLM`):
            The engine.
        session ([`VLLMSession`]):
            Its session.
        tokenizer ([`TSRecTokenizer`]):
            The checkpoint's tokenizer.
    """

    def __init__(self, llm: "LLM", session: VLLMSession, tokenizer: TSRecTokenizer):
        config = llm.llm_engine.model_config
        width = _width_of_engine(config, tokenizer)
        if config.logprobs_mode != "processed_logprobs" or -1 < config.max_logprobs < width:
            raise ValueError(
                'Expected an engine with `logprobs_mode="processed_logprobs"` and `max_logprobs` of -1 or at least '
                f"{width}, but found {config.logprobs_mode!r} and {config.max_logprobs}. Pass both to `LLM`."
            )
        self.scoring = "catalogue"
        self._read_catalogue(session.trie, tokenizer.sid_token_ids, session.device)
        self._has_cut_head = True  # logits are those of SID tokens alone
        self._llm, self._width = llm, width
        self._instruction_ids = list(session.prompts.instruction_ids)

    def _pays_to_prune(self, input_ids: torch.Tensor, num_beams: int, top_k: int) -> bool:
        return False

    def _passes(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> "VLLMPasses":
        prompts = [self._instruction_ids + ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask)]
        return VLLMPasses(self._llm, prompts, self.token_ids, self._width)


class VLLMPasses:
    """
    As `TreePasses`, by requests to an engine.

    Args:
        llm (`vllm.LLM`):
            The engine.
        prompts (`list[list[int]]`):
            Token ids of each user's prompt.
        token_ids (`torch.Tensor` of shape `(slots,)`):
            Tokens of SIDs, in the order in which logits are given.
        width (`int`):
            Most tokens that continue a prefix.
    """

    def __init__(self, llm: "LLM", prompts: list[list[int]], token_ids: torch.Tensor, width: int):
        from vllm import SamplingParams

        self._llm, self._prompts, self._width = llm, prompts, width
        self._num_slots = len(token_ids)
        self._slot_of = torch.full((int(token_ids.max()) + 2,), -1)
        self._slot_of[token_ids] = torch.arange(len(token_ids))
        # The tokens from the prompt's end to each node.
        self._paths: list[list[list[int]]] = [[[]] for _ in prompts]
        self._params = SamplingParams(
            max_tokens=1, temperature=0.0, logprobs=width, detokenize=False, flat_logprobs=True
        )

    def prompt_logits(self) -> torch.Tensor:
        """Logits of SID tokens behind the prompts: `(batch, 1, slots)`."""
        return self._logits_behind([[[]] for _ in self._prompts])

    def extend(self, parents: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """Adds nodes `(batch, nodes)` to the trees, and gives the logits behind each: `(batch, nodes, slots)`."""
        added = []
        for known, own_parents, tokens in zip(self._paths, parents.tolist(), token_ids.tolist()):
            added.append([known[parent] + [token] for parent, token in zip(own_parents, tokens)])
            known += added[-1]
        return self._logits_behind(added)

    def _logits_behind(self, paths: list[list[list[int]]]) -> torch.Tensor:
        inputs = [{"prompt_token_ids": prompt + path} for prompt, rows in zip(self._prompts, paths) for path in rows]
        outputs = self._llm.generate(inputs, self._params, use_tqdm=False)
        # A finite filling, as where a prefix has no probability.
        logits = torch.full((len(inputs), self._num_slots), torch.finfo(torch.float32).min)
        for row, output in enumerate(outputs):
            found = output.outputs[0].logprobs
            values = torch.tensor(found.logprobs)
            tokens = torch.tensor(found.token_ids)[values > -torch.inf]
            slots = self._slot_of[tokens.clamp(max=len(self._slot_of) - 1)]
            if (slots < 0).any():
                raise ValueError(
                    "Expected the engine to leave tokens of SIDs alone, but found others: its logits processor is not "
                    "loaded. Install `tsrec_hf` in vLLM's environment, or pass "
                    '`logits_processors=["tsrec_hf.serving.vllm_processor:SIDLogitsProcessor"]` to `LLM`.'
                )
            logits[row, slots] = values[values > -torch.inf]
        return logits.view(len(self._prompts), -1, self._num_slots)


def _width_of_engine(config: Any, tokenizer: TSRecTokenizer) -> int:
    """Most tokens that continue a prefix in the engine's catalogue, which must hold all that the tokenizer's holds."""
    theirs = _constraint_of_engine(config.model, config.revision)
    if theirs is None:
        raise ValueError(
            f"Expected an engine of a recommender, but {config.model} holds no SIDs. Pass a checkpoint of `tsrec_hf` "
            "or the folder of `export_backbone` to `LLM`."
        )
    ours, known = SIDConstraint.of_tokenizer(tokenizer).sids, theirs.sids
    missing = len(ours - known)
    if missing:
        raise ValueError(
            f"Expected an engine that knows all SIDs of the tokenizer's catalogue, but {missing} are unknown to it. "
            "Save the tokenizer to the engine's folder, or export it anew, and start the engine again."
        )
    return max(theirs.trie.max_children)


# The engine has read the folder once, when it started.
_constraint_of_engine = lru_cache(maxsize=4)(SIDConstraint.of_model)
