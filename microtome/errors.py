"""What a user did wrong or can mend, told in one line."""

import textwrap
from difflib import get_close_matches


class MicrotomeError(Exception):
    """An error the user can mend; its message is one line with the place, the fault, the remedy."""


def nearest(name: str, known: list[str]) -> str:
    """The end of a message about an unknown name: its nearest right name, or all of them."""
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def in_short(found: object, width: int = 160) -> str:
    """Another library's message, or what a user wrote, in one line of so many characters."""
    return textwrap.shorten(str(found) or type(found).__name__, width, placeholder=" …")
