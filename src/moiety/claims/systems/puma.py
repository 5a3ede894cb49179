"""PUMA (arXiv 2307.12533): unmodified transformers in three-party replicated sharing, by piecewise polynomials."""

from collections.abc import Iterator
from typing import Final

from moiety.claims import puma_float, puma_speed, tasks
from moiety.claims.registry import Part, Row, System
from moiety.models.files import MINILM

SYSTEM: Final = System(
    id="puma",
    title="PUMA: Secure Inference of LLaMA-7B in Five Minutes",
    paper="Dong et al., arXiv 2307.12533 (2023); Security and Safety 4, 2025014 (2025)",
    claim="A published transformer, not fine-tuned, keeps its task metric within 1 % of plaintext under PUMA's approximations; embedding "
    "and LayerNorm give plaintext's result; its GeLU costs fewer bytes and rounds than an exact one by an exponential. Beside its own "
    "implementation, on one machine, moiety takes less time and fewer bytes.",
    built=(
        Part("GeLU and SiLU by piecewise polynomials", "moiety.mpc.functions.puma"),
        Part("exponential by squarings, softmax", "moiety.mpc.functions.puma"),
        Part("inverse square root, and LayerNorm with it", "moiety.mpc.functions.puma_root"),
        Part("embedding of secret words by a one-hot", "moiety.compile.rules_nn"),
        Part("choice by model or layer: variants", "moiety.compile.builder"),
    ),
    limits=(
        "the paper's times and gigabytes are not reproduced: they are of other machines and of models of up to 7 B parameters; times and "
        "bytes here are those of the last kept moiety bench, of moiety's default and of SPU with PUMA's functions on one machine",
        "the protocols beneath are moiety's own: helper form, failure-free truncation, exact comparisons in three rounds",
        "the data owner shares the one-hot of a word; parties do not compare a shared id with the whole vocabulary",
        "the reciprocal of softmax is a table",
    ),
    page="docs/systems/puma.md",
)


def rows(quick: bool) -> Iterator[Row]:
    """The errors of the formulas, the cost of GeLU, layers and a whole model between processes, and speed as it was last kept."""
    texts = tasks.sts_pairs(), tasks.sst2("train"), tasks.sst2("dev")
    MINILM.find()  # what is missing is said at once
    from moiety.claims import puma_private

    yield from puma_float.rows()
    yield from puma_private.rows(puma_private.Texts(*texts), quick)
    yield from puma_speed.rows(puma_speed.kept())
