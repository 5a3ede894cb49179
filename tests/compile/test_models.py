"""Real models against their float selves: a sentence encoder, and a decoder with its cache. Skipped where they are not installed."""

import numpy as np
import pytest
import torch

from moiety.compile import signature
from moiety.compile.decoder import CompiledDecoder, compile_decoder
from moiety.compile.model import compile_model
from moiety.compile.plan import Plan
from moiety.errors import PlanError
from moiety.mpc.rounds import Role
from moiety.mpc.share import Share

from .support import Case, answer, assert_costs, run_lockstep


def test_sentence_encoder() -> None:
    minilm = pytest.importorskip("moiety.models.minilm")
    try:
        tokenizer, model = minilm.load()
    except (FileNotFoundError, ImportError) as error:
        pytest.skip(str(error))
    given = dict(tokenizer("The cat sat on the mat.", return_tensors="pt"))
    case = Case(model, compile_model(model, (), given, public=("attention_mask", "token_type_ids")), (), given)
    found, wanted = case.run(), case.expected()
    assert list(found) == list(wanted.keys())
    assert (found.last_hidden_state - wanted.last_hidden_state).abs().max() < 1e-2
    both = torch.stack([found.last_hidden_state.mean(1), wanted.last_hidden_state.mean(1)])
    assert torch.nn.functional.cosine_similarity(both[0], both[1]).min() > 0.9999


class Cache:
    """Shares of the rows written so far, at every role."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[Role, Share]] = {}

    def write(self, plan: Plan, transcript) -> None:
        for state in plan.states:
            for role in Role:
                new = transcript.results[role][state.write]
                old = self.rows.setdefault(state.name, {}).get(role)
                self.rows[state.name][role] = new if old is None else joined(old, new, state.axis)

    def read(self, plan: Plan) -> dict[str, dict[Role, Share]]:
        """As many rows as the plan reads; those not yet written are zeros."""
        return {
            s.name: {role: padded(share, s.shape, s.axis) for role, share in self.rows[s.name].items()}
            for s in plan.states
            if s.shape[s.axis]
        }


def joined(old: Share, new: Share, axis: int) -> Share:
    both = [None if a is None or b is None else np.concatenate([a, b], axis) for a, b in ((old.masked, new.masked), (old.mask, new.mask))]
    shape = tuple(n + new.shape[axis] if i == axis else n for i, n in enumerate(old.shape))
    return Share(shape, old.fraction, old.bits, *both)


def padded(share: Share, shape: tuple[int, ...], axis: int) -> Share:
    missing = [(0, n - have if i == axis else 0) for i, (n, have) in enumerate(zip(shape, share.shape, strict=True))]
    parts = [None if part is None else np.pad(part, missing) for part in (share.masked, share.mask)]
    return Share(shape, share.fraction, share.bits, *parts)


def step(decoder: CompiledDecoder, plan: Plan, tokens: torch.Tensor, position: int, cache: Cache) -> torch.Tensor:
    words = signature.encode_inputs(plan, (tokens,), {})
    transcript = run_lockstep(plan, decoder.weights, words, position, cache.read(plan))
    assert_costs(plan, transcript)
    cache.write(plan, transcript)
    return answer(plan, transcript)


def test_decoder_with_its_cache() -> None:
    stories = pytest.importorskip("moiety.models.stories")
    try:
        tokenizer, model = stories.load()
    except (FileNotFoundError, ImportError) as error:
        pytest.skip(str(error))
    prompt = tokenizer("Once upon a time, there was a little girl", return_tensors="pt").input_ids[:, :8]
    with torch.no_grad():
        text = model.generate(prompt, max_new_tokens=40, do_sample=False)
        wanted = model(text).logits[0]
    decoder = compile_decoder(model, prompt_lengths=[8], context=64, calibration=[text[:, :48]])
    cache = Cache()
    got = step(decoder, decoder.prefill[8], text[:, :8], 0, cache)
    assert (got[0] - wanted[7]).abs().max() < 0.05
    for position in range(8, 20):
        got = step(decoder, decoder.steps[64], text[:, position : position + 1], position, cache)
        assert (got[0] - wanted[position]).abs().max() < 0.05
        assert int(got.argmax()) == int(text[0, position + 1])


def small(kind: str, **further):
    """A decoder with random weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24, "num_attention_heads": 4}
    config = getattr(transformers, f"{kind}Config")(
        **sizes, max_position_embeddings=64, eos_token_id=7, bos_token_id=1, pad_token_id=0, **further
    )
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("kind", ["Qwen3", "Gemma", "GPTNeoX"])
def test_other_decoders(kind: str) -> None:
    """Norms behind layers, one plus a gain, heads that share nothing: ranges of a prefill serve a step in each."""
    shared = {} if kind == "GPTNeoX" else {"num_key_value_heads": 2, "head_dim": 4}
    model, tokens = small(kind, **shared), torch.randint(1, 30, (1, 24))  # 0 is padding, a row of zeros
    decoder, cache = compile_decoder(model, prompt_lengths=[6], context=64, calibration=[tokens]), Cache()
    with torch.no_grad():
        wanted = model(tokens).logits[0]
    got = step(decoder, decoder.prefill[6], tokens[:, :6], 0, cache)
    assert (got[0] - wanted[5]).abs().max() < expected(decoder.prefill[6]) < 1e-2
    for position in (6, 7):
        got = step(decoder, decoder.steps[64], tokens[:, position : position + 1], position, cache)
        assert (got[0] - wanted[position]).abs().max() < expected(decoder.steps[64]) < 1e-2


