import json
import subprocess
import sys

import pytest

from tsrec_hf.evaluation import recommend_distributed


HISTORIES = [["1", "2"], ["3"], ["4", "5", "6"]]


def test_one_process_recommends_for_everyone_in_order():
    assert recommend_distributed(lambda share: [history[-1:] for history in share], HISTORIES) == [["2"], ["3"], ["6"]]
    assert recommend_distributed(lambda share: [], []) == []


def test_a_list_is_expected_for_every_history():
    with pytest.raises(ValueError, match="each of 3 histories, but found 1"):
        recommend_distributed(lambda share: [["1"]], HISTORIES)


SCRIPT = """
import json, sys
import torch
from tsrec_hf.evaluation import recommend_distributed
shares = []
def recommend(share):
    shares.append(share)
    return [history[::-1] for history in share]
found = [recommend_distributed(recommend, histories) for histories in json.loads(sys.argv[1])]
rank = torch.distributed.get_rank()
open(f"{sys.argv[2]}/{rank}.json", "w").write(json.dumps([shares, found]))
torch.distributed.destroy_process_group()
"""


def test_two_processes_share_the_histories(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    # The second time there are more processes than histories.
    calls = [HISTORIES, HISTORIES[:1]]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launcher, str(script), json.dumps(calls), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = [[history[::-1] for history in histories] for histories in calls]
    shares = [[[["1", "2"], ["4", "5", "6"]], [["1", "2"]]], [[["3"]], []]]
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [shares[rank], expected]
