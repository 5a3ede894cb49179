"""``moiety embed``: vectors of private sentences."""

import numpy as np

from moiety.cli import answers, models
from moiety.cli.generate import place
from moiety.cli.local import Place
from moiety.cli.output import print_json, remark
from moiety.cli.screen import Screen, screen
from moiety.engine.cost import PROMISE
from moiety.private.embed import Embedding
from moiety.private.embed import embed as embed_privately

SHOWN = 8


def embed(
    texts: list[str], *, model: str, tokenizer: str | None, federation: str | None, party: str | None, identity: str | None, as_json: bool
) -> None:
    """Embed every text; of several, print how alike they are."""
    known = models.known(tokenizer or model, models.ENCODER)
    shown = screen(silent=as_json)
    with shown, place(model, federation, party, identity, shown) as found:
        with shown.stage("tokenise"):
            reader = known.tokenizer()
            sentences = [known.tokens(reader, text) for text in texts]
        found.deploy(known.name, tuple(sorted({len(ids) for ids in sentences})), 0, "", shown)
        embeddings = _run(found, sentences, shown)
    alike = [[float(a.vector @ b.vector) for b in embeddings] for a in embeddings]
    if as_json:
        runs = [e.report for e in embeddings]
        vectors = [[round(float(v), 7) for v in e.vector] for e in embeddings]
        seconds = {name: round(value, 3) for name, value in shown.seconds.items()}
        counts = [len(ids) for ids in sentences]
        print_json(
            {
                "embeddings": vectors,
                "tokens": counts,
                "cosines": alike,
                "costs": answers.costs(runs),
                "members": answers.members(runs),
                "seconds": seconds,
            }
        )
        return
    _print(texts, embeddings, alike)


def _run(found: Place, sentences: list[list[int]], shown: Screen) -> list[Embedding]:
    private, out = found.private(), list[Embedding]()

    def progress(done: int, of: int) -> None:
        shown.progress("embed", len(out) + done / of, len(sentences))

    with shown.stage("embed"):
        for ids in sentences:
            out.append(embed_privately(private, ids, on_progress=progress))
    return out


def _print(texts: list[str], embeddings: list[Embedding], alike: list[list[float]]) -> None:
    for text, embedding in zip(texts, embeddings, strict=True):
        numbers = " ".join(f"{value:+.4f}" for value in np.asarray(embedding.vector)[:SHOWN])
        print(f"{text}\n  {numbers} ... ({embedding.vector.size} numbers; --json prints all)")
    for i in range(len(texts)):
        for j in range(i):
            print(f"cosine {alike[i][j]:+.4f}  {texts[j]!r} and {texts[i]!r}")
    remark(answers.brief([embedding.report for embedding in embeddings]))
    remark("The mean over the tokens was taken privately; the vector was scaled to length one here, by its owner.")
    remark(PROMISE)
