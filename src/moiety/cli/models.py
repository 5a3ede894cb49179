"""The models that the commands know by name: how to load, calibrate and read them. Importing this loads neither of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from moiety.errors import ConfigError

Kind = str
DECODER: Final = "decoder"
ENCODER: Final = "encoder"
CLASSIFIER: Final = "classifier"


@dataclass(frozen=True, slots=True)
class Known:
    """A model by name. ``margin`` widens its measured ranges; the other two are called with its tokenizer."""

    name: str
    title: str
    kind: Kind
    folder: Callable[[], Path]
    load: Callable[[], tuple[Any, Any]]
    margin: float = 1.5
    chat: bool = False
    lengths: tuple[int, ...] = field(default=(16, 32, 64))

    def tokenizer(self) -> Any:
        """The public tokenizer alone; no weight is read, and PyTorch is not loaded."""
        folder = self.folder()
        from transformers import PreTrainedTokenizerFast  # AutoTokenizer would load PyTorch and the forms of all models: 2 s

        from moiety.models.quiet import quiet

        with quiet():
            return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)

    def tokens(self, tokenizer: Any, text: str) -> list[int]:
        """A prompt or sentence as the model expects it: within its chat template, or with its marks of begin and end."""
        if not self.chat:
            return list(tokenizer(text)["input_ids"])
        asked = [{"role": "user", "content": text}]
        return list(tokenizer.apply_chat_template(asked, tokenize=True, add_generation_prompt=True, return_dict=True)["input_ids"])

    def calibration(self, tokenizer: Any, length: int | None = None) -> Sequence[Any]:
        """Public sequences, or images, on which its ranges are measured."""
        if self.kind == CLASSIFIER:
            import torch

            from moiety.models import images

            return [torch.from_numpy(image) for image in images.made_up()]
        from moiety.models import calibration

        if self.kind == ENCODER:
            return calibration.sentences(tokenizer, length or self.lengths[-1])
        return calibration.chats(tokenizer) if self.chat else calibration.stories(tokenizer)


def _smollm2() -> tuple[Any, Any]:
    from moiety.models import smollm2

    return smollm2.load()


def _smollm2_folder() -> Path:
    from moiety.models import files

    if (folder := files.smollm2_folder()).is_dir():
        return folder
    from moiety.models import smollm2  # loads PyTorch

    return smollm2.checkpoint()


def _stories() -> tuple[Any, Any]:
    from moiety.models import stories

    return stories.load()


def _stories_folder() -> Path:
    from moiety.models import files

    return files.data_folder() / "models" / "stories260K"


def _minilm() -> tuple[Any, Any]:
    from moiety.models import minilm

    return minilm.load()


def _minilm_folder() -> Path:
    from moiety.models import files

    return files.MINILM.find().parent


def _efficientnet() -> tuple[Any, Any]:
    from moiety.models import efficientnet

    return efficientnet.load()


def _efficientnet_folder() -> Path:
    from moiety.models import files

    return files.EFFICIENTNET.find().parent


KNOWN: Final = {
    model.name: model
    for model in (
        Known("smollm2", "SmolLM2-135M-Instruct", DECODER, _smollm2_folder, _smollm2, chat=True),
        Known("stories", "stories260K", DECODER, _stories_folder, _stories, margin=1.25, lengths=(4, 8, 16)),
        Known("minilm", "all-MiniLM-L6-v2", ENCODER, _minilm_folder, _minilm, margin=2.0, lengths=tuple(range(4, 25))),
        Known("efficientnet", "EfficientNet-Lite0", CLASSIFIER, _efficientnet_folder, _efficientnet, margin=4.0, lengths=(1,)),
    )
}


def known(name: str, kind: Kind | None = None) -> Known:
    """The model of that name. Raises ConfigError that lists the fitting ones."""
    fitting = [model.name for model in KNOWN.values() if kind in (None, model.kind)]
    if name not in fitting:
        what = f"a known {kind}" if kind else "a known model"
        raise ConfigError(f"{name!r} is not {what}; take {' or '.join(fitting)}")
    return KNOWN[name]
