"""What a command's MODEL means, in one place.

* a bundled name: ``smollm2``, ``minilm``, ``efficientnet``, ``stories`` ...
* ``path/to/file.py:function``: the function returns a module, or a module and its example inputs
* a folder with a HuggingFace model, or the name of one in the local HuggingFace cache; nothing is downloaded

A language model that generates is compiled into a prefill for each prompt length and steps, everything else into one pass.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from moiety.cli import models
from moiety.cli.output import remark
from moiety.errors import ConfigError

if TYPE_CHECKING:
    from moiety.compile.builder import Options
    from moiety.compile.calibrate import Ranges
    from moiety.compile.model import Draft
    from moiety.compile.ranges import File

PASS: Final = "pass"
LENGTH: Final = 96
"""Tokens of the public sequences on which a language model is measured."""
PROMPT: Final = 16
"""Tokens of a prompt or sentence where none are asked for."""


@dataclass(slots=True)
class Source:
    """A model with everything that is needed to compile it. ``kind``: decoder, encoder (with its mean), or a plain pass."""

    name: str
    title: str
    kind: str
    model: Any
    tokenizer: Any = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    public: tuple[str, ...] = ()
    margin: float = 1.5
    calibration: Callable[[int], Sequence[Any]] | None = None
    """Public token sequences (1, n) of a language model, on which its ranges are measured."""
    examples: Sequence[tuple[Any, ...]] | None = None
    """Examples of the inputs of a single pass, on which its ranges are measured."""
    made_up: bool = True
    """Whether nobody gave inputs like those to come, so that measured ranges are a guess."""

    def drafts(
        self,
        *,
        lengths: Sequence[int] = (),
        context: int = 64,
        reveal: str = "logits",
        ranges: "Ranges | None" = None,
        options: "Options | None" = None,
    ) -> "Iterator[tuple[str, Callable[[], Draft]]]":
        """What will be compiled, each with its title. ``lengths``, ``context``, ``reveal`` are for language models. ``ranges``
        found before join those that are measured; those found for one draft count for the drafts that come after."""
        from moiety.compile.builder import Options

        chosen = options or Options(margin=self.margin)
        if self.kind == models.DECODER:
            yield from self._decoder(lengths or (PROMPT,), context, reveal, ranges, chosen)
        elif self.kind == models.ENCODER:
            yield from self._encoder(lengths or (PROMPT,), ranges, chosen)
        else:
            yield "one pass", lambda: self._pass(ranges, chosen)

    def _pass(self, ranges: "Ranges | None", options: "Options") -> "Draft":
        from moiety.compile.model import draft

        return draft(self.model, self.args, self.kwargs, public=self.public, calibration=self.examples, ranges=ranges, options=options)

    def _decoder(
        self, lengths: Sequence[int], context: int, reveal: str, ranges: Any, options: "Options"
    ) -> "Iterator[tuple[str, Callable[[], Draft]]]":
        from moiety.compile import decoder

        if reveal not in ("logits", "token"):
            raise ConfigError(f"reveal is logits or token, not {reveal!r}")
        shown: Any = reveal
        found: list[Ranges] = []

        def drafted(make: "Callable[..., Draft]", size: int) -> "Draft":
            public = self.sequences(LENGTH)
            if not found:
                found.append(decoder.measure(self.model, public, ranges))
            return make(self.model, size, found[0], options, shown, public)

        for length in sorted(set(lengths)):
            yield f"prompt of {length} tokens", lambda length=length: drafted(decoder.draft_prefill, length)  # type: ignore[misc]
        for bucket in range(decoder.BUCKET, context + decoder.BUCKET, decoder.BUCKET):
            yield f"a token, cache up to {bucket}", lambda bucket=bucket: drafted(decoder.draft_step, bucket)  # type: ignore[misc]

    def _encoder(self, lengths: Sequence[int], ranges: Any, options: "Options") -> "Iterator[tuple[str, Callable[[], Draft]]]":
        from moiety.compile.model import draft
        from moiety.private.pooled import PUBLIC, Pooled, inputs

        pooled, known = Pooled(self.model).eval(), [ranges]

        def one(length: int) -> "Draft":
            examples = [inputs(tokens) for tokens in self.sequences(length)]
            made = draft(pooled, examples[0], public=PUBLIC, calibration=examples[1:], ranges=known[0], options=options)
            known[0] = made.ranges
            return made

        for length in sorted(set(lengths), reverse=True):
            yield f"sentence of {length} tokens", lambda length=length: one(length)  # type: ignore[misc]

    def sequences(self, length: int) -> Sequence[Any]:
        """Public token sequences (1, length) to measure ranges on."""
        assert self.calibration is not None, "a language model has them"
        return self.calibration(length)

    def measure_on(self, file: Path) -> None:
        """Measure ranges on the examples of a file: arrays of the inputs (see ``models.examples.read``), or lines of text.

        Raises ConfigError.
        """
        self.made_up = False
        if self.kind == PASS:
            from moiety.models import examples

            self.examples = examples.read(file, self.names())
        else:
            lines = self._lines(file)
            self.calibration = lambda length: self._sequences(lines, length)

    def example(self, file: Path, length: int) -> tuple[Any, ...]:
        """The first example of a file; of a language model ``length`` tokens of it, as its program takes them. Raises ConfigError."""
        if self.kind == PASS:
            from moiety.models import examples

            return examples.read(file, self.names())[0]
        tokens = self._sequences(self._lines(file), length)[0]
        if self.kind == models.DECODER:
            return (tokens,)
        from moiety.private.pooled import inputs

        return inputs(tokens)

    def _lines(self, file: Path) -> list[str]:
        if file.suffix != ".txt" or not file.is_file():
            raise ConfigError(f"{file} is no text file (.txt, one text a line), which a language model is measured on")
        if self.tokenizer is None:
            raise ConfigError(f"{self.name} has no tokenizer, so no text can be read for it")
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not lines:
            raise ConfigError(f"{file} has no text")
        return lines

    def _sequences(self, lines: Sequence[str], length: int) -> Sequence[Any]:
        from moiety.models import calibration

        if self.kind == models.ENCODER:
            return calibration.sentences(self.tokenizer, length, lines)
        return calibration.sequences(lambda text: self.tokenizer(text)["input_ids"], lines, length)

    def names(self) -> list[str]:
        """The inputs of a single pass, in order."""
        from moiety.compile.capture import capture

        return list(capture(self.model, self.args, self.kwargs).inputs)


@dataclass(frozen=True, slots=True)
class Asked:
    """A model as the options of a command name it, and what is to be compiled of it."""

    model: str
    inputs: Sequence[str] = ()
    public: Sequence[str] = ()
    numbers: str | None = None
    """Lengths, like ``8,16,20-24``."""
    context: int = 64
    reveal: str = "logits"
    ranges: Path | None = None
    data: Path | None = None

    def source(self) -> Source:
        """The model, measured on the data file if there is one. Raises ConfigError."""
        found = resolve(self.model, inputs=self.inputs, public=self.public)
        if self.data is not None:
            found.measure_on(self.data)
        return found

    def lengths(self) -> tuple[int, ...]:
        """Numbers of tokens. Raises ConfigError."""
        return (PROMPT,) if self.numbers is None else numbers(self.numbers)

    def drafts(self, source: Source, options: "Options | None" = None) -> "Iterator[tuple[str, Callable[[], Draft]]]":
        """What will be compiled, each with its title. Raises ConfigError, also when the ranges are another model's."""
        if self.ranges is None:
            yield from source.drafts(lengths=self.lengths(), context=self.context, reveal=self.reveal, options=options)
            return
        from moiety.compile.ranges import load

        file = load(self.ranges)
        if not alike(file.model, source.name):
            remark(f"! {self.ranges} was measured on {file.model}, not on {source.name}")
        drafts = source.drafts(lengths=self.lengths(), context=self.context, reveal=self.reveal, ranges=file.ranges, options=options)
        for title, make in drafts:
            yield title, functools.partial(self._measured, make, source, file)

    def _measured(self, make: "Callable[[], Draft]", source: Source, file: "File") -> "Draft":
        """The draft, once it is known what of it the file of ranges covers."""
        from moiety.compile.ranges import missing

        made = make()
        absent = missing(made.captured, made.ranges, file.ranges)
        if absent and absent == missing(made.captured, made.ranges, {}):
            raise ConfigError(f"{self.ranges} was measured on {file.model} and has no range of {source.name}; measure it: moiety calibrate")
        if absent and source.made_up:
            remark(f"! {len(absent)} ranges that {self.ranges} lacks were measured on made-up inputs, the first of {absent[0]}")
        return made


