"""
Export of a recommender as a plain checkpoint, for software that does not know this package: `AutoModelForCausalLM`,
vLLM, llama.cpp.

The weights are the backbone's, bit for bit, and no custom code stands beside them. What constrained decoding needs
goes along as text: the SIDs that exist, and which items they stand for.
"""

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from tsrec_hf.models import PromptBuilder, SIDIndex, TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.models.replacing_tsrec import replaced, write_text


logger = logging.getLogger(__name__)

SIDS_FILE = "sids.txt"
ITEMS_FILE = "items.jsonl"
TEMPLATE = Path(__file__).with_name("export_template.md")

# What PEFT calls the weights that it puts adapters beside.
ADAPTED = re.compile(r"\.(base_layer|original_module)\.")

# Arguments of a tokenizer that decide what it does and are not in its `tokenizer.json`.
_TOKENIZER_SETTINGS = (
    "add_bos_token",
    "add_eos_token",
    "clean_up_tokenization_spaces",
    "model_max_length",
    "padding_side",
    "truncation_side",
)


@checks_types
def export_backbone(
    model: TSRecForCausalLM, directory: str | Path, tokenizer: TSRecTokenizer | None = None, **save_kwargs
) -> Path:
    r"""
    Exports a recommender's language model as a plain checkpoint.

    The folder holds weights, configuration, generation configuration and tokenizer of a model that
    `AutoModelForCausalLM.from_pretrained` loads without this package and without `trust_remote_code`, with equal
    logits; beside them `sids.txt` (every SID that exists, one a line), `items.jsonl` (item id, SID and title of every
    item, in the order of the index) and a `README.md` that shows how to decode with vLLM and llama.cpp.

    Args:
        model ([`TSRecForCausalLM`]):
            The recommender. Merge adapters first.
        directory (`str` or `Path`):
            Folder to write to; made if it is absent.
        tokenizer ([`TSRecTokenizer`], *optional*):
            The recommender's tokenizer. Defaults to the one in the checkpoint that the model was read from.
        save_kwargs (*optional*):
            Passed to the backbone's `save_pretrained`: `max_shard_size`, ...

    Returns:
        `Path`: The folder.

    Raises:
        `TypeError`: a model or tokenizer of another kind. `ValueError`: a tokenizer of another catalogue, a model that
        was read from nowhere and comes without a tokenizer, a folder that holds a recommender, quantised or offloaded
        weights.

    Example:

    ```python
    >>> import tempfile
    >>> from transformers import AutoModelForCausalLM
    >>> from tsrec_hf import export_backbone

    >>> folder = export_backbone(model, tempfile.mkdtemp(), tokenizer)
    >>> type(AutoModelForCausalLM.from_pretrained(folder)).__name__
    'LlamaForCausalLM'
    >>> (folder / "sids.txt").read_text().splitlines()[:2]
    ['<a_0><b_0><c_0>', '<a_0><b_0><c_1>']
    ```
    """
    # By type of the configuration: a model loaded with remote code is of another class of the same name.
    if getattr(getattr(model, "config", None), "model_type", None) != "tsrec" or not hasattr(model, "recommend"):
        raise TypeError(
            f"Expected a `TSRecForCausalLM`, but found `{type(model).__name__}`. Load one with "
            "`TSRecForCausalLM.from_pretrained`."
        )
    if hasattr(model, "merge_and_unload"):
        raise TypeError(
            "Expected a recommender without adapters, but found one that PEFT wraps. Merge them first: "
            "`export_backbone(model.merge_and_unload(), ...)`."
        )
    inside = next((name for name, _ in model.named_parameters() if ADAPTED.search(name)), None)
    if inside is not None:
        raise TypeError(
            f"Expected a recommender without adapters, but found one with adapters inside ({inside}), as "
            "`from_pretrained` of an adapter leaves them. Read the adapter by `tsrec_hf.load_recommender`, "
            "which merges it."
        )
    if getattr(model, "is_quantized", False):
        raise ValueError(
            "Expected weights as they were trained, but found quantised ones, which a plain checkpoint cannot hold. "
            "Load the recommender without quantising it, and with what was trained on it merged: "
            "`load_recommender(folder, dtype='bfloat16')`. Quantise the exported folder."
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(
            "Expected weights in memory, but found some that a `device_map` has offloaded to the CPU or a disk. Load "
            "the recommender without `device_map`."
        )
    if tokenizer is None:
        if not model.name_or_path:
            raise ValueError(
                "Expected `tokenizer`, since this model was made in memory and has no checkpoint to read it from."
            )
        tokenizer = TSRecTokenizer.from_pretrained(model.name_or_path)
    model.check_tokenizer(tokenizer)
    directory = Path(directory)
    config_file = directory / "config.json"
    if config_file.is_file() and json.loads(config_file.read_text(encoding="utf-8")).get("model_type") == "tsrec":
        raise ValueError(
            f"Expected a folder for the export alone, but {directory} holds a recommender, which would be "
            "overwritten. Name another folder."
        )
    directory.mkdir(parents=True, exist_ok=True)
    model.backbone.save_pretrained(directory, **save_kwargs)
    _write_for_older_readers(config_file)
    _generation_config(model, tokenizer).save_pretrained(directory)
    _save_plain_tokenizer(tokenizer, directory)
    _write_items(tokenizer.sid_index, directory)
    _write_readme(model, tokenizer, directory)
    return directory


def legal_sids(sid_index: SIDIndex) -> list[str]:
    """Lists the distinct SIDs of the catalogue, spelled, in the order of their codes."""
    return [sid_index.spell(codes) for codes in sorted(set(map(tuple, sid_index.codes.tolist())))]


def _write_for_older_readers(config_file: Path) -> None:
    """
    Repeats the rotary base under the name it had before transformers 5: a reader that does not know `rope_parameters`
    (vLLM on transformers 4, older converters of llama.cpp) would take its default for it and be wrong in silence.
    """
    config = json.loads(config_file.read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        config["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default":
            config["rope_scaling"] = {name: value for name, value in rope.items() if name != "rope_theta"}
        write_text(config_file, json.dumps(config, indent=2, sort_keys=True) + "\n")


def _generation_config(model: TSRecForCausalLM, tokenizer: TSRecTokenizer) -> GenerationConfig:
    """Greedy and as long as a SID: a backbone's own temperature and top-k would be what servers sample with."""
    end = model.generation_config.eos_token_id
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id if end is None else end,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=tokenizer.sid_index.num_levels,
    )


def _save_plain_tokenizer(tokenizer: TSRecTokenizer, directory: Path) -> None:
    settings = {name: tokenizer.init_kwargs[name] for name in _TOKENIZER_SETTINGS if name in tokenizer.init_kwargs}
    plain = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, **settings, **tokenizer.special_tokens_map
    )
    plain.chat_template = tokenizer.chat_template
    plain.save_pretrained(directory)
    # transformers 5 writes a name for this class that transformers 4, on which servers may stand, does not know.
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_text(path, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    probe = PromptBuilder(tokenizer).sequence_prompt(tokenizer.sid_index.item_ids[:2])
    if AutoTokenizer.from_pretrained(directory).encode(probe) != tokenizer.encode(probe):
        # transformers 5 prefers its own class for some types of model to the one that the folder names.
        logger.warning(
            f"`AutoTokenizer` reads the tokenizer in {directory} as the usual one of this type of model, which "
            "encodes otherwise. Load it with `PreTrainedTokenizerFast.from_pretrained`."
        )


def _write_items(sid_index: SIDIndex, directory: Path) -> None:
    write_text(directory / SIDS_FILE, "\n".join(legal_sids(sid_index)) + "\n")
    titles: Sequence[str | None] = sid_index.titles or [None] * len(sid_index)
    rows = [
        {"item_id": item_id, "sid": sid_index.spell(codes), "title": title}
        for item_id, codes, title in zip(sid_index.item_ids, sid_index.codes.tolist(), titles)
    ]
    write_text(directory / ITEMS_FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write_readme(model: TSRecForCausalLM, tokenizer: TSRecTokenizer, directory: Path) -> None:
    index = tokenizer.sid_index
    card = ModelCard.from_template(
        ModelCardData(library_name="transformers", pipeline_tag="text-generation", tags=["tsrec", "recommendation"]),
        template_path=str(TEMPLATE),
        name=directory.resolve().name,
        instruction=PromptBuilder(tokenizer).sequence_instruction,
        history=list(index.item_ids[:2]),
        max_history=tokenizer.max_history,
        num_beams=model.config.recommend_num_beams,
        num_levels=index.num_levels,
        num_items=len(index),
        num_sids=index.trie.num_leaves,
    )
    with replaced(directory / "README.md") as part:
        card.save(part)
