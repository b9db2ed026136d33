"""Configuration of a TS-Rec recommender: its backbone's configuration and the settings that decide results."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


# Stands in a model card for the repository until the model is pushed to one.
UNNAMED_REPO = "your-name/your-recommender"
# What `pipeline(model=..., trust_remote_code=True)` makes of a checkpoint.
PIPELINES = {
    "recommendation": {
        "impl": "pipeline_tsrec.RecommendationPipeline",
        "pt": ["AutoModelForCausalLM"],
        "type": "text",
    }
}


class _OwnPipelines(dict):
    """
    Names the task to `pipeline(model=...)`, and says no to `task in custom_pipelines`, by which transformers asks
    whether the repository's code has to be executed: with the package it has not.
    """

    def __contains__(self, task: object) -> bool:
        return False


@strict
class TSRecConfig(PreTrainedConfig):
    r"""
    Configuration of [`TSRecForCausalLM`].

    Args:
        backbone_config (`dict` or [`~transformers.PreTrainedConfig`], *optional*):
            Configuration of the language model inside; its `model_type` says which. Defaults to Qwen2's.
        sid_index_fingerprint (`str`, *optional*):
            `SIDIndex.fingerprint` of the catalogue the checkpoint was made for. A tokenizer of another index is
            refused.
        prompt_version (`str`, *optional*):
            Version of the prompts' wording at training. A tokenizer of another version is refused.
        max_history (`int`, *optional*):
            Items of a history that prompts held, as the tokenizer said when the checkpoint was made. A record: prompts
            follow the tokenizer, and a tokenizer that says otherwise is refused.
        sid_token (`list`, *optional*):
            A SID token and its id: the row that the model has for it. A tokenizer of another backbone, in which the
            token has another id, is refused.
        recommend_num_beams (`int`, *optional*, defaults to `50`):
            Beams of [`~TSRecForCausalLM.recommend`] where the caller names no number.
        sid_initialization (`dict`, *optional*):
            How the SID rows were initialised: the arguments and figures of the SA-Init report.
        run_facts (`dict`, *optional*):
            Facts about the checkpoint's training, for its model card: backbone, data, SID method, stages.

    Example:

    ```python
    >>> from transformers import LlamaConfig
    >>> from tsrec_hf import TSRecConfig

    >>> config = TSRecConfig(backbone_config=LlamaConfig(num_hidden_layers=2))
    >>> config.backbone_config.model_type, config.recommend_num_beams
    ('llama', 50)
    ```
    """

    model_type = "tsrec"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen2")}

    backbone_config: dict | PreTrainedConfig | None = None
    sid_index_fingerprint: str | None = None
    prompt_version: str | None = None
    max_history: int | None = None
    sid_token: list | tuple | None = None
    # Not `num_beams`, which `generate` would take for its own default.
    recommend_num_beams: int = 50
    sid_initialization: dict[str, Any] | None = None
    run_facts: dict[str, Any] | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        # Ties are the backbone's business; whoever asks the wrapper must hear the same.
        self.tie_word_embeddings = bool(getattr(self.backbone_config, "tie_word_embeddings", False))
        # TRL 1.16 looks into `config.auto_map` and expects a dict there.
        self.auto_map = getattr(self, "auto_map", None) or {}
        if __name__.startswith("tsrec_hf."):
            self.custom_pipelines = _OwnPipelines(PIPELINES)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs) -> "TSRecConfig":
        """
        As the parent's. Raises `ValueError` for the configuration of another kind of model, such as a plain backbone,
        and for one without a backbone, as a folder without `config.json` gives.
        """
        if config_dict.get("model_type", cls.model_type) != cls.model_type:
            raise ValueError(
                f"Expected the configuration of a 'tsrec' checkpoint, but found one of type "
                f"{config_dict['model_type']!r}. Make a recommender of a plain language model with "
                "`TSRecForCausalLM.from_backbone`."
            )
        if not config_dict.get("backbone_config"):
            # The default backbone would be billions of random weights.
            raise ValueError(
                "Expected `config.json` of a recommender, with its `backbone_config`, but found "
                f"{'none' if not config_dict else f'one with {sorted(config_dict)} alone'}. Fetch the checkpoint's "
                "`config.json`, or save the checkpoint again."
            )
        return super().from_dict(config_dict, **kwargs)

    def get_text_config(self, decoder=None, encoder=None) -> PreTrainedConfig:
        """The backbone's configuration, so that `generate` and resized embeddings use the right sizes."""
        assert isinstance(self.backbone_config, PreTrainedConfig)  # the parent's `__post_init__` made it one
        return self.backbone_config

    def to_dict(self) -> dict[str, Any]:
        """
        As the parent's; a local folder in the backbone's `_name_or_path` means nothing elsewhere and is left out.
        """
        output = super().to_dict()
        output["backbone_config"].pop("_name_or_path", None)
        return output
