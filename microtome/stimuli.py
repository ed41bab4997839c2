"""Stimulus files: texts, or a template over labelled words, quoted exactly with their source.

source: where the stimuli are quoted from
texts: [a text, another text]

source: where the stimuli are quoted from
template: "The next word is {word}"
words:
  fruit: [pear, grape]
  space: [galaxy, asteroid]
"""

from dataclasses import dataclass
from pathlib import Path

import yaml

from microtome.errors import MicrotomeError, nearest

PLACE = "{word}"


@dataclass(frozen=True)
class Stimulus:
    """One text to run through a model.

    Attributes:
        text: what the model reads.
        word: the word that the template was filled with, or None.
        category: the label of that word, or None.
        span: start and end of the word in the text, in characters, or None.
    """

    text: str
    word: str | None = None
    category: str | None = None
    span: tuple[int, int] | None = None


def read_stimuli(path: Path) -> list[Stimulus]:
    """Read a stimulus file, in the order of the file.

    Raises:
        MicrotomeError: not YAML or not UTF-8, an unknown key, a template without `{word}`, an
            empty text, a word twice in a category, a category
            of one word.
    """
    try:
        # BaseLoader reads every scalar as text: `no`, `on` and `1984` are words.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except FileNotFoundError:
        raise MicrotomeError(f"{path}: no such stimulus file") from None
    except UnicodeDecodeError as error:
        raise MicrotomeError(f"{path}: byte {error.start} is not UTF-8; save it as such") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise MicrotomeError(f"{path}{line}: not YAML; quote texts with a colon or #") from None
    if not isinstance(content, dict):
        raise MicrotomeError(f"{path}: wants `source:` with `texts:`, or `template:` and `words:`")
    for key in content:
        if key not in (known := ["source", "texts", "template", "words"]):
            raise MicrotomeError(f"{path}: unknown key {key!r}; {nearest(key, known)}")
    if not content.get("source"):
        raise MicrotomeError(f"{path}: `source:` is missing; say where the stimuli come from")
    if "texts" in content and not {"template", "words"} & set(content):
        return [Stimulus(text) for text in _texts(path, content["texts"])]
    if {"template", "words"} <= set(content) and "texts" not in content:
        return _filled(path, content["template"], content["words"])
    raise MicrotomeError(f"{path}: wants either `texts:`, or `template:` with `words:`")


def _texts(path: Path, texts: object) -> list[str]:
    if not isinstance(texts, list) or not texts:
        raise MicrotomeError(f"{path}: texts: wants a list of texts")
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str) or not text.strip():
            raise MicrotomeError(f"{path}: texts: entry {number} is empty or no text")
    return texts


def _filled(path: Path, template: object, words: object) -> list[Stimulus]:
    if not isinstance(template, str) or template.count(PLACE) != 1:
        raise MicrotomeError(f"{path}: template: wants {PLACE} once, has {template!r}")
    if not isinstance(words, dict) or not words:
        raise MicrotomeError(f"{path}: words: wants categories, each with a list of words")
    start = template.index(PLACE)
    stimuli: list[Stimulus] = []
    for category, members in words.items():
        if not isinstance(members, list) or len(members) < 2:
            raise MicrotomeError(f"{path}: words: {category}: wants a list of two or more words")
        for number, word in enumerate(members):
            if not isinstance(word, str) or not word.strip():
                raise MicrotomeError(f"{path}: words: {category}: an entry is empty or no word")
            if word in members[:number]:
                raise MicrotomeError(f"{path}: words: {category}: {word!r} stands there twice")
            text = template.replace(PLACE, word)
            stimuli.append(Stimulus(text, word, category, (start, start + len(word))))
    return stimuli
