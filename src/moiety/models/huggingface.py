"""A HuggingFace model by its folder or its name in the local cache, with example inputs that fit it. Nothing is downloaded."""

import inspect
from dataclasses import dataclass, field
from typing import Any, Final

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoTokenizer

from moiety.errors import ConfigError
from moiety.models.quiet import quiet

DECODERS: Final = ("ForCausalLM", "LMHeadModel")
MADE_UP: Final = 8
"""Sequences that are made up where there is no tokenizer."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in evaluation mode, and its tokenizer if it has one. ``generates``: it is a decoder-only language model."""

    model: Any
    tokenizer: Any = None
    generates: bool = False
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    """Example inputs of a single pass, by name."""
    public: tuple[str, ...] = ()
    """Which of them everybody may know."""


def load(name: str, length: int = 16) -> Loaded:
    """The model of a folder, or of the local cache; ``length``: tokens of its example input. Raises ConfigError."""
    try:
        with quiet():
            config = AutoConfig.from_pretrained(name, local_files_only=True)
            kind = getattr(transformers, (config.architectures or [""])[0], AutoModel)
            model = kind.from_pretrained(name, local_files_only=True, use_safetensors=True, dtype=torch.float32).eval()
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"{name!r} is no HuggingFace model that can be loaded here ({first})") from None
    generates = kind.__name__.endswith(DECODERS)
    inputs = {} if generates else examples(model, length)
    public = tuple(key for key in inputs if key not in ("input_ids", "pixel_values"))
    return Loaded(model, _tokenizer(name, model), generates, inputs, public)


def _tokenizer(name: str, model: Any) -> Any:
    """The one that lies beside the model, if it yields tokens that the model has; transformers makes an empty one where none lies."""
    try:
        with quiet():
            found = AutoTokenizer.from_pretrained(name, local_files_only=True)
        tokens = found("A few words.")["input_ids"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if tokens and max(tokens) < getattr(model.config, "vocab_size", 0) else None


def examples(model: Any, length: int) -> dict[str, torch.Tensor]:
    """Made-up inputs for a single pass: tokens with a mask of ones, or one image. Raises ConfigError for other kinds of input."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    match model.main_input_name:
        case "input_ids":
            tokens = torch.randint(0, config.vocab_size, (1, length), generator=generator)
            further = {"attention_mask": torch.ones_like(tokens), "token_type_ids": torch.zeros_like(tokens)}
            known = inspect.signature(model.forward).parameters
            return {"input_ids": tokens} | {key: value for key, value in further.items() if key in known}
        case "pixel_values":
            size = getattr(config, "image_size", 224)
            height, width = (size, size) if isinstance(size, int) else size
            return {"pixel_values": torch.randn(1, getattr(config, "num_channels", 3), height, width, generator=generator)}
    raise ConfigError(f"{type(model).__name__} takes {model.main_input_name}; say which shapes with --input {model.main_input_name}=1x...")


def made_up_tokens(model: Any, length: int) -> list[torch.Tensor]:
    """Random sequences (1, ``length``), for a language model without a tokenizer. Real text says more about ranges."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, model.config.vocab_size, (1, length), generator=generator) for _ in range(MADE_UP)]
