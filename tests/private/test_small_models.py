"""Small models with random weights over three party processes: the answers of the model in the clear."""

from typing import Any

import pytest
import torch
from torch import nn

from moiety.compile.decoder import compile_decoder
from moiety.engine.federation import Federation
from moiety.private.generate import generate

transformers = pytest.importorskip("transformers")


class Recurrent(nn.Module):
    """A GRU, an LSTM, a mask, and a place as one of the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru = nn.Embedding(20, 8), nn.GRU(8, 6, batch_first=True)
        self.lstm, self.head = nn.LSTM(6, 6, batch_first=True, bidirectional=True), nn.Linear(12, 5)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = self.lstm(self.gru(self.embed(ids))[0])[0]
        logits = self.head(torch.where(rows > 0.05, rows, -0.1 * rows).amax(1))
        return logits, logits.argmax(-1), logits > 10


def test_a_recurrent_classifier(owner: Federation, client: Federation) -> None:
    torch.manual_seed(0)
    model, ids = Recurrent().eval(), torch.randint(0, 20, (2, 5))
    owner.deploy(model, (ids,), name="recurrent")
    found = client.model("recurrent")(ids)
    with torch.no_grad():
        wanted = model(ids)
    assert (found[0] - wanted[0]).abs().max() < 0.01 * wanted[0].std()
    assert torch.equal(found[1], wanted[1])
    assert torch.equal(found[2], wanted[2])


SIZES = {"vocab_size": 30, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def small(kind: str, model: str, **sizes: Any) -> Any:
    torch.manual_seed(0)
    return getattr(transformers, model)(getattr(transformers, f"{kind}Config")(**SIZES, **sizes)).eval()


def test_encoders(owner: Federation, client: Federation) -> None:
    """T5 with its bias of relative positions, which is the owner's, and BERT."""
    ids, mask = torch.arange(3, 10)[None], (torch.arange(7) < 5).long()[None]
    given = {"input_ids": ids, "attention_mask": mask}
    t5 = small("T5", "T5EncoderModel", d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=4)
    bert = small("Bert", "BertModel", hidden_size=16, num_hidden_layers=1, num_attention_heads=4, intermediate_size=24)
    for name, model in (("t5", t5), ("bert", bert)):
        owner.deploy(model, given, name=name, public=("attention_mask",))
        private = client.model(name)
        with torch.no_grad():
            wanted = model(**given).last_hidden_state[mask > 0]
        assert (private(**given).last_hidden_state[mask > 0] - wanted).abs().max() < 0.01 * wanted.std()


def test_generation_with_learned_positions(owner: Federation, client: Federation) -> None:
    model = small("GPT2", "GPT2LMHeadModel", n_embd=16, n_layer=1, n_head=4, n_positions=64)
    prompt = [5, 9, 11, 4]
    with torch.no_grad():
        wanted = model.generate(torch.tensor([prompt]), max_new_tokens=5, do_sample=False, pad_token_id=0)[0, 4:].tolist()
        text = torch.tensor([prompt + wanted])
        logits = model(text).logits[0, 3:]
    compiled = compile_decoder(model, prompt_lengths=[3], context=64, calibration=[text, torch.randint(3, 30, text.shape)])
    owner.deploy_plans("gpt2", [*compiled.prefill.values(), *compiled.steps.values()], compiled.weights)
    found = list(generate(client.model("gpt2"), prompt, max_new_tokens=5, end=()))
    assert [token.id for token in found] == wanted
    assert max(abs(token.logits - row.numpy()).max() for token, row in zip(found, logits, strict=False)) < 0.01 * logits.std()
