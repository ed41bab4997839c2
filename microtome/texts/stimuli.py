"""Stimulus files: texts, or a template that is filled with labelled words, and their source.

They come in two forms. Texts::

    source: where the stimuli are quoted from
    texts: [a text, another text]

Or words, each of which takes the place of `{word}`::

    source: where the stimuli are quoted from
    template: "The next word is {word}"
    words:
      fruit: [pear, grape]
      space: [galaxy, asteroid]

`{mask}` in a text, a template or a word becomes the mask token of each model's tokenizer.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from microtome.errors import MicrotomeError, nearest
from microtome.texts.documents import read_yaml

PLACE = "{word}"
MASK = "{mask}"


@dataclass(frozen=True)
class Stimulus:
    """One text to run through a model.

    Attributes:
        text: what the model reads, with `{mask}` for its mask token.
        word: the word that the template was filled with, or None.
        category: the label of that word, or None.
        span: start and end of the word in the text, in characters, or None.
        origin: the file and the place in it, for messages; empty if it is from no file.
    """

    text: str
    word: str | None = None
    category: str | None = None
    span: tuple[int, int] | None = None
    origin: str = field(default="", compare=False)


def read_stimuli(path: Path) -> list[Stimulus]:
    """Read a stimulus file, in the order of the file.

    Raises:
        MicrotomeError: a file that is not YAML or not UTF-8, an unknown key, a template without
            `{word}`, an empty text, a text with NUL, a word twice in a category, or a category of
            one word.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise MicrotomeError(f"{path}: wants `source:` with `texts:`, or `template:` and `words:`")
    for key in content:
        if key not in (known := ["source", "texts", "template", "words"]):
            raise MicrotomeError(f"{path}: unknown key {key!r}; {nearest(key, known)}")
    if not content.get("source"):
        raise MicrotomeError(f"{path}: `source:` is missing; say where the stimuli come from")
    if "texts" in content and not {"template", "words"} & set(content):
        return _texts(path, content["texts"])
    if {"template", "words"} <= set(content) and "texts" not in content:
        return _filled(path, content["template"], content["words"])
    raise MicrotomeError(f"{path}: wants either `texts:`, or `template:` with `words:`")


def _texts(path: Path, texts: object) -> list[Stimulus]:
    if not isinstance(texts, list) or not texts:
        raise MicrotomeError(f"{path}: texts: wants a list of texts")
    stimuli = []
    for number, text in enumerate(texts, start=1):
        place = f"texts: entry {number}"
        _check_text(path, place, text, "write a text or take the entry out")
        stimuli.append(Stimulus(text, origin=f"{path}: {place}"))
    return stimuli


def _filled(path: Path, template: Any, words: object) -> list[Stimulus]:
    _check_text(path, "template", template, f"write a text with {PLACE} in it")
    if template.count(PLACE) != 1:
        raise MicrotomeError(f"{path}: template: wants {PLACE} once, has {template!r}")
    if not isinstance(words, dict) or not words:
        raise MicrotomeError(f"{path}: words: wants categories, each with a list of words")
    start = template.index(PLACE)
    stimuli: list[Stimulus] = []
    for category, members in words.items():
        _check_text(path, "words: a label", category, "give every category a name")
        if not isinstance(members, list) or len(members) < 2:
            raise MicrotomeError(f"{path}: words: {category}: wants a list of two or more words")
        seen: set[str] = set()
        for number, word in enumerate(members, start=1):
            place = f"words: {category}: entry {number}"
            _check_text(path, place, word, "write a word or take the entry out")
            if word in seen:
                raise MicrotomeError(
                    f"{path}: words: {category}: {word!r} stands there twice; take one out"
                )
            seen.add(word)
            text = template.replace(PLACE, word)
            span = (start, start + len(word))
            stimuli.append(Stimulus(text, word, category, span, f"{path}: {place}"))
    return stimuli


def _check_text(path: Path, place: str, text: object, remedy: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise MicrotomeError(f"{path}: {place} is empty or no text; {remedy}")
    if "\0" in text:  # YAML can spell it, HDF5 cannot hold it
        raise MicrotomeError(
            f"{path}: {place} has the character '\\x00', which is no text; {remedy}"
        )
