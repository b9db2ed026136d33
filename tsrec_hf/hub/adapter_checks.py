"""Adapters that PEFT would train or merge into another model than the one they were trained as."""

from typing import Any, cast

from peft import PeftModel
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer

from tsrec_hf.models import TSRecForCausalLM


# Initialisations of LoRA that take a part of the base's weights out: without adapters it is another model.
CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def check_adapter(model: PeftModel) -> None:
    """
    Checks adapters of a recommender, whoever configured them.

    Args:
        model ([`~peft.PeftModel`]):
            The recommender with its adapters.

    Raises:
        `ValueError`: adapters on one of two tied matrices, which a merge would put into both; trained rows beside an
        output head with a bias, which PEFT drops.
    """
    recommender = cast(TSRecForCausalLM, model.get_base_model())
    inputs, outputs = cast(Any, recommender.get_input_embeddings()), cast(Any, recommender.get_output_embeddings())
    if recommender.config.tie_word_embeddings:
        for name, module in (("input embeddings", inputs), ("output head", outputs)):
            if isinstance(module, BaseTunerLayer):
                raise ValueError(
                    f"Expected adapters that leave the {name} alone, which are one matrix with the "
                    f"{'output head' if module is inputs else 'input embeddings'}: merged, an adapter of one would "
                    "change both. Leave them out of `target_modules`, and name the SID rows in "
                    "`trainable_token_indices`, as `lora_config` does."
                )
    head = getattr(outputs, "original_module", outputs)
    has_rows = any(isinstance(module, TrainableTokensLayer) for module in model.modules())
    if has_rows and getattr(head, "bias", None) is not None:
        raise ValueError(
            "Expected an output head without bias, but found one that has it, which PEFT 0.21 drops where it trains "
            "rows of a head. Leave `trainable_token_indices` out, or train without adapters."
        )


def changes_the_base(model: PeftModel) -> str | None:
    """How adapters were initialised, if that took a part of the base's weights out."""
    for config in model.peft_config.values():
        init = str(getattr(config, "init_lora_weights", "")).lower()
        if init.startswith(CHANGE_THE_BASE):
            return init
    return None
