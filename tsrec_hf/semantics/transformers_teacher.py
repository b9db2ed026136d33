"""Teacher that runs a local chat model of transformers in batches."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tsrec_hf.models import PlainText
from tsrec_hf.models.checking_tsrec import checks_types

from .chat_teacher import ChatTeacher
from .teacher_prompt import ANSWER_START, Message


# Values sampled from each weight for the fingerprint: enough to distinguish models, fast even for large ones.
FINGERPRINT_VALUES = 256


class TransformersTeacher(ChatTeacher):
    r"""
    Describes SID tokens with a local chat model.

    Decoding is greedy unless a temperature is given. The model's own `generation_config.json` (temperature, penalties,
    beams, stop tokens) is ignored, so that answers depend on the arguments alone. Answers end at the tokenizer's
    `eos_token`. Each answer is prefilled with `{"description": "`, because small models rarely produce the JSON format
    without it.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]):
            Hub id or folder of a chat model, or the model itself.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Its tokenizer, with a chat template. Needed where `model` is not a string.
        batch_size (`int`, *optional*, defaults to `8`):
            Number of conversations per batch. Conversations of similar length share a batch.
        max_new_tokens (`int`, *optional*, defaults to `512`):
            Maximum length of an answer in tokens; longer ones are truncated.
        temperature (`float`, *optional*, defaults to `0.0`):
            Sampling temperature; `0` for greedy decoding. Seed sampling with `transformers.set_seed`.
        repetition_penalty (`float`, *optional*, defaults to `1.0`):
            Penalty on tokens that the text already contains. Values above 1 keep small models from repeating
            themselves.
        loading_kwargs (`dict`, *optional*):
            Arguments of `from_pretrained` where `model` is a string, such as `{"dtype": "bfloat16"}` or
            `{"gguf_file": "..."}`.
        kwargs:
            Arguments of [`ChatTeacher`]: `sample_tokens`, `sample_items`, `max_retries`, `cache_file`.

    Example:

    ```python
    >>> from tsrec_hf import describe_tokens
    >>> from tsrec_hf.semantics import TransformersTeacher

    >>> tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    >>> teacher = TransformersTeacher(model.backbone, tokenizer, max_new_tokens=4, max_retries=0, sample_tokens=20)
    >>> semantics = describe_tokens(dataset.items, dataset.sid_index, teacher)  # a random model answers nothing useful
    >>> len(teacher.report.fallbacks), semantics.count_teachers()
    (7, {'KeywordTeacher': 7})
    ```
    """

    @checks_types
    def __init__(
        self,
        model: str | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        batch_size: int = 8,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        repetition_penalty: float = 1.0,
        loading_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if batch_size < 1 or max_new_tokens < 1 or temperature < 0 or repetition_penalty <= 0:
            raise ValueError(
                "Expected `batch_size` and `max_new_tokens` of at least 1, a `temperature` of at least 0 and a "
                f"positive `repetition_penalty`, found {batch_size}, {max_new_tokens}, {temperature} and "
                f"{repetition_penalty}. The defaults are 8, 512, 0 and 1."
            )
        loading_kwargs = loading_kwargs or {}
        if isinstance(model, str | Path):
            if tokenizer is None:
                shared = {k: v for k, v in loading_kwargs.items() if k in ("gguf_file", "revision", "token")}
                tokenizer = AutoTokenizer.from_pretrained(model, **shared)
            model = AutoModelForCausalLM.from_pretrained(model, **loading_kwargs)
        elif loading_kwargs:
            raise ValueError("Expected a Hub id or folder for `loading_kwargs`, found a model that is loaded already.")
        if tokenizer is None:
            raise ValueError("Expected the tokenizer of this model, found none. Pass it as `tokenizer`.")
        if not tokenizer.chat_template:
            raise ValueError(
                f"Expected a chat model, but the tokenizer of {model.name_or_path or 'this model'} has no chat "
                "template. Take the instruction-tuned version of the model, or set `tokenizer.chat_template`."
            )
        if tokenizer.eos_token_id is None:
            raise ValueError("Expected a tokenizer with an `eos_token`, which ends answers, found none. Set it.")
        name = model.name_or_path or ""
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._plain = PlainText(tokenizer)
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.repetition_penalty = repetition_penalty
        self._identity: dict[str, Any] = {
            "teacher": type(self).__name__,
            "model": Path(name).name if Path(name).exists() else name,
            "weights": _fingerprint(model),
            "chat_template": tokenizer.chat_template,
            "answer_start": ANSWER_START,
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "repetition_penalty": repetition_penalty,
        }

    def identity(self) -> dict[str, Any]:
        """Returns the model's name, a fingerprint of its weights, the chat template and the decoding settings."""
        return self._identity

    def count_tokens(self, text: str) -> int:
        """Counts the tokens of a text with the model's own tokenizer."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def ask(self, conversations: Sequence[list[Message]]) -> Iterator[tuple[int, str | None]]:
        """Generates answers in batches, longest prompts first, so that a batch that exceeds the memory fails early."""
        prompts = [self._encode(messages) for messages in conversations]
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or float("inf")
        too_long = {number for number, ids in enumerate(prompts) if len(ids) + self.max_new_tokens > limit}
        for number in too_long:
            if len(conversations[number]) == 1:
                raise ValueError(
                    f"Expected prompts and answers within the {limit} positions of the model, but a prompt has "
                    f"{len(prompts[number])} tokens and an answer may have {self.max_new_tokens}. Lower "
                    f"`sample_tokens` (now {self.sample_tokens}) or `max_new_tokens`."
                )
            yield number, None  # the rejected answers in the conversation leave no room for another one
        order = sorted(set(range(len(prompts))) - too_long, key=lambda number: (-len(prompts[number]), number))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            answers = self._generate([prompts[number] for number in batch])
            yield from ((number, ANSWER_START + answer) for number, answer in zip(batch, answers, strict=True))

    def _encode(self, messages: list[Message]) -> list[int]:
        # With `tokenize=False` the result is a string, which the library's annotation does not say.
        # What titles hold is text, even where it looks like the end of a message.
        plain = [{**message, "content": self._plain(message["content"])} for message in messages]
        text = cast(str, self.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True))
        # The template adds the special tokens itself.
        return self.tokenizer(text + ANSWER_START, add_special_tokens=False)["input_ids"]

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]]) -> list[str]:
        eos = self.tokenizer.eos_token_id
        pad = eos if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        width = max(map(len, prompts))
        input_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts])
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
        sampling = {"do_sample": True, "temperature": self.temperature, "top_k": 0, "top_p": 1.0}
        settings = GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            eos_token_id=eos,
            pad_token_id=pad,
            repetition_penalty=self.repetition_penalty,
            **(sampling if self.temperature > 0 else {"do_sample": False}),
        )
        # `generate` takes every option that `settings` leaves unset from the model's own generation config, which
        # comes with the checkpoint. An empty config keeps it from doing so.
        own = self.model.generation_config
        self.model.generation_config = GenerationConfig()
        try:
            generated = self.model.generate(
                input_ids=input_ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                generation_config=settings,
            )
        finally:
            self.model.generation_config = own
        return self.tokenizer.batch_decode(generated[:, width:], skip_special_tokens=True)


def _fingerprint(model: PreTrainedModel) -> str:
    """Hashes config, names, shapes and sampled values of all weights, so that a further fine-tuned model differs."""
    config = model.config.to_diff_dict()
    for name in ("_name_or_path", "transformers_version"):
        config.pop(name, None)  # they change nothing
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):  # settings of quantised layers
            continue
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if tensor.numel() and tensor.device.type != "meta":
            values = tensor.detach().flatten()
            values = values[:: max(1, values.numel() // FINGERPRINT_VALUES)].contiguous().cpu()
            digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
