"""Stimulus files: what texts a model reads, and where they come from.

A file says `source:`, where the stimuli are quoted from, and has its texts in one of these forms::

    texts: [a text, another text]      # with labels: {good: [a text], bad: [another]}

    template: "The next word is {word}"  # each word takes the place of {word}
    words: {fruit: [pear, grape], space: [galaxy, asteroid]}

    document: |                       # one long text
      It was a dark and stormy night …

    url: https://…                     # one long text, fetched by the workflow

    dataset: {repository: org/name, revision: <commit>, file: train.parquet, text: sentence}

    corpus: PATH                       # a text, JSONL or Parquet file, or a folder of them

    like: another_set                  # the texts of another file, with its `cut` and `sample`

Long texts may be cut into sequences of tokens with `cut:`, of which `sample:` draws some. The
tokens of each text may be put in another order with `shuffled:`, and masked one by one with
`masked: each`. `{mask}` in a text, a template or a word becomes the mask token of each model's
tokenizer, but not where texts are cut into sequences of one length, nor in a corpus.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from microtome.errors import MicrotomeError, nearest
from microtome.store.checksums import RESULTS
from microtome.texts.documents import read_yaml
from microtome.texts.forms import (
    Corpus,
    Cut,
    HubFiles,
    Lengths,
    Occurrences,
    Sample,
    Starts,
    Url,
    read_corpus,
    read_cut,
    read_hub_files,
    read_sample,
    read_seeds,
    read_url,
)

PLACE = "{word}"
MASK = "{mask}"
#: The keys of a file that say what its texts are, but for `words`, which stands beside `template`.
FORMS = ("texts", "template", "document", "url", "dataset", "corpus", "like")
#: Those whose texts may be many, or long.
LONG = ("document", "url", "dataset", "corpus")
_WANTED = (
    "`texts:`, `document:`, `url:`, `dataset:`, `corpus:`, `like:`, or `template:` with `words:`"
)


@dataclass(frozen=True)
class Stimulus:
    """One text to run through a model.

    Attributes:
        text: what the model reads, with `{mask}` for its mask token.
        word: the word that the template was filled with, or None.
        category: the label of that word or of the text, or None.
        span: start and end of the word in the text, in characters, or None.
        origin: the file and the place in it, for messages; empty if it is from no file.
        continues: whether the next one continues this text, which is read in pieces.
    """

    text: str
    word: str | None = None
    category: str | None = None
    span: tuple[int, int] | None = None
    origin: str = field(default="", compare=False)
    continues: bool = False


@dataclass(frozen=True)
class StimulusSet:
    """What a stimulus file says.

    Attributes:
        file: the file.
        stimuli: its texts, in the order of the file; none where they lie elsewhere.
        remote: where they are fetched from, or None.
        fetched: the file, or the folder of files, that they lie in since they have been fetched.
        corpus: the files that they lie in, or None.
        holder: the name of the other set that has the texts (`like`), or None.
        cut: how each text is cut into sequences of tokens, or None.
        sample: which of these sequences are drawn, or None for all.
        shuffled: seeds; for each of them, each sequence has its tokens in another order.
        masked: whether each token of each sequence is masked in turn.
    """

    file: Path
    stimuli: tuple[Stimulus, ...] = ()
    remote: Url | HubFiles | None = None
    fetched: Path | None = None
    corpus: Corpus | None = None
    holder: str | None = None
    cut: Cut | None = None
    sample: Sample | None = None
    shuffled: tuple[int, ...] = ()
    masked: bool = False

    @property
    def n_sequences(self) -> int | None:
        """How many sequences a model reads; None if only the texts or their tokens tell."""
        n: int | None = 1 if isinstance(self.remote, Url) else len(self.stimuli) or None
        if self.sample is not None:
            n = self.sample.n
        elif self.cut is not None:
            n = len(self.cut.starts) if isinstance(self.cut, Starts) else None
        return None if self.masked or n is None else n * max(1, len(self.shuffled))

    @property
    def many(self) -> bool:
        """Whether there may be so many texts or sequences that they take a while to tokenise."""
        return self.verbatim or isinstance(self.remote, HubFiles)

    @property
    def verbatim(self) -> bool:
        """Whether the texts are read as they stand, without a mask token for `{mask}`."""
        return self.corpus is not None or isinstance(self.cut, Lengths)

    def fetched_file(self, name: str) -> Path | None:
        """Where the fetched text lies, below the working directory; None if the set has its texts.

        Args:
            name: the set's own name.
        """
        if self.remote is None:
            return None
        file = RESULTS / "texts" / (self.holder or name)
        return file if self.remote.suffix is None else file.with_suffix(f".{self.remote.suffix}")

    @property
    def words(self) -> bool:
        """Whether each sequence has a word: one in a template, or one that a cut ends with."""
        filled = any(stimulus.word is not None for stimulus in self.stimuli)
        return filled or isinstance(self.cut, Occurrences)

    @property
    def labels(self) -> list[str] | None:
        """The labels of its words or texts, in their order; None if only the fetched file tells."""
        if isinstance(self.remote, HubFiles):
            return list(self.remote.labels) if self.remote.labels or not self.remote.label else None
        if self.cut is not None:
            return self.cut.categories if isinstance(self.cut, Occurrences) else []
        return list(dict.fromkeys(s.category for s in self.stimuli if s.category is not None))


def read_set(path: Path, find: Callable[[str], Path] | None = None) -> StimulusSet:
    """Read a stimulus file.

    Args:
        path: the file.
        find: where the file of another set lies, which `like` names; by default beside this one.

    Raises:
        MicrotomeError: a file that is not YAML or not UTF-8, an unknown key, keys that contradict
            each other, a template without `{word}`, an empty text, a text with NUL, a word twice in
            a category, a category of one word, a cut that no text can serve.
    """
    content = _read(path)
    holder, home, form = content.get("like"), path, content
    if holder is not None:
        home = find(holder) if find else path.with_name(f"{holder}.yaml")
        if not home.exists():
            raise MicrotomeError(f"{path}: like: no stimulus set {holder!r} ({home}); correct it")
        form = _read(home)
        if "like" in form:
            raise MicrotomeError(
                f"{path}: like: {home} is like {form['like']!r} itself; name that one"
            )
    texts = _texts_of(home, form)
    place, said = (path, content) if "cut" in content else (home, form)
    cut = read_cut(place, said["cut"]) if "cut" in said else None
    _check_cut(place, cut, form)
    if isinstance(cut, Lengths) and any(MASK in s.text for s in texts.get("stimuli", ())):
        raise MicrotomeError(f"{home}: document: {MASK} stays as it is; take it out, or `cut:`")
    place, said = (path, content) if "sample" in content else (home, form)
    if "sample" in said and set(LONG).isdisjoint(form):
        raise MicrotomeError(f"{place}: sample: wants {_listing(LONG)}; take texts out instead")
    if content.get("masked", "each") != "each":
        raise MicrotomeError(f"{path}: masked: wants `each`; write that or take the key out")
    if "masked" in content and any(MASK in s.text for s in texts.get("stimuli", ())):
        raise MicrotomeError(f"{path}: masked: the texts have {MASK} already; take one of them out")
    return StimulusSet(
        path,
        **texts,
        holder=holder,
        cut=cut,
        sample=read_sample(place, said["sample"]) if "sample" in said else None,
        shuffled=read_seeds(path, content["shuffled"]) if "shuffled" in content else (),
        masked="masked" in content,
    )


def _check_cut(place: Path, cut: Cut | None, form: dict[str, Any]) -> None:
    """Refuse a cut that the texts of a form cannot have."""
    if isinstance(cut, Lengths):
        if set(LONG).isdisjoint(form):
            raise MicrotomeError(f"{place}: cut: a length wants {_listing(LONG)}")
        if cut.joined and "label" in form.get("dataset", {}):
            raise MicrotomeError(
                f"{place}: cut: documents: what is cut of several has no label; take `label:` out"
            )
    elif cut is not None and {"document", "url"}.isdisjoint(form):
        raise MicrotomeError(
            f"{place}: cut: wants one long text, as `document:` or `url:` has, or a length alone"
        )


def _listing(keys: Iterable[str]) -> str:
    *others, last = (f"`{key}:`" for key in keys)
    return f"{', '.join(others)} or {last}"


def _read(path: Path) -> dict[str, Any]:
    """A stimulus file's content, once its keys are seen to go together."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise MicrotomeError(f"{path}: wants `source:` with {_WANTED}")
    known = ["source", *FORMS, "words", "field", "sha256", "cut", "sample", "shuffled", "masked"]
    for key in content:
        if key not in known:
            raise MicrotomeError(f"{path}: unknown key {key!r}; {nearest(key, known)}")
    if not content.get("source") and "like" not in content:
        raise MicrotomeError(f"{path}: `source:` is missing; say where the stimuli come from")
    forms = [key for key in FORMS if key in content]
    if len(forms) != 1 or ("template" in content) != ("words" in content):
        raise MicrotomeError(f"{path}: wants one of {_WANTED}")
    if "sha256" in content and not {"url", "dataset"} & set(content):
        raise MicrotomeError(f"{path}: sha256: nothing is fetched; take it out")
    if "field" in content and "corpus" not in content:
        raise MicrotomeError(f"{path}: field: is of a `corpus:`; take it out")
    return content