def alike(one: str, other: str) -> bool:
    """Whether two names may mean one model, in whatever folder its file lies."""
    return Path(one).name == Path(other).name


def numbers(text: str) -> tuple[int, ...]:
    """``8,16,20-24`` as numbers. Raises ConfigError."""
    try:
        parts = [part.partition("-") for part in text.split(",")]
        return tuple(sorted({n for low, dash, high in parts for n in range(int(low), int(high if dash else low) + 1)}))
    except ValueError:
        raise ConfigError(f"{text!r} is not a list of lengths; write it like 8,16,20-24") from None


def resolve(name: str, *, inputs: Sequence[str] = (), public: Sequence[str] = (), length: int = PROMPT) -> Source:
    """The model that ``name`` means. ``inputs`` (see ``models.examples.inputs``) and ``public`` are for single passes.

    Raises ConfigError that says what a name may be, FileNotFoundError where a bundled model is not installed.
    """
    if name in models.KNOWN:
        found = _bundled(models.KNOWN[name])
    elif ".py:" in name:
        found = _factory(name, bool(inputs))
    elif name.endswith(".py"):
        from moiety.models import examples

        raise ConfigError(examples.unnamed(name))
    else:
        found = _huggingface(name, length)
    if found.kind != PASS and (inputs or public):
        raise ConfigError(f"{name} is a language model: its inputs are tokens; take --lengths instead of --input and --public")
    if inputs:
        from moiety.models import examples

        found.args, found.kwargs = examples.inputs(inputs)
        found.public = tuple(key for key in found.public if key in found.kwargs)
    found.public = tuple(dict.fromkeys((*found.public, *public)))
    return found


