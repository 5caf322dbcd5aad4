"""Whether a text has the form of its type, remembered for texts that come again and again.

msgspec matches a pattern anew for every text it decodes. That took half the time of decoding a
payment, and the ids in payments repeat. So payments are decoded without patterns, and their texts
are asked for here; the patterns are those of `types.py`. Only machine code has them once more
(`node/payment_code.py`), which looks at every text anew.
"""

import re
from typing import Any, Final

from atpar.ledger.limits import MAX_KNOWN_TEXTS, MAX_REFERENCE_CHARS
from atpar.ledger.types import AccountId, AssetCode


class Form:
    """The pattern of one type of `types.py`, and texts that are known to match it."""

    __slots__ = ("_search", "known", "max_known")

    def __init__(self, kind: Any, *, max_known: int = MAX_KNOWN_TEXTS) -> None:
        (meta,) = kind.__metadata__
        self._search = re.compile(meta.pattern).search
        self.max_known = max_known
        self.known: set[str] = set()
        """Texts that match. `text in known` is the fast half of `admits`, for loops."""

    def admits(self, text: str) -> bool:
        """Return whether the text matches; remember it if it does."""
        if text in self.known:
            return True
        if self._search(text) is None:
            return False
        if len(self.known) >= self.max_known:
            self.known.clear()
        self.known.add(text)
        return True


ACCOUNT_ID: Final = Form(AccountId)
ASSET_CODE: Final = Form(AssetCode)


def is_reference(text: str) -> bool:
    """Return whether a text is a `Reference`: those seldom repeat, so nothing is remembered."""
    return len(text) <= MAX_REFERENCE_CHARS and text.isascii() and text.isprintable()
