"""Runs on disk, `runs/<study>/<run>/`: the truth that trackers mirror and reports read. Needs no torch.

config.yaml     the resolved config
run.json        state, flat config, signature, seed, git, hardware, packages, command, times, final summary
metrics.jsonl   one line per event: step, tokens, flops, seconds, values
checkpoints/    safetensors and JSON
samples/        text that the model wrote
"""

from gpt_lab.store.find import all_runs, best, find_run, find_signature
from gpt_lab.store.record import code, gather
from gpt_lab.store.run import STATES, Run

__all__ = ["STATES", "Run", "all_runs", "best", "code", "find_run", "find_signature", "gather"]
