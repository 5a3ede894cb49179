"""The models are the genuine ones: each gives the answer it is known for, without a network."""

import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest

pytest.importorskip("transformers", reason="the extra `models` is not installed")

import torch
from transformers.utils import logging

from moiety.models import files, minilm, smollm2, stories


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to reach another machine fails the test."""

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a loader asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def installed(model: files.ModelFile) -> None:
    try:
        model.find()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def continuation(tokenizer: Any, model: Any, tokens: torch.Tensor, new: int) -> str:
    """Greedy text after the prompt (1, n)."""
    with torch.inference_mode():
        out = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=new, do_sample=False)
    return str(tokenizer.decode(out[0, tokens.shape[1] :], skip_special_tokens=True))


def test_smollm2_knows_the_capital_of_france() -> None:
    installed(files.SMOLLM2)
    tokenizer, model = smollm2.load()
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    tokens = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)["input_ids"]
    assert tokens.shape == (1, 37)
    assert continuation(tokenizer, model, tokens, 12) == "The capital of France is Paris."
    assert model.dtype == torch.float32
    assert not model.training


def test_minilm_finds_the_nearer_sentence() -> None:
    installed(files.MINILM)
    tokenizer, model = minilm.load()
    batch = tokenizer(["A man plays the guitar.", "Someone is playing music.", "The stock market fell."], padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    query, near, far = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
    assert query @ near > 0.5 > 0.2 > query @ far


def test_efficientnet_sees_an_espresso(photographs: Path) -> None:
    for file in (files.EFFICIENTNET, files.EFFICIENTNET_CODE, files.IMAGENET):
        installed(file)
    from moiety.models import efficientnet, images

    labels, model = efficientnet.load()
    with torch.inference_mode():
        found = model(torch.from_numpy(images.read(photographs / "coffee.png"))).softmax(-1)[0]
    assert labels[int(found.argmax())] == "espresso"
    assert found.max() > 0.9
    assert not model.training


def test_stories_tells_of_lily(data_folder: Path) -> None:
    tokenizer, model = stories.load()
    tokens = tokenizer("Once upon a time", return_tensors="pt")["input_ids"]
    assert "little girl named Lily" in continuation(tokenizer, model, tokens, 30)


def test_stories_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOIETY_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="set MOIETY_DATA"):
        stories.load()


def test_the_second_of_two_first_loads_takes_the_work_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(files.SMOLLM2)

    def convert(_: Path, folder: Path) -> None:
        (folder / "config.json").write_text("late")
        first = folder.parent / f"smollm2-{files.SMOLLM2.version}-{files.SMOLLM2.sha256[:12]}"
        first.mkdir()  # another process finishes meanwhile
        (first / "config.json").write_text("first")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(smollm2, "convert", convert)
    folder = smollm2.checkpoint()
    assert (folder / "config.json").read_text() == "first"
    assert list((tmp_path / "moiety").iterdir()) == [folder]


def test_a_failed_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(files.SMOLLM2)

    def convert(_: Path, folder: Path) -> NoReturn:
        (folder / "half").touch()
        raise OSError("disk full")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(smollm2, "convert", convert)
    before = logging.get_verbosity()
    with pytest.raises(OSError, match="disk full"):
        smollm2.checkpoint()
    assert not list((tmp_path / "moiety").iterdir())
    assert logging.get_verbosity() == before
