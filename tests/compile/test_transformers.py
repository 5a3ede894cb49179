"""Unmodified models of the transformers library with random weights, and others as people write them: every output is within 1 % of the
outputs' standard deviation, and on inputs that calibration never saw within the error that the plan states."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from .support import compiled

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip
IDS = torch.arange(4, 14)[None]
MASK = (torch.arange(10) < 8).long()[None]
PLACES = torch.arange(2, 12)[None]


def config(kind: str, **further: Any) -> Any:
    return getattr(transformers, f"{kind}Config")(**{**SIZES, **further})


class Classifier(nn.Module):
    """A recurrent network over embedded tokens."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Embedding(50, 16), kind(16, 24, batch_first=True, bidirectional=True), nn.Linear(48, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embed(ids))[0].mean(1))


MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, torch.Tensor]]] = {
    "llama": (lambda: transformers.LlamaForCausalLM(config("Llama", num_key_value_heads=2)), {}),
    "qwen2": (lambda: transformers.Qwen2ForCausalLM(config("Qwen2", num_key_value_heads=2)), {}),
    "gpt2": (lambda: transformers.GPT2LMHeadModel(config("GPT2")), {}),
    "bloom": (lambda: transformers.BloomForCausalLM(config("Bloom", n_layer=2, n_head=4)), {}),
    "bert": (lambda: transformers.BertModel(config("Bert")), {"attention_mask": MASK}),
    "bert with a head": (lambda: transformers.BertForSequenceClassification(config("Bert")), {"attention_mask": MASK}),
    "distilbert": (lambda: transformers.DistilBertModel(config("DistilBert", dim=32, n_layers=2, n_heads=4)), {"attention_mask": MASK}),
    "roberta": (lambda: transformers.RobertaModel(config("Roberta")), {"attention_mask": MASK, "position_ids": PLACES}),
    "albert": (lambda: transformers.AlbertModel(config("Albert", embedding_size=16)), {"attention_mask": MASK}),
    "deberta": (lambda: transformers.DebertaV2Model(config("DebertaV2", relative_attention=True, pos_att_type=["p2c"])), {}),
    "t5": (
        lambda: transformers.T5EncoderModel(config("T5", d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)),
        {"attention_mask": MASK},
    ),
    "gru": (lambda: Classifier(nn.GRU), {}),
    "lstm": (lambda: Classifier(nn.LSTM), {}),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_run_unmodified(name: str) -> None:
    torch.manual_seed(0)
    make, public = MODELS[name]
    examples = [(torch.randint(4, 50, IDS.shape), *public.values()) for _ in range(6)]
    case = compiled(make(), IDS, kwargs=public, public=tuple(public), calibration=examples)
    found, wanted = leaf(case.run()), leaf(case.expected())
    if wanted.shape[:2] == MASK.shape and "attention_mask" in public:
        found, wanted = found[MASK > 0], wanted[MASK > 0]
    assert (found - wanted).abs().max() < 0.01 * wanted.std()
    shares = [share for _ in range(2) for share in case.of_stated(torch.randint(4, 50, IDS.shape), **public)]
    assert shares
    assert max(shares) < 1
    assert max(shares) > 1 / 40, "a statement so loose says nothing"


def leaf(answer: Any) -> torch.Tensor:
    if isinstance(answer, torch.Tensor):
        return answer
    return answer.logits if "logits" in answer else answer.last_hidden_state