def expected(plan: Plan) -> float:
    """The error that a plan states for its logits."""
    [output] = plan.outputs
    assert output.error is not None
    return output.error


LEARNED_POSITIONS = {
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 80},
    "OPT": {"hidden_size": 16, "word_embed_proj_dim": 8, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 24},
}


@pytest.mark.parametrize("kind", LEARNED_POSITIONS)
def test_decoders_with_learned_positions(kind: str) -> None:
    """The owner's table of positions is shared once, and a run takes the row of its own: across a bucket's end, too."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=30, eos_token_id=7, bos_token_id=1, pad_token_id=0, **LEARNED_POSITIONS[kind]
    )
    model, tokens = transformers.AutoModelForCausalLM.from_config(config).eval(), torch.randint(2, 30, (1, 72))
    decoder, cache = compile_decoder(model, prompt_lengths=[63], context=80, calibration=[tokens]), Cache()
    with torch.no_grad():
        wanted = model(tokens).logits[0]
    bar = 0.01 * float(wanted.std())
    got = step(decoder, decoder.prefill[63], tokens[:, :63], 0, cache)
    assert (got[0] - wanted[62]).abs().max() < expected(decoder.prefill[63]) < bar
    for position in (63, 64, 65):
        plan = decoder.steps[64 if position < 64 else 128]
        assert "row" in {node.op for node in plan.nodes}
        got = step(decoder, plan, tokens[:, position : position + 1], position, cache)
        assert (got[0] - wanted[position]).abs().max() < expected(plan) < bar
    with pytest.raises(PlanError, match="positions"):
        compile_decoder(model, prompt_lengths=[6], context=5000, calibration=[tokens])


def test_another_form_of_attention_is_refused() -> None:
    with pytest.raises(PlanError, match="attn_implementation='sdpa'"):
        compile_decoder(small("Gemma2"), prompt_lengths=[6], context=64, calibration=[torch.zeros(1, 6, dtype=torch.long)])


def test_the_place_of_the_largest_logit_alone_is_revealed() -> None:
    model = small("Llama", num_key_value_heads=2)
    tokens = torch.randint(0, 30, (1, 12))
    decoder = compile_decoder(model, prompt_lengths=[5], context=64, calibration=[tokens], reveal="token")
    plan = decoder.prefill[5]
    assert plan.end == (7,)
    assert [(output.shape, output.error) for output in plan.outputs] == [((1,), None)], "a place has no error"
    with torch.no_grad():
        wanted = model(tokens[:, :5]).logits[0, -1].argmax()
    assert int(step(decoder, plan, tokens[:, :5], 0, Cache())[0]) == int(wanted)
