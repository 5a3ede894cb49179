"""The modules that are measured: HuggingFace's own, with random weights; and their weights by the names that peers' runners use.

A matrix is handed over to be applied from the right, projections that read the same value side by side: no peer has to transpose.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaModel, ViTConfig, ViTForImageClassification

Arrays = dict[str, torch.Tensor]

DEVIATION = 0.02


class Network(torch.nn.Module, ABC):
    """A module with the settings and the weights of the same computation at a peer."""

    family: str
    """The name of the computation in ``runners/networks.py``."""
    settings: Mapping[str, Any]

    def randomise(self, generator: torch.Generator) -> None:
        """Every parameter normal with deviation 0.02, about one for gains."""
        with torch.no_grad():
            for module in self.modules():
                for name, parameter in module.named_parameters(recurse=False):
                    parameter.normal_(0, DEVIATION, generator=generator)
                    if name == "weight" and "Norm" in type(module).__name__:
                        parameter.add_(1)

    @abstractmethod
    def arrays(self) -> Arrays:
        """The weights, as peers' runners name them."""

    def given(self, x: torch.Tensor) -> torch.Tensor:
        """An input as peers take it."""
        return x[0]


def _norm(name: str, module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    yield f"{name}.gain", module.weight
    if getattr(module, "bias", None) is not None:
        yield f"{name}.shift", module.bias


def _linear(name: str, *modules: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Several that read the same value become one."""
    yield name, torch.cat([module.weight.T for module in modules], 1)
    if modules[0].bias is not None:
        yield f"{name}.shift", torch.cat([module.bias for module in modules])


def _conv1d(name: str, module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """GPT-2's own linear layer, which is stored the other way round."""
    yield name, module.weight
    yield f"{name}.shift", module.bias


def _made(kind: Callable[..., Any], *given: Any, **further: Any) -> Any:
    return kind(*given, **further)


class Gpt2(Network):
    """GPT-2 small on embeddings: its last hidden states, or the logits after the last token."""

    family = "gpt2"

    def __init__(self, layers: int, rows: int, *, head: bool = False, width: int = 768, heads: int = 12) -> None:
        super().__init__()
        config = GPT2Config(n_layer=layers, n_embd=width, n_head=heads, vocab_size=50257 if head else 8, use_cache=False)
        self.model, self.head, self.rows = _made(GPT2LMHeadModel, config), head, rows
        self.settings = {"layers": layers, "heads": heads, "causal": True, "gelu": "tanh", "epsilon": config.layer_norm_epsilon}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, rows, width) to the same, or to (1, 1, 50257)."""
        if self.head:
            logits: torch.Tensor = self.model(inputs_embeds=x, logits_to_keep=1).logits
            return logits
        hidden: torch.Tensor = self.model.transformer(inputs_embeds=x).last_hidden_state
        return hidden

    def arrays(self) -> Arrays:
        body = self.model.transformer
        out: Arrays = {"positions": body.wpe.weight[: self.rows], **dict(_norm("norm", body.ln_f))}
        if self.head:
            out["head"] = body.wte.weight.T
        for i, layer in enumerate(body.h):
            out |= dict(_norm(f"{i}.norm1", layer.ln_1)) | dict(_norm(f"{i}.norm2", layer.ln_2))
            out |= dict(_conv1d(f"{i}.qkv", layer.attn.c_attn)) | dict(_conv1d(f"{i}.out", layer.attn.c_proj))
            out |= dict(_conv1d(f"{i}.up", layer.mlp.c_fc)) | dict(_conv1d(f"{i}.down", layer.mlp.c_proj))
        return out


class Bert(Network):
    """BERT-base on embeddings: its last hidden states."""

    family = "bert"

    def __init__(self, layers: int, rows: int) -> None:
        super().__init__()
        config = BertConfig(num_hidden_layers=layers, vocab_size=8)
        self.model, self.rows = _made(BertModel, config, add_pooling_layer=False), rows
        self.settings = {"layers": layers, "heads": 12, "causal": False, "gelu": "erf", "epsilon": config.layer_norm_eps}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, rows, 768) to the same."""
        hidden: torch.Tensor = self.model(inputs_embeds=x).last_hidden_state
        return hidden

    def arrays(self) -> Arrays:
        first = self.model.embeddings
        positions = first.position_embeddings.weight[: self.rows] + first.token_type_embeddings.weight[0]
        out: Arrays = {"positions": positions, **dict(_norm("norm", first.LayerNorm))}
        for i, layer in enumerate(self.model.encoder.layer):
            attention = layer.attention
            out |= dict(_linear(f"{i}.qkv", attention.self.query, attention.self.key, attention.self.value))
            out |= dict(_linear(f"{i}.out", attention.output.dense)) | dict(_norm(f"{i}.norm1", attention.output.LayerNorm))
            out |= dict(_linear(f"{i}.up", layer.intermediate.dense)) | dict(_linear(f"{i}.down", layer.output.dense))
            out |= dict(_norm(f"{i}.norm2", layer.output.LayerNorm))
        return out


class Vit(Network):
    """A ViT of width 192 on images of 32 x 32 in patches of 4 x 4: 65 rows, 100 classes."""

    family = "vit"

    def __init__(self, layers: int) -> None:
        super().__init__()
        shape: dict[str, Any] = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": layers, "num_attention_heads": 3}
        config = _made(ViTConfig, image_size=32, patch_size=4, num_labels=100, **shape)
        self.model = _made(ViTForImageClassification, config)
        self.settings = {"layers": layers, "heads": 3, "causal": False, "gelu": "erf", "epsilon": config.layer_norm_eps}

    def randomise(self, generator: torch.Generator) -> None:
        """What enters the layers has deviations near 0.5, as in trained ones: norms of tiny rows are a trial of fixed point."""
        super().randomise(generator)
        first = self.model.vit.embeddings
        with torch.no_grad():
            for parameter in (first.cls_token, first.position_embeddings):
                parameter.normal_(0, 0.5, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, 3, 32, 32) to (1, 100)."""
        logits: torch.Tensor = self.model(pixel_values=x).logits
        return logits

    def given(self, x: torch.Tensor) -> torch.Tensor:
        """The patches, unfolded: (64, 48)."""
        return torch.nn.functional.unfold(x, 4, stride=4)[0].T

    def arrays(self) -> Arrays:
        first, patch = self.model.vit.embeddings, self.model.vit.embeddings.patch_embeddings.projection
        out: Arrays = {"patch": patch.weight.flatten(1).T, "patch.shift": patch.bias}
        out |= {"first": first.cls_token[0], "positions": first.position_embeddings[0]}
        out |= dict(_norm("norm", self.model.vit.layernorm)) | dict(_linear("head", self.model.classifier))
        for i, layer in enumerate(self.model.vit.layers):
            heads, mlp = layer.attention, layer.mlp
            out |= dict(_norm(f"{i}.norm1", layer.layernorm_before)) | dict(_norm(f"{i}.norm2", layer.layernorm_after))
            out |= dict(_linear(f"{i}.qkv", heads.q_proj, heads.k_proj, heads.v_proj)) | dict(_linear(f"{i}.out", heads.o_proj))
            out |= dict(_linear(f"{i}.up", mlp.fc1)) | dict(_linear(f"{i}.down", mlp.fc2))
        return out


class Llama(Network):
    """Layers of a Llama on embeddings, with the last norm."""

    family = "llama"

    def __init__(self, layers: int, *, width: int, heads: int, shared: int, inner: int, epsilon: float, rotary: float) -> None:
        super().__init__()
        shape: dict[str, Any] = {
            "hidden_size": width,
            "num_attention_heads": heads,
            "num_key_value_heads": shared,
            "intermediate_size": inner,
        }
        config = LlamaConfig(num_hidden_layers=layers, vocab_size=8, rms_norm_eps=epsilon, use_cache=False, **shape)
        config.rope_parameters = {"rope_type": "default", "rope_theta": rotary}
        self.model = _made(LlamaModel, config)
        self.settings = {"layers": layers, "heads": heads, "shared": shared, "epsilon": epsilon, "rotary": rotary}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, rows, width) to the same."""
        hidden: torch.Tensor = self.model(inputs_embeds=x, use_cache=False).last_hidden_state
        return hidden

    def arrays(self) -> Arrays:
        out: Arrays = dict(_norm("norm", self.model.norm))
        for i, layer in enumerate(self.model.layers):
            heads, mlp = layer.self_attn, layer.mlp
            out |= dict(_norm(f"{i}.norm1", layer.input_layernorm)) | dict(_norm(f"{i}.norm2", layer.post_attention_layernorm))
            out |= dict(_linear(f"{i}.qkv", heads.q_proj, heads.k_proj, heads.v_proj)) | dict(_linear(f"{i}.out", heads.o_proj))
            out |= dict(_linear(f"{i}.gate", mlp.gate_proj)) | dict(_linear(f"{i}.up", mlp.up_proj))
            out |= dict(_linear(f"{i}.down", mlp.down_proj))
        return out
