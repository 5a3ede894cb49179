"""stories260K: a Llama of 5 layers, width 64, 512 tokens, trained on children's stories (MIT). No package carries it.

It is read from the data folder: ``$MOIETY_DATA``, else ``../shared/data`` beside the checkout.
"""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from moiety.models.files import data_folder
from moiety.models.quiet import quiet


def load() -> tuple[PreTrainedTokenizerBase, LlamaForCausalLM]:
    """Tokenizer and float32 model in evaluation mode. FileNotFoundError if there is no data folder."""
    folder = data_folder() / "models" / "stories260K"
    if not folder.is_dir():
        raise FileNotFoundError(f"stories260K is not in {folder.parent}; set MOIETY_DATA to a data folder that holds it")
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    return tokenizer, model.eval()
