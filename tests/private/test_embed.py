"""Sentences by MiniLM over three party processes: the vectors of the model in the clear."""

import numpy as np
import pytest
import torch

from moiety.engine.federation import Federation
from moiety.errors import InputError
from moiety.models import calibration, minilm
from moiety.private.embed import embed, lengths, normalised
from moiety.private.pooled import Pooled, compile_encoder, inputs

SENTENCES = ("A girl is styling her hair.", "Someone repairs a bike.")


@pytest.mark.slow
def test_two_sentences(owner: Federation, client: Federation) -> None:
    tokenizer, model = minilm.load()
    ids = [tokenizer(sentence)["input_ids"] for sentence in SENTENCES]
    compiled = compile_encoder(
        model, lengths=[len(tokens) for tokens in ids], calibration=lambda length: calibration.sentences(tokenizer, length)[:4]
    )
    owner.deploy_plans("minilm", list(compiled.plans.values()), compiled.weights)
    private = client.model("minilm")
    assert lengths(private) == sorted({len(tokens) for tokens in ids})
    for tokens in ids:
        found = embed(private, tokens)
        with torch.no_grad():
            wanted = normalised(Pooled(model)(*inputs(torch.tensor([tokens])))[0].numpy())
        assert abs(float(np.linalg.norm(found.vector)) - 1) < 1e-5
        assert float(found.vector @ wanted) > 0.9999
        assert "0." not in repr(found).replace(f"{found.report.seconds:.3g}", "")
    with pytest.raises(InputError, match="the sentence has 3 tokens; 'minilm' is deployed for"):
        embed(private, ids[0][:3])


def test_mean_counts_only_tokens() -> None:
    class Counting(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> object:
            class Out:
                last_hidden_state = input_ids[..., None].float()

            return Out

    tokens = torch.tensor([[1, 2, 6, 100]])
    mask = torch.tensor([[1, 1, 1, 0]])
    assert Pooled(Counting())(tokens, mask, torch.zeros_like(tokens)).item() == pytest.approx(3.0)
