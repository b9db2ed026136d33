"""The tree decoder as a `custom_generate` repository, for language models that stand alone."""

import copy
import shutil
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from transformers.dynamic_module_utils import get_relative_import_files

from tsrec_hf.models import PromptBuilder, TSRecTokenizer, custom_generate_tsrec
from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.models.modeling_tsrec import REQUIREMENTS
from tsrec_hf.models.replacing_tsrec import replaced, write_text


TEMPLATE = Path(__file__).with_name("custom_generate_template.md")
# What transformers looks for in the folder `custom_generate` of a repository.
FOLDER, ENTRY, REQUIREMENTS_FILE = "custom_generate", "generate.py", "requirements.txt"
UNNAMED_DECODER, UNNAMED_MODEL = "your-name/your-decoder", "your-name/your-exported-model"


@checks_types
def export_custom_generate(
    tokenizer: TSRecTokenizer, directory: str | Path, repo_id: str = UNNAMED_DECODER, model_id: str = UNNAMED_MODEL
) -> Path:
    r"""
    Exports the tree decoder of a catalogue as a repository for `generate(custom_generate=...)`.

    The folder holds the decoder (`custom_generate/generate.py` and what it imports), the tokenizer with its SID index
    and code, and a `README.md`. Whoever has the language model, as [`export_backbone`] writes it, gets the lists of
    [`TSRecForCausalLM.recommend`] without a prior, with transformers alone.

    Args:
        tokenizer ([`TSRecTokenizer`]):
            The recommender's tokenizer. Its prior stays here: the decoder has no use for it.
        directory (`str` or `Path`):
            Folder to write to; made if it is absent. `hf upload` sends it.
        repo_id (`str`, *optional*):
            Where it will be on the Hub, for the example in its `README.md`.
        model_id (`str`, *optional*):
            Likewise, the exported language model.

    Returns:
        `Path`: The folder.

    Raises:
        `ValueError`: a folder that holds a model, whose own `generate` the decoder would replace.

    Example:

    ```python
    >>> import tempfile
    >>> from tsrec_hf import export_custom_generate

    >>> folder = export_custom_generate(tokenizer, tempfile.mkdtemp())
    >>> sorted(path.name for path in (folder / "custom_generate").glob("gen*.py"))
    ['generate.py', 'generate_tsrec.py']
    ```
    """
    directory = Path(directory)
    if (directory / "config.json").exists():
        raise ValueError(
            f"Expected a folder for the decoder alone, but {directory} holds a model, whose `generate` transformers "
            "would replace by the decoder. Name another folder."
        )
    directory.mkdir(parents=True, exist_ok=True)
    own = copy.deepcopy(tokenizer)
    own.set_prior(None)
    own.save_pretrained(directory)
    entry = Path(custom_generate_tsrec.__file__)
    code = directory / FOLDER
    code.mkdir(exist_ok=True)
    shutil.copyfile(entry, code / ENTRY)
    for path in set(get_relative_import_files(entry)):
        shutil.copyfile(path, code / Path(path).name)
    write_text(code / REQUIREMENTS_FILE, REQUIREMENTS)
    _write_readme(own, directory, repo_id, model_id)
    return directory


def _write_readme(tokenizer: TSRecTokenizer, directory: Path, repo_id: str, model_id: str) -> None:
    index = tokenizer.sid_index
    card = ModelCard.from_template(
        ModelCardData(library_name="transformers", tags=[FOLDER, "tsrec", "recommendation"]),
        template_path=str(TEMPLATE),
        name=repo_id.split("/")[-1] if repo_id != UNNAMED_DECODER else directory.resolve().name,
        repo_id=repo_id,
        model_id=model_id,
        instruction=PromptBuilder(tokenizer).sequence_instruction,
        history=list(index.item_ids[:2]),
        max_history=tokenizer.max_history,
        num_levels=index.num_levels,
        num_items=len(index),
        num_sids=index.trie.num_leaves,
    )
    with replaced(directory / "README.md") as part:
        card.save(part)