def _texts_of(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """The texts of a file, or where they lie: attributes of its `StimulusSet`."""
    sha256 = content.get("sha256")
    if "texts" in content:
        return {"stimuli": tuple(_texts(path, content["texts"]))}
    if "template" in content:
        return {"stimuli": tuple(_filled(path, content["template"], content["words"]))}
    if "document" in content:
        _check_text(path, "document", content["document"], "write a text")
        return {"stimuli": (Stimulus(content["document"], origin=f"{path}: document"),)}
    if "url" in content:
        return {"remote": read_url(path, content["url"], sha256)}
    if "corpus" in content:
        return {"corpus": read_corpus(path, content["corpus"], content.get("field"))}
    return {"remote": read_hub_files(path, content["dataset"], sha256)}


def _texts(path: Path, texts: object) -> list[Stimulus]:
    if not isinstance(texts, dict):
        return list(_listed(path, "texts", texts, None))
    for label in texts:
        _check_text(path, "texts: a label", label, "give every category a name")
    if not texts:
        raise MicrotomeError(f"{path}: texts: wants a list of texts")
    return [
        stimulus
        for label, members in texts.items()
        for stimulus in _listed(path, f"texts: {label}", members, label)
    ]


def _listed(path: Path, place: str, texts: object, label: str | None) -> Iterable[Stimulus]:
    if not isinstance(texts, list) or not texts:
        raise MicrotomeError(f"{path}: {place}: wants a list of texts")
    for number, text in enumerate(texts, start=1):
        entry = f"{place}: entry {number}"
        _check_text(path, entry, text, "write a text or take the entry out")
        yield Stimulus(text, category=label, origin=f"{path}: {entry}")


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
