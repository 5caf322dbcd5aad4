"""Messages as people read them, one phrase each."""

from atpar.consensus.messages import decode_message
from atpar.ledger.errors import NonCanonical


def describe(data: bytes) -> str:
    """Return one short phrase about a message, for people."""
    try:
        message = decode_message(data)
    except NonCanonical as error:
        return f"{len(data)} bytes that are no message ({error})"
    name = type(message).__name__
    vote = getattr(message, "vote", message)
    body = getattr(vote, "proposition", None) or getattr(vote, "body", None)
    if body is None:
        rest = ", ".join(
            f"{key} {value.hex()[:8] if isinstance(value, bytes) else str(value)[:40]}"
            for key in message.__struct_fields__
            if (value := getattr(message, key)) is not None
        )
        return f"{name} {rest}"
    text = f"{name} epoch {body.epoch} view {body.view}"
    if hasattr(body, "digest"):
        text += f" on {body.parent_view}: {body.digest.hex()[:8]}"
    return text
