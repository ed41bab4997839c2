"""What studies ask of the texts and of a model, judged as soon as the token table is made.

Nothing has been swept then, so that an option which does not fit costs no time.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from microtome.errors import MicrotomeError
from microtome.interventions.declaration import DeclarationError
from microtome.interventions.declared import declared
from microtome.interventions.fit import fit_model, fit_targets, fit_texts
from microtome.models.checkpoint import read_config, sizes
from microtome.models.skeleton import head_of, require_head
from microtome.models.taps import Sites, check_sites
from microtome.sites import SITES
from microtome.texts.rows import sequences
from microtome.texts.tokens import load_tokenizer, target_id


def judge(
    asked: Sequence[Mapping[str, Any]],
    columns: Mapping[str, np.ndarray],
    checkpoint: Path,
    found: Sites,
) -> None:
    """Refuse the first option that the texts or the model cannot serve.

    Args:
        asked: what is asked, each with `key`, the option's place in the config, and one of
            `position`: a token that every text must have and keep, negative from the end;
            `first_token`: a position that some text must reach;
            `word_token`: a token that every word must have, counted within the word, negative
            from its end;
            `target`, `targets`: a text that must be one token of the model, or several;
            `sites`: sites of blocks that the model must have;
            `head`, `next_token`: a name of the model, which must have a head, or one that
            predicts the next token;
            `intervention`: a declaration that both must serve.
        columns: the token table's columns by name, (token,) each; none where `needs_columns` says
            that they are not read.
        checkpoint: the checkpoint folder.
        found: the model's sites.

    Raises:
        MicrotomeError: one that does not fit; the message begins with its key.
    """
    for wish in asked:
        [(kind, value)] = [(kind, value) for kind, value in wish.items() if kind != "key"]
        try:
            match kind:
                case "position":
                    _judge_position(value, columns)
                case "first_token":
                    _judge_first_token(value, columns)
                case "word_token":
                    _judge_word_token(value, columns)
                case "target" | "targets":
                    _judge_targets([value] if kind == "target" else value, checkpoint)
                case "sites":
                    _judge_sites(value, checkpoint, found)
                case "head" | "next_token":
                    head = head_of(read_config(checkpoint))
                    require_head(value, head, next_token=kind == "next_token")
                case "intervention":
                    _judge_intervention(value, columns, checkpoint, found)
                case _:
                    raise ValueError(f"nothing is known of {kind!r}")
        except DeclarationError as error:
            raise DeclarationError((wish["key"], *error.keys), error.fault) from None
        except MicrotomeError as error:
            raise MicrotomeError(f"{wish['key']}: {error}") from None


def needs_columns(asked: Sequence[Mapping[str, Any]]) -> bool:
    """Whether `judge` reads the token table for some of what is asked."""
    of_texts = {"position", "first_token", "word_token", "intervention"}
    return any(wish.keys() & of_texts for wish in asked)


def _judge_position(position: int, columns: Mapping[str, np.ndarray]) -> None:
    rows = sequences(columns, "row") if "row" in columns else None
    for number, tokens in enumerate(sequences(columns, "text")):
        if not -len(tokens) <= position < len(tokens):
            raise MicrotomeError(
                f"no token {position} in {_quoted(tokens)}, which has {len(tokens)} tokens; "
                "correct the option or name longer stimuli"
            )
        if rows is not None and rows[number][position] < 0:
            raise MicrotomeError(
                f"token {position} of {_quoted(tokens)} is not kept; add it to `tokens` of the "
                "stimulus set"
            )


def _judge_first_token(position: int, columns: Mapping[str, np.ndarray]) -> None:
    longest = max(sequences(columns, "text"), key=len)
    if len(longest) <= position:
        raise MicrotomeError(
            f"no text has a token {position}, the longest, {_quoted(longest)}, has {len(longest)} "
            "tokens; correct the option or name longer stimuli"
        )


def _judge_word_token(place: int, columns: Mapping[str, np.ndarray]) -> None:
    if "in_word" not in columns:
        raise MicrotomeError("the stimuli have no words; name a set with `template:` and `words:`")
    marks = sequences(columns, "in_word")
    for tokens, inside in zip(sequences(columns, "text"), marks, strict=True):
        n_tokens = int(inside.sum())
        if not -n_tokens <= place < n_tokens:
            raise MicrotomeError(
                f"no token {place} in the word of {_quoted(tokens)}, which has {n_tokens} tokens; "
                "correct the option"
            )


def _judge_targets(targets: Sequence[str], checkpoint: Path) -> None:
    tokenizer = load_tokenizer(checkpoint)
    for target in targets:
        target_id(tokenizer, target)


def _judge_sites(sites: Sequence[str], checkpoint: Path, found: Sites) -> None:
    architecture = read_config(checkpoint).model_type
    inside = [site for site in sites if site in SITES]
    check_sites(inside, found.taps, architecture, absent=found.absent)


def _judge_intervention(
    declaration: Mapping[str, Any],
    columns: Mapping[str, np.ndarray],
    checkpoint: Path,
    found: Sites,
) -> None:
    config = read_config(checkpoint)
    dimensions = sizes(config)
    intervention = declared(declaration).at_depth(dimensions["n_layers"])
    fit_model(
        intervention, dimensions, found.taps, config.model_type, head_of(config), found.absent
    )
    fit_texts(intervention, columns)
    fit_targets(intervention, load_tokenizer(checkpoint))


def _quoted(tokens: np.ndarray) -> str:
    """The beginning of a text."""
    text = "".join(tokens)
    return repr(text if len(text) <= 40 else f"{text[:40]}…")
