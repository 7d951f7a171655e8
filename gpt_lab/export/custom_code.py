"""A run as a folder in Hugging Face's form that brings its own modeling file: for every model the lab can build.

The file is the source of the parts that the model is made of, and transformers' classes around them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.export import agreement, hugging_face
from gpt_lab.export.agreement import Agreement
from gpt_lab.export.exported_model import Source
from gpt_lab.export.own_source import Bundle, Symbol
from gpt_lab.export.staged import staged
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.attention.softmax import SelfAttention, Softmax

FILE = "modeling_gpt_lab"
CLASSES = {"AutoConfig": "GptLabConfig", "AutoModel": "GptLabModel", "AutoModelForCausalLM": "GptLabForCausalLM"}
WRAPPER, STAND_INS = "gpt_lab.export.modeling.wrapper", "gpt_lab.export.modeling.stand_ins"
MOVED: Mapping[Symbol, Symbol] = {
    **{("gpt_lab.registry", name): (STAND_INS, name) for name in ("build", "load", "parts_of")},
    ("gpt_lab.kernels.choose", "attention"): (STAND_INS, "attention"),
}
INSTEAD: Mapping[Symbol, str] = {("gpt_lab.errors", "ConfigError"): "ConfigError = ValueError"}
KINDS = ("attention", "position", "norm", "mlp", "residual", "init", "objective")
HEADER = '''"""A language model of gpt_lab for transformers (trust_remote_code=True).

Written by `export custom=true`: the source of the parts that it is made of, and transformers' classes around them.
Shape letters in names: B rows, T tokens, S cached tokens, D width, H heads, G key/value heads, K head dimension, V
vocabulary.
"""

from __future__ import annotations

'''


def write_folder(source: Source, out: Path, say: Callable[[str], None] = lambda line: None) -> Agreement:
    """As hugging_face.write_folder, with a modeling file of its own and the tensors under the lab's names.

    Raises:
        ConfigError: a part that is not the lab's imports what the file may not, or there is something at `out`.
        LabError: what was written opens as another model, or the folder cannot be written.
    """
    hugging_face.quiet()
    cfg = plain(source.cfg)
    with staged(out) as folder:
        (folder / f"{FILE}.py").write_text(modeling_file(cfg, serves(cfg, source.model)), encoding="utf-8")
        (folder / "config.json").write_text(json.dumps(configuration(source), indent=2) + "\n", encoding="utf-8")
        save_file(dict(weights(source)), folder / "model.safetensors", metadata={"format": "pt"})
        hugging_face.generation(source).save_pretrained(folder)
        hugging_face.write_texts(source, folder, say)
        return agreement.compare(source, folder, own_code=True)


def plain(cfg: RunConfig) -> RunConfig:
    """The config without what only training uses: its objective, padding of the vocabulary."""
    model = dataclasses.replace(cfg.model, vocab_multiple=1, checkpointing=False)
    return dataclasses.replace(cfg, objective={"name": "ce"}, kernel={"name": "math"}, model=model)


def modeling_file(cfg: RunConfig, served: bool) -> str:
    """The text of the modeling file.

    Args:
        served: whether functions of others may compute its attention.
    """
    parts = {(kind, name): registry.get(kind, name) for kind, name in _names(cfg)}
    files = {part.module: part.path for part in parts.values() if not part.module.startswith("gpt_lab.")}
    bundle = Bundle(files, MOVED, INSTEAD)
    classes = {key: bundle.add((part.module, part.qualname)) for key, part in parts.items()}
    for name in CLASSES.values():
        bundle.add((WRAPPER, name))
    table = bundle.add((STAND_INS, "PARTS"))
    text, names = bundle.text(), bundle.names()
    lines = [f"    ({kind!r}, {name!r}): {names[symbol]},\n" for (kind, name), symbol in sorted(classes.items())]
    end = [f"{names[table]}.update({{\n{''.join(lines)}}})\n"]
    for (kind, name), symbol in sorted(classes.items()):
        end.append(f"{names[symbol]}.part = ({kind!r}, {name!r})\n")
    end.append(f"GptLabPreTrainedModel._supports_attention_backend = {served}\n")
    types = "".join(f"{name} = Any\n" for name in bundle.unknown_types())
    types = f"# types of the lab, of which nothing is asked here\n{types}\n\n"
    return HEADER + "\n".join(bundle.imports()) + "\n\n" + types + text + "\n\n\n" + "".join(end)


BETWEEN_TOKENS = {"block_recurrent", "looped", "shared", "zamba2", "mod"}
"""Residuals and MLPs that come back to a block, or look at other tokens."""


def serves(cfg: RunConfig, model: GPT) -> bool:
    """Whether all mixing of tokens is plain softmax attention, which other functions can compute as well."""
    beside = {part["name"] for kind in ("residual", "mlp") for _, part in registry.parts_of(kind, getattr(cfg, kind))}
    return (model.position.bias_kind == "none" and not beside & BETWEEN_TOKENS) and all(
        isinstance(part, SelfAttention)
        and (type(part).attend, type(part).weigh) == (Softmax.attend, Softmax.weigh)
        and part.softcap is None
        and part.sinks_H is None
        and part.value_dim == part.head_dim
        for part in (getattr(block, "attention", None) for block in model.blocks)
    )


def _names(cfg: RunConfig) -> Iterator[tuple[str, str]]:
    for kind in KINDS:
        settings = getattr(cfg, kind)
        yield kind, settings["name"]
        yield from ((kind, part["name"]) for _, part in registry.parts_of(kind, settings))


def configuration(source: Source) -> dict[str, Any]:
    """What config.json says."""
    cfg = plain(source.cfg)
    tree = cfg.to_dict()
    first: Any = getattr(source.model.blocks[0], "attention", None)
    sizes = {"num_key_value_heads": "kv_heads", "head_dim": "head_dim"}
    return {
        "architectures": [CLASSES["AutoModelForCausalLM"]],
        "auto_map": {auto: f"{FILE}.{name}" for auto, name in CLASSES.items()},
        "model_type": "gpt_lab",
        "lab": {key: tree[key] for key in (*KINDS, "kernel", "scale", "model")},
        "vocab_size": source.model.vocab_size,
        **{key: getattr(first, name) for key, name in sizes.items() if hasattr(first, name)},
        "tie_word_embeddings": cfg.model.tied,
        "dtype": "float32",
        "bos_token_id": source.end,
        "eos_token_id": source.end,
        "pad_token_id": None,
    }


def weights(source: Source) -> Iterator[tuple[str, Tensor]]:
    """The tensors under the names of the file's classes, without what only training uses."""
    for name, tensor in source.model.state_dict().items():
        if name.startswith("auxiliary."):
            continue
        rows = tensor[: source.model.vocab_size] if name in ("embed.weight", "head.weight") else tensor
        yield "lm_head.weight" if name == "head.weight" else f"model.gpt.{name}", rows.contiguous()
