"""Read a safetensors file with facts in its header: every way in which it can be damaged has its words."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open


def read_arrays(path: str | Path, name: str) -> tuple[dict[str, Any] | None, dict[str, np.ndarray]]:
    """
    The facts of a safetensors file, JSON by a name in its metadata, and its arrays.

    Facts are `None` where the metadata has no object by that name: the file is of another kind, which is for the
    caller to say.

    Raises:
        `ValueError`: a truncated or damaged file, by its name.

    Example:

    ```python
    >>> import tempfile
    >>> import numpy as np
    >>> from pathlib import Path
    >>> from safetensors.numpy import save_file
    >>> from tsrec_hf.models.array_files_tsrec import read_arrays

    >>> path = Path(tempfile.mkdtemp(), "prior.safetensors")
    >>> save_file({"counts": np.arange(3)}, path, {"prior": '{"version": 1}'})
    >>> read_arrays(path, "prior")
    ({'version': 1}, {'counts': array([0, 1, 2])})
    ```
    """
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads((file.metadata() or {}).get(name, "null"))
            arrays = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}). It may be truncated: fetch or save it again."
        ) from error
    return facts if isinstance(facts, dict) else None, arrays
