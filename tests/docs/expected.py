"""What each command of the pages prints, and what makes it short enough for a test."""

from __future__ import annotations

from dataclasses import dataclass, field

SHORT = [
    *("scale.depth=2", "scale.width=64", "scale.context=64", "batch.tokens=512", "eval.tokens=2048"),
    *("eval.every=4", "compile=off", "data.val_fraction=0.02", "sample.tokens=8"),
]
"""What makes a training run short: at its end it validates on the whole split, so that is small too."""


@dataclass(frozen=True)
class Run:
    """A command that is executed here; `more` only makes it shorter; `statuses` are those that it may leave with."""

    output: str
    more: list[str] = field(default_factory=list)
    statuses: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Elsewhere:
    """A command that cannot run inside a test, or is one: the file that covers it, and why."""

    covered_by: str
    why: str


STEPS = [*SHORT, "budget.steps=8"]
OWN_TEXT = [one for one in STEPS if not one.startswith("data.")] + ["tokenizer=byte"]
ADAPTED = ["budget.steps=2", "eval.every=2", "eval.tokens=64", "compile=off", "sample.tokens=4", "batch.tokens=128"]
RECALL = ["budget.steps=4", "eval.every=4"]
COMMANDS: dict[str, Run | Elsewhere] = {
    **dict.fromkeys(
        (
            *("uv init --bare", "uv add ../gpt_lab", "uv run components norm centred"),
            *("uv run train model=mine norm=centred norm.scale=0.5", "uv run sweep norms --report"),
        ),
        Elsewhere("tests/test_wheel.py", "a project of one's own, with the lab installed"),
    ),
    "uv run train": Run("val bits per byte", STEPS),
    "uv run pytest": Elsewhere(".ci/run", "it is what runs this test"),
    'uv run generate run=latest prompt="ROMEO:"': Run("ROMEO:"),
    "uv run train model=gqa_rope optim=muon": Run("val bits per byte", STEPS),
    "uv run train attention=gqa attention.kv_heads=2 position=alibi": Run("val bits per byte", STEPS),
    "uv run train attention=hybrid attention.pattern=DDDG attention.letters.D.name=gated_deltanet "
    "attention.letters.G.name=gqa attention.letters.G.kv_heads=2": Run(
        "val bits per byte", [one for one in STEPS if one != "scale.depth=2"]
    ),
    "uv run train scale=nano norm=layernorm budget.tokens=2e6 seed=1": Run(
        "val bits per byte", [*SHORT, "budget.tokens=4e3"]
    ),
    "uv run train +experiment=shakespeare_char_cpu": Run("val bits per byte", [*STEPS, "schedule.warmup=2"]),
    "uv run train study=mine": Run("val bits per byte", STEPS),
    "uv run evaluate mine tasks=val_bpb,needle,induction,my_texts/0.txt": Run(
        "induction (accuracy)", ["items=8", "context=128"]
    ),
    "uv run evaluate my_model tasks=questions.jsonl shots=3": Elsewhere(
        "tests/evaluate/test_harness.py", "a folder is exported there"
    ),
    "uv run evaluate mine backend=lm_eval tasks=local_task.yaml": Elsewhere(
        "tests/evaluate/test_harness.py", "each process imports the harness for seconds"
    ),
    'uv run attention mine prompt="the king and the king"': Run("2 maps of "),
    "uv run train probe=light seed=1": Run("val bits per byte", STEPS),
    "uv run export mine to=hf out=my_model": Run("LlamaForCausalLM, logits equal to"),
    "uv run export mine to=hf custom=true out=any_model": Elsewhere(
        "tests/export/test_custom_code.py", "each process imports transformers for seconds"
    ),
    "uv run export mine to=gguf out=my_gguf": Elsewhere(
        "tests/export/test_gguf.py", "each process imports transformers for seconds"
    ),
    **dict.fromkeys(
        ("uv run chat latest", "uv run chat pos_enc/rope-seed0 pos_enc/alibi-seed0"),
        Elsewhere("tests/chat/test_conversation.py", "it waits for somebody to say something"),
    ),
    "uv run serve pos_enc/rope-seed0 pos_enc/alibi-seed0": Elsewhere(
        "tests/serve/test_command.py", "it serves until it is stopped"
    ),
    "uv run train model_from=my_model budget.steps=500": Run(
        "no verdict will rest on this run", [one for one in STEPS if not one.startswith("scale.")]
    ),
    "uv run train study=shared parallel=ddp gpus_per_trial=2": Run("tokens/s of each rank", STEPS),
    "uv run train scale=large parallel=fsdp gpus_per_trial=4 --cfg": Run("# memory of each of 4 devices: at least "),
    "uv run torchrun --nproc-per-node 2 -m gpt_lab.cli.train study=shared parallel=ddp gpus_per_trial=2": Elsewhere(
        "tests/train/parallel/rank_helpers.py", "its ranks are started as torchrun starts them"
    ),
    "uv run train study=base": Run("val bits per byte", STEPS),
    "uv run train +experiment=chat_sft model_from=base study=chat": Run("val bits per byte", ADAPTED),
    'uv run generate run=chat prompt="User: Who wrote Hamlet?"': Run("User: Who wrote Hamlet?", ["max_tokens=8"]),
    "uv run train +experiment=chat_sft model_from=base study=lora adapt.rank=8": Run("parameters are trained", ADAPTED),
    "uv run train +experiment=chat_sft model_from=base study=qlora adapt.rank=8 adapt.bits=4": Elsewhere(
        "tests/train/adaptation/test_adapted_runs.py", "as the run before, in few bits"
    ),
    "uv run quantize base bits=4": Run("val bpb "),
    'uv run generate run=base checkpoint=int4-g64 prompt="ROMEO:"': Run("ROMEO:", ["max_tokens=8"]),
    "uv run train model_from=chat study=dpo data=preferences objective=dpo optim.lr=1e-4": Run("val accuracy", ADAPTED),
    "uv run train model_from=chat study=grpo data=chat data.topic=arithmetic data.packed=false objective=grpo "
    "optim.lr=1e-4": Run("val accuracy", ADAPTED),
    "uv run atlas --report": Run("position (against rope): not run: "),
    **dict.fromkeys(
        (
            *("uv run atlas", "uv run atlas --only attention,position", "uv run atlas --only attention=gla"),
            "uv run atlas --scale tiny budget.steps=1000",
        ),
        Elsewhere("tests/cli/test_atlas.py", "hundreds of runs: there a row is run again, and groups are planned"),
    ),
    "uv run components": Run("attention: "),
    "uv run components attention gqa": Run("attention=gqa"),
    "uv run train optim=muon optim.ns=polar_express optim.qk_clip=100.0": Run("val bits per byte", STEPS),
    "uv run components optim sophia": Run("bytes of state a parameter"),
    "uv run components attention gqa --jax": Run("Layout: "),
    "uv run train model=llama --cfg": Run("attention:"),
    "uv run train scale=auto scale.depth=4": Run("given (law: 128)", [*STEPS, "tokenizer.vocab_size=512"]),
    "uv run train scale=auto scale.depth=4 --cfg": Run("# budget.tokens         8.061e+07  20 N "),
    'uv run generate run=latest prompt="JULIET:" temperature=0.7 top_k=50 max_tokens=100': Run("JULIET:"),
    "uv run generate --help": Run("usage: generate"),
    'uv run generate run=latest prompt="JULIET:" min_p=0.05 repetition_penalty=1.1 stop="ROMEO:" max_tokens=60': Run(
        "JULIET:"
    ),
    **dict.fromkeys(
        (
            "uv run generate run=latest prompts=prompts.jsonl max_tokens=100",
            'uv run generate run=mine draft=mine_small prompt="JULIET:"',
        ),
        Elsewhere("tests/infer/test_command.py", "a file of prompts and two runs of one tokenizer"),
    ),
    "uv run train data=text data.path=my_texts/": Run("val bits per byte", OWN_TEXT),
    "uv run prepare data=text data.path=my_texts/": Run("tokens", ["tokenizer=byte"]),
    "uv run tokenizers": Run("bytes/token", ["byte", "unigram", "data=text", "data.path=my_texts/"]),
    "uv run train data=stdlib": Elsewhere("tests/data/corpora/test_stdlib.py", "fits a tokenizer to 8 MB of text"),
    "uv run train data=mix data.sources.plays.name=shakespeare data.sources.plays.weight=3 "
    "data.sources.code.name=stdlib": Elsewhere("tests/data/test_mixture.py", "fits a tokenizer to 13 MB of text"),
    "uv run train batch.packing=best_fit batch.document_mask=true": Run("val bits per byte", STEPS),
    "uv run train batch.curriculum=0.3": Run("val bits per byte", STEPS),
    "uv run sweep sweeps/pos_enc.yaml --dry-run": Run("better whose true difference is at least"),
    "uv run sweep sweeps/pos_enc.yaml study=pos_enc_ddp parallel=ddp gpus_per_trial=2": Elsewhere(
        "tests/sweep/test_ranks_of_trials.py", "ranks of trials, disturbed and not"
    ),
    "uv run sweep sweeps/pos_enc.yaml": Run("5 cells: 5 finished", ["--seeds", "1"]),
    "uv run sweep sweeps/seeds.yaml --on local --dry-run": Run("would start 1 times: "),
    **dict.fromkeys(
        ("uv run sweep sweeps/seeds.yaml --on local --workers 2", "uv run sweep sweeps/seeds.yaml --stop"),
        Elsewhere("tests/sweep/engines/test_real_engines.py", "what it starts outlives the command"),
    ),
    "uv run sweep sweeps/seeds.yaml --status": Run("seeds: no trial yet"),
    "uv run sweep sweeps/seeds.yaml --on ssh:node1,node2 --dry-run": Run("would start on node2, 1 times: "),
    "uv run sweep sweeps/seeds.yaml --on ray --workers 8 --resource num_gpus=1 --dry-run": Run(
        "would start 8 tasks of Ray, num_cpus=1, num_gpus=1 each: "
    ),
    "uv run sweep sweeps/seeds.yaml --on slurm --workers 8 --array-limit 4 --sbatch time=02:00:00 "
    "--sbatch partition=short --dry-run": Run("#SBATCH --array=1-8%4"),
    "uv run report sweeps/pos_enc.yaml": Run("report.html"),
    "uv run sweep sweeps/attention.yaml match=params --dry-run": Run("matched by", STEPS),
    "uv run train mlp=gelu match=flops": Run("val bits per byte", STEPS),
    "uv run report runs/pos_enc --details": Run("position=alibi", ["--no-files"]),
    "uv run report --help": Run("usage: report"),
    "uv run report sweeps/pos_enc.yaml --claim positions": Run("wrote claims/positions"),
    "uv run verify positions": Run("verified: 2 of 2 runs", ["--tolerance", "1"]),
    "uv run report sweeps/pos_enc.yaml --gate alibi": Run(": position=alibi: ", statuses=(0, 1, 2)),
    "uv run noise sweeps/pos_enc.yaml": Run("sd of a null pair's difference", ["--seeds", "3"]),
    "uv run sweep sweeps/pos_enc.yaml --dry-run --target-effect 0.05": Run("null pairs of"),
    "uv run noise --list": Run("Noise floors in runs"),
    "uv run sweep screens/norm --dry-run": Run("match=params: within", STEPS),
    "uv run sweep sweeps/budgets.yaml --dry-run": Run(
        "trunk and branch: 24 runs for the cost of 12.5", ["data.val_fraction=0.02"]
    ),
    "uv run sweep sweeps/muon.yaml --dry-run": Run("tuning: 30 to 54 runs, as many for each of 2 arms", STEPS),
    "uv run train position=alibi 'eval.contexts=[1,2,4,8]'": Run(
        "val bits per byte at 2x the context", [*STEPS, "eval.contexts=[1,2]"]
    ),
    "uv run sweep sweeps/interactions.yaml --dry-run": Run("full two-level factorial of 3 factors: 8 arms", STEPS),
    "uv run sweep recall --report": Run("wrote runs/recall/report/report.md", ["--seeds", "1"]),
    "uv run sweep sweeps/position_seeds.yaml --dry-run": Run("sequential seeds: 3 to 8 for each of 4 arms", STEPS),
    "uv run wandb sweep sweeps/pos_enc.yaml": Elsewhere("tests/sweep/test_wandb_agent.py", "needs a server"),
    "uv run wandb agent ENTITY/gpt_lab/SWEEP_ID": Elsewhere("tests/sweep/test_wandb_agent.py", "needs a server"),
    "uv run report sweeps/pos_enc.yaml --from wandb:ENTITY/gpt_lab/SWEEP_ID": Elsewhere(
        "tests/frame/sources/test_wandb_server.py", "needs a server"
    ),
    "uv sync --extra dashboard": Elsewhere("tests/cli/test_dashboard.py", "needs an index"),
    "uv run dashboard": Run("mirror", ["--once"]),
    "uv run dashboard runs/pos_enc --tensorboard": Run("mirror", ["--once"]),
    "uv run wandb login": Elsewhere("tests/trackers", "it asks for a key"),
    **dict.fromkeys(
        (
            "uv run train objective=contrastive objective.weight=0.2",
            "uv run components --check contrastive",
        ),
        Elsewhere("tests/parts/objective/test_own_loss.py", "needs the file of parts/"),
    ),
    **dict.fromkeys(
        ("uv run train objective=masked_diffusion", "uv run train objective=mtp objective.ahead=2"),
        Elsewhere("tests/train/objectives/test_objectives.py", "each objective is trained there"),
    ),
    **dict.fromkeys(
        (
            "uv run train scale=tiny study=teachers seed=100 budget.steps=1000",
            "uv run train objective=distill objective.teacher=teachers/tiny-seed100 scale=micro",
        ),
        Elsewhere("tests/train/objectives/test_teacher.py", "the first takes minutes"),
    ),
    "uv run components norm my_norm": Elsewhere("tests/test_thirdparty.py", "needs the file of parts/"),
    "uv run components --check my_attention attention.slope=2.0": Elsewhere(
        "tests/test_thirdparty.py", "needs the file of parts/"
    ),
    "uv run upload": Elsewhere("tests/trackers/test_wandb.py", "needs a server"),
    "uv run train norm=my_norm attention=my_attention attention.slope=2.0": Elsewhere(
        "tests/test_thirdparty.py", "needs the file of parts/"
    ),
    "uv run doctor": Run("Ready to train"),
    "uv run ruff check --fix": Elsewhere(".ci/run", "lint is a step of its own"),
    "uv run ruff format": Elsewhere(".ci/run", "format is a step of its own"),
    "uv run mypy": Elsewhere(".ci/run", "types are a step of its own"),
    'uv run pytest -m "not slow"': Elsewhere(".ci/run", "part of the whole run"),
    "uv run pytest -n 0 tests/test_registry.py": Elsewhere("tests/test_registry.py", "part of the whole run"),
    "uv add some-package": Elsewhere("tests/scripts/test_portable_lock.py", "needs an index"),
    "uv run python scripts/portable_lock.py": Elsewhere("tests/scripts/test_portable_lock.py", "rewrites uv.lock"),
    "git add pyproject.toml uv.lock": Elsewhere("tests/scripts/test_portable_lock.py", "changes the checkout"),
}
