"""``moiety classify``: what private images show."""

from pathlib import Path
from typing import Any

import numpy as np

from moiety.cli import answers, models
from moiety.cli.generate import place
from moiety.cli.local import Place
from moiety.cli.output import print_json, remark
from moiety.cli.screen import Screen, screen
from moiety.engine.cost import PROMISE
from moiety.private.classify import Classification, top
from moiety.private.classify import classify as classify_privately

SHOWN = 5


def classify(files: list[Path], *, model: str, federation: str | None, party: str | None, identity: str | None, as_json: bool) -> None:
    """Classify every image. Where the parties were started for it, compare with the model in the clear."""
    from moiety.models import images

    known = models.known(model if federation is None else "efficientnet", models.CLASSIFIER)
    shown = screen(silent=as_json)
    with shown, place(model, federation, party, identity, shown) as found:
        with shown.stage("prepare"):
            pictures, labels = [images.read(file) for file in files], images.labels()
        found.deploy(known.name, known.lengths, 1, "", shown)
        answered = _run(found, pictures, shown)
        clear = None
        if federation is None:
            with shown.stage("check"):
                clear = _in_the_clear(known, pictures)
    rows = [
        _row(file, answer, labels, None if clear is None else clear[i])
        for i, (file, answer) in enumerate(zip(files, answered, strict=True))
    ]
    if as_json:
        runs = [answer.report for answer in answered]
        seconds = {name: round(value, 3) for name, value in shown.seconds.items()}
        print_json({"images": rows, "costs": answers.costs(runs), "members": answers.members(runs), "seconds": seconds})
        return
    _print(rows)
    remark(answers.brief([answer.report for answer in answered]))
    remark(PROMISE)


def _run(found: Place, pictures: list[Any], shown: Screen) -> list[Classification]:
    private, out = found.private(), list[Classification]()

    def progress(done: int, of: int) -> None:
        shown.progress("classify", len(out) + done / of, len(pictures))

    with shown.stage("classify"):
        for picture in pictures:
            out.append(classify_privately(private, picture, on_progress=progress))
    return out


def _in_the_clear(known: models.Known, pictures: list[Any]) -> list[Any]:
    """Logits of the same images without any privacy."""
    import torch

    _, model = known.load()
    with torch.no_grad():
        return [model(torch.from_numpy(picture))[0].numpy() for picture in pictures]


def _row(file: Path, answer: Classification, labels: list[str], clear: Any) -> dict[str, Any]:
    """One image's answer as plain data."""

    def named(found: list[tuple[int, float]]) -> list[dict[str, Any]]:
        return [{"class": place, "label": labels[place], "probability": round(share, 6)} for place, share in found]

    row: dict[str, Any] = {"file": str(file), "top": named(answer.top(SHOWN))}
    if clear is not None:
        row["clear"] = named(top(clear, SHOWN))
        row["agree"] = row["top"][0]["class"] == row["clear"][0]["class"]
        row["logit_error"] = float(np.abs(answer.logits - clear).max())
    return row


def _print(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        print(row["file"])
        for found in row["top"]:
            print(f"  {found['probability']:7.2%}  {found['label']}")
        if "clear" in row:
            best, verb = row["clear"][0], "also" if row["agree"] else "but"
            print(f"  in the clear {verb} {best['label']}, {best['probability']:.2%}; largest error of a logit {row['logit_error']:.4f}")
