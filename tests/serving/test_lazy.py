"""Nothing of an engine is imported before it is used."""

import subprocess
import sys
from pathlib import Path


def test_the_room_needs_no_engine():
    script = (
        "import sys, tsrec_hf, tsrec_hf.serving\n"
        "tsrec_hf.recommend_vllm, tsrec_hf.RequestBatcher, tsrec_hf.serving.SIDConstraint\n"
        "print(*sorted({'vllm', 'fastapi', 'uvicorn', 'starlette', 'prometheus_client', 'trl'} & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert run.returncode == 0 and run.stdout.split() == [], run.stderr
