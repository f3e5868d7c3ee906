"""Two real processes under `accelerate launch` on the CPU take the steps that one process takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from partner_rl.config.schema import WarmStartConfig
from partner_rl.config.section import LoraSection
from partner_rl.warmstart.train import train_warmstart
from tests.helpers.command_line import environment
from tests.helpers.ports import free_port
from tests.warmstart.toy import SETTINGS, tiny_policy, toy_examples

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
"""Despite its name, `--multi_gpu` is the flag that starts several processes on a CPU too."""
LAUNCH += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port"]

# Three examples a step cannot be shared evenly; the last step has one, which leaves a process without any.
WARMSTART = {"epochs": 2, "batch_size": 3, "learning_rate": 0.5, "micro_batch_tokens": 40}
COUNT, DEV = 10, 5

SCRIPT = """
import json, sys
from pathlib import Path

import torch
from accelerate import PartialState

from safetensors.torch import save_file

from partner_rl.config.schema import WarmStartConfig
from partner_rl.config.section import LoraSection
from partner_rl.warmstart.train import train_warmstart
from tests.warmstart.toy import SETTINGS, tiny_policy, toy_examples

torch.set_num_threads(1)
torch.optim.AdamW = torch.optim.SGD
folder, settings, count, dev = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
rank = PartialState(cpu=True).process_index
policy = tiny_policy(folder, SETTINGS.model_copy(update={"lora": LoraSection(rank=4)}))
with torch.no_grad():
    for parameter in policy.model.parameters():
        # Processes that do not start from the main one's weights go apart.
        parameter.add_(float(rank) * parameter.requires_grad)
report = train_warmstart(
    policy, toy_examples(count), toy_examples(dev), WarmStartConfig(**settings), folder / "work", 0
)
save_file({n: p.detach() for n, p in policy.model.named_parameters()}, folder / f"weights{rank}.safetensors")
(folder / f"report{rank}.json").write_text(json.dumps([PartialState().num_processes, report.losses, report.as_json()]))
"""


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_policy(tmp_path)  # Both processes find the model in the cache.
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    arguments = [str(script), str(tmp_path), *map(json.dumps, (WARMSTART, COUNT, DEV))]
    done = subprocess.run(
        [*LAUNCH, str(free_port()), *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (first_count, first_losses, first), (second_count, second_losses, second) = (
        json.loads((tmp_path / f"report{rank}.json").read_text()) for rank in (0, 1)
    )
    assert (first_count, second_count) == (2, 2)
    assert first_losses == second_losses
    assert first["epochs"] == second["epochs"]

    monkeypatch.setattr(torch.optim, "AdamW", torch.optim.SGD)
    policy = tiny_policy(tmp_path, SETTINGS.model_copy(update={"lora": LoraSection(rank=4)}))
    settings = WarmStartConfig.model_validate(WARMSTART)
    alone = train_warmstart(policy, toy_examples(COUNT), toy_examples(DEV), settings, tmp_path / "alone", 0)
    assert first_losses == pytest.approx(alone.losses, abs=1e-4)
    assert alone.best is not None
    assert first["epochs"][alone.best_epoch - 1]["dev"]["loss"] == pytest.approx(alone.best.loss, abs=1e-4)
    for rank in (0, 1):
        found = load_file(tmp_path / f"weights{rank}.safetensors")
        gaps = [(found[name] - p.detach()).abs().max().item() for name, p in policy.model.named_parameters()]
        assert max(gaps) < 1e-4
