"""A run of Llama's shape as a gguf file, which llama.cpp and its kin read (fp32; https://github.com/ggml-org/ggml)."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt_lab.errors import ConfigError, LabError
from gpt_lab.export import agreement, hugging_face
from gpt_lab.export.agreement import Agreement
from gpt_lab.export.exported_model import Source
from gpt_lab.export.staged import staged
from gpt_lab.interchange import convert

FILE = "model.gguf"
AROUND = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
IN_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
DIVIDED = ("linear", "llama3")
"""Kinds of rotary positions that are the default ones with each frequency divided by a number of its own."""
DIVISORS = "rope_freqs.weight"
NORMAL, CONTROL = 1, 3
"""Types of tokens."""
Array = np.ndarray[Any, Any]


def write_folder(source: Source, out: Path, say: Callable[[str], None] = lambda line: None) -> Agreement:
    """Writes a new folder with one file. It is read back, tensor by tensor, and opened by transformers and compared.

    Raises:
        ConfigError: the model is not of Llama's shape, whose option the line names; the package gguf is not here; or
            there is something at `out`. LabError: what was written is another model, or the folder cannot be written.
    """
    try:
        import gguf
    except ImportError:
        raise ConfigError("to=gguf needs the package gguf: install gpt_lab[gguf]") from None
    hugging_face.quiet()
    config, weights = convert.to_hf(source.model, source.cfg)
    _check(config)
    tensors = dict(_tensors(config, weights))
    with staged(out) as folder:
        writer = gguf.GGUFWriter(folder / FILE, "llama")
        _describe(writer, config)
        _add_tokenizer(writer, source, say)
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(folder / FILE).tensors}
        for name in sorted({*found, *tensors}):
            if name not in found or name not in tensors or not np.array_equal(found[name], tensors[name]):
                raise LabError(f"{name} does not come back from the gguf file as it was")
        return agreement.check(source, _opened(folder / FILE))


def _opened(path: Path) -> Any:
    """The model that transformers reads from a gguf file."""
    import gguf
    from transformers import LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    model = LlamaForCausalLM(_llama(load_gguf_checkpoint(str(path))["config"])).eval()
    rotary: Any = model.model.rotary_emb
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name == DIVISORS:  # llama.cpp divides by them, and transformers leaves them out
            rotary.inv_freq = rotary.inv_freq / torch.from_numpy(tensor.data.copy())
    with contextlib.redirect_stderr(io.StringIO()):  # a bar that its own switch does not reach
        read = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)
    missing, unexpected = model.load_state_dict(read["tensors"], strict=False)
    model.tie_weights()
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise LabError(f"transformers reads {min([*unexpected, *missing])} of the gguf file otherwise than it is")
    return model


def _llama(values: Mapping[str, Any]) -> Any:
    """The configuration of transformers with these values."""
    from transformers import LlamaConfig

    return LlamaConfig(**{key: value for key, value in values.items() if key not in ("model_type", "architectures")})


def _check(config: Mapping[str, Any]) -> None:
    """Refuses what the architecture `llama` of gguf does not say."""
    if config["model_type"] != "llama":
        raise ConfigError(
            f"to=gguf is for models of Llama's shape, and this is a {config['architectures'][0]}: use to=hf"
        )
    if config["attention_bias"]:
        raise ConfigError("model.bias=true has no counterpart in a gguf of Llama's shape: use to=hf")
    if (kind := config["rope_parameters"]["rope_type"]) not in ("default", *DIVIDED):
        raise ConfigError(f"rotary positions of type {kind} are not written to gguf: use to=hf")


def _describe(writer: Any, config: Mapping[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(0)  # all fp32


def _tensors(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Array]]:
    if config["rope_parameters"]["rope_type"] in DIVIDED:
        yield DIVISORS, _divisors(config)
    for name, tensor in weights.items():
        array = tensor.float().numpy()
        if name in AROUND:
            yield AROUND[name], array
            continue
        layer, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
        heads = {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}.get(part)
        if heads is not None:
            array = _interleaved(array, config[heads])
        yield f"blk.{layer}.{IN_LAYER[part]}.weight", np.ascontiguousarray(array)


def _divisors(config: Mapping[str, Any]) -> Array:
    """The default frequencies over those of this kind, as transformers has them."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = config["rope_parameters"]
    frequencies, _ = ROPE_INIT_FUNCTIONS[rope["rope_type"]](_llama(config), torch.device("cpu"))
    places = torch.arange(0, config["head_dim"], 2, dtype=torch.float32) / config["head_dim"]
    return (1.0 / rope["rope_theta"] ** places / frequencies).numpy()


def _interleaved(array: Array, heads: int) -> Array:
    """The rows of each head's two halves by turns: gguf's Llama rotates neighbours."""
    rows = array.reshape(heads, 2, array.shape[0] // heads // 2, array.shape[1])
    return rows.swapaxes(1, 2).reshape(array.shape)


def _add_tokenizer(writer: Any, source: Source, say: Callable[[str], None]) -> None:
    """Byte-level BPE over GPT-2's words; any other vocabulary is left out, and said to be."""
    tokenizer = source.tokenizer
    inner: Any = None if tokenizer is None else tokenizer.as_library()
    model = {} if inner is None else json.loads(inner.to_str())["model"]
    name = source.cfg.tokenizer["name"]
    if tokenizer is None or name not in ("bpe", "bpe_scratch") or model.get("type") != "BPE":
        writer.add_tokenizer_model("none")
        say(f"tokenizer={name} is not written to gguf, which has bpe and bpe_scratch: the file is without it")
        return
    tokens = [inner.id_to_token(i) for i in range(tokenizer.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if i == tokenizer.eot else NORMAL for i in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    if tokenizer.eot is not None:
        writer.add_bos_token_id(tokenizer.eot)
        writer.add_eos_token_id(tokenizer.eot)
    writer.add_add_bos_token(False)