def _bundled(known: models.Known) -> Source:
    tokenizer, model = known.load()
    if known.kind == models.CLASSIFIER:
        examples = [(image,) for image in known.calibration(None)]
        return Source(known.name, known.title, PASS, model, args=examples[0], margin=known.margin, examples=examples, made_up=False)
    return Source(
        known.name,
        known.title,
        known.kind,
        model,
        tokenizer,
        margin=known.margin,
        calibration=lambda length: known.calibration(tokenizer, length),
        made_up=False,
    )


def _factory(place: str, given: bool) -> Source:
    from moiety.models import examples

    model, inputs = examples.factory(place)
    if inputs is None and not given:
        raise ConfigError(f"{place} returns no example inputs; let it return (module, inputs), or give shapes: --input 4x8")
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,), {})
    return Source(place, type(model).__name__, PASS, model, args=args, kwargs=dict(kwargs))


def _huggingface(name: str, length: int) -> Source:
    from moiety.models import huggingface

    try:
        loaded = huggingface.load(name, length)
    except ConfigError as error:
        bundled = ", ".join(models.KNOWN)
        raise ConfigError(f"{error}. MODEL is {bundled}, path/to/file.py:function, or a HuggingFace folder or cached name") from None
    title = type(loaded.model).__name__
    if not loaded.generates:
        return Source(name, title, PASS, loaded.model, loaded.tokenizer, (), dict(loaded.inputs), loaded.public)
    if loaded.tokenizer is None:
        return Source(
            name, title, models.DECODER, loaded.model, calibration=lambda length: huggingface.made_up_tokens(loaded.model, length)
        )
    from moiety.models import calibration

    def texts(length: int) -> Sequence[Any]:
        return calibration.sequences(lambda text: loaded.tokenizer(text)["input_ids"], calibration.PASSAGES, length)

    return Source(name, title, models.DECODER, loaded.model, loaded.tokenizer, calibration=texts, made_up=False)
