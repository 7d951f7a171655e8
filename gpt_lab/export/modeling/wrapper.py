"""transformers' classes around the lab's model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gpt_lab.export.modeling.stand_ins import Backend
from gpt_lab.infer.cache import Cache
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.base import Position


class GptLabConfig(PretrainedConfig):
    """The configuration of a model of gpt_lab.

    lab: its settings there, by group: attention, position, norm, mlp, residual, init, objective, kernel, scale, model.
    """

    model_type = "gpt_lab"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012

    def __init__(self, lab: dict[str, Any] | None = None, vocab_size: int = 1, **more: Any) -> None:
        self.lab = lab or {}
        self.vocab_size = vocab_size
        scale = self.lab.get("scale", {})
        self.num_hidden_layers, self.hidden_size = scale.get("depth"), scale.get("width")
        self.num_attention_heads, self.max_position_embeddings = scale.get("heads"), scale.get("context")
        for key in ("num_key_value_heads", "head_dim"):
            setattr(self, key, more.pop(key, None))
        super().__init__(**more)


class GptLabCache(Cache):
    """What every part keeps of the tokens already read, so that a new one costs one and not the whole text."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens read."""
        return self.seen

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Beams change places, which states cannot."""
        raise ValueError("this model's states cannot follow beams: pass use_cache=False to generate")


class GptLabPreTrainedModel(PreTrainedModel):
    """What both models share. `eager` and `sdpa` are the lab's kernels; others get queries, keys and values."""

    config_class = GptLabConfig
    base_model_prefix = "model"
    _no_split_modules: list[str] = []  # noqa: RUF012
    _supports_sdpa = True
    _is_stateful = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Constants that no file holds: they are there again after the weights have been loaded."""
        for name in module._non_persistent_buffers_set:
            buffer = getattr(module, name)
            if buffer is not None:
                buffer.zero_()
        if isinstance(module, Position):
            module.fill_tables()


class GptLabModel(GptLabPreTrainedModel):
    """The model without its head."""

    def __init__(self, config: GptLabConfig) -> None:
        super().__init__(config)
        sections = {key: SimpleNamespace(**config.lab[key]) for key in ("scale", "model")}
        with torch.device("cpu"):  # its constants are numbers, which the meta device has none of
            self.gpt = GPT(SimpleNamespace(**(config.lab | sections)), config.vocab_size)  # type: ignore[arg-type]
        self.gpt.head = None
        parts: list[Any] = [part for part in self.gpt.modules() if hasattr(part, "kernel")]
        self.backends = [Backend(self._function, part, layer) for layer, part in enumerate(parts)]
        for part, backend in zip(parts, self.backends, strict=True):
            part.kernel = backend
        self.post_init()

    def _function(self) -> tuple[Any, bool]:
        """What computes scores: None for the lab's own, fused or not."""
        name = self.config._attn_implementation
        return (None, name == "sdpa") if name in ("eager", "sdpa") else (ALL_ATTENTION_FUNCTIONS[name], False)

    def get_input_embeddings(self) -> nn.Module:
        return self.gpt.embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.gpt.embed = value  # type: ignore[assignment]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: GptLabCache | None = None,
        use_cache: bool | None = None,
        **arguments: Any,
    ) -> BaseModelOutputWithPast:
        """What the head reads, (B, T, D).

        Args:
            attention_mask: (B, T) of 0 and 1, or None. Rows with padding are computed one by one, without it.
            arguments: for the function that computes attention, where it is not the lab's.
        """
        arguments = {key: value for key, value in arguments.items() if value is not None and key not in _ANSWERS}
        for backend in self.backends:
            backend.arguments = arguments
        if attention_mask is not None and not attention_mask.all():
            if attention_mask.shape != input_ids.shape:
                raise ValueError("rows with padding are read without a cache, and masks are of 0 and 1 for each token")
            out = self.gpt.embed.weight.new_zeros(*input_ids.shape, self.config.hidden_size)
            for row, kept in enumerate(attention_mask.bool()):
                out[row, kept] = self.gpt.hidden(ids := input_ids[row, kept][None], self.gpt.flow(ids))[0].to(out.dtype)
            return BaseModelOutputWithPast(last_hidden_state=out)
        cache = past_key_values
        if use_cache and cache is None:
            cache = GptLabCache()
        seen = 0 if cache is None else cache.seen
        positions_T = torch.arange(seen, seen + input_ids.shape[1], device=input_ids.device)
        if position_ids is not None:
            positions_T = position_ids.view(-1, input_ids.shape[1])[0]
        elif cache is None:
            positions_T = None  # type: ignore[assignment]  # the model's own, whose tables it remembers
        hidden = self.gpt.hidden(input_ids, self.gpt.flow(input_ids, positions_T, states=cache))
        if cache is not None and not cache.read(self.gpt, input_ids.shape[1]):
            cache, hidden = None, self.gpt.hidden(input_ids, self.gpt.flow(input_ids))
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=cache)


_ANSWERS = ("return_dict", "output_attentions", "output_hidden_states", "cache_position", "logits_to_keep")
"""What a caller may ask for that this model does not give."""


class GptLabForCausalLM(GptLabPreTrainedModel, GenerationMixin):
    """The model with its head: logits of the token after each token, and a loss where labels are given.

    Dropout, and what experts minimise beside the loss, are the lab's trainer's: here there are none.
    """

    _tied_weights_keys = {"lm_head.weight": "model.gpt.embed.weight"}  # noqa: RUF012

    def __init__(self, config: GptLabConfig) -> None:
        super().__init__(config)
        self.model = GptLabModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.lm_head = value

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def forward(
        self, input_ids: Tensor, labels: Tensor | None = None, logits_to_keep: int = 0, **arguments: Any
    ) -> CausalLMOutputWithPast:
        """Logits (B, T, V), of the last `logits_to_keep` tokens if it is not 0; arguments as those of GptLabModel."""
        found = self.model(input_ids, **arguments)
        hidden = found.last_hidden_state
        if logits_to_keep:
            hidden = hidden[:, -logits_to_keep:]
        gpt = self.model.gpt
        logits = self.lm_head(hidden * gpt.logits_scale)
        if gpt.softcap is not None:
            logits = gpt.softcap * torch.tanh(logits.float() / gpt.softcap)
        loss = None if labels is None else self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=found.past_key_values)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: GptLabCache | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """The tokens that the cache has not read; all of them where there is none."""
        if attention_mask is not None and not attention_mask.all():
            return {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False, "logits_to_keep": 1}
        new = input_ids if past_key_values is None else input_ids[:, past_key_values.seen :]
        kept = {"past_key_values": past_key_values, "use_cache": use_cache}
        return {"input_ids": new, **kept, "logits_to_keep": 1}
