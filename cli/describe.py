"""What a person reads before signing: a transaction body, decoded from the very bytes.

Every field of every operation is shown; none is left out because it looks unimportant. Amounts
are in major units with the asset's scale, times in UTC, references as UUIDs.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

import msgspec

from atpar.cli.amounts import format_amount
from atpar.cli.output import clean, fields
from atpar.ledger.hashing import HashTag, compute_hash
from atpar.ledger.jsonform import get_name_field, operation_name
from atpar.ledger.operations import AssetTerms, Operation, Policy, Possession
from atpar.ledger.transactions import BODY, Body

DURATIONS: Final = frozenset({"attestation_max_age_ms", "audit_max_age_ms"})
_NO_ASSETS: Final[Mapping[bytes, str]] = {}
_UNITS: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))


def describe_body(
    body_bytes: bytes,
    *,
    chain_id: bytes,
    chain_name: str,
    scales: Mapping[str, int],
    assets: Mapping[bytes, str] = _NO_ASSETS,
) -> list[str]:
    """Return the lines that show everything a signature of these bytes agrees to.

    `assets` are those of holds, as far as known: a capture itself names only its hold.

    Raises:
        NonCanonical: the bytes are not a transaction body.
    """
    body = BODY.decode(body_bytes)
    chain = f"{chain_name} ({body.chain_id.hex()})"
    if body.chain_id != chain_id:
        chain = f"ANOTHER CHAIN ({body.chain_id.hex()}), not {chain_name}"
    window = body.valid_until_ms - body.valid_from_ms
    until = f"{format_time(body.valid_until_ms)}, {format_duration(window)} in all"
    lines = fields(
        [
            ("chain", chain),
            ("sender", body.sender),
            ("id", format_uuid(body.tx_id)),
            ("valid from", format_time(body.valid_from_ms)),
            ("valid until", until),
            ("body hash", compute_hash(HashTag.BODY, body_bytes).hex()),
        ]
    )
    lines += describe_bundle(body.ops, scales, assets)
    if not body.ops:
        lines.append("no operations")
    return lines


def describe_bundle(
    ops: Iterable[Operation],
    scales: Mapping[str, int],
    assets: Mapping[bytes, str] = _NO_ASSETS,
) -> list[str]:
    """Return the lines that show operations in full, numbered."""
    lines = []
    for number, op in enumerate(ops, start=1):
        lines.append(f"{number}. {operation_name(type(op))}")
        lines += [f"   {line}" for line in describe_operation(op, scales, assets)]
    return lines


def describe_operation(
    op: Operation,
    scales: Mapping[str, int],
    assets: Mapping[bytes, str] = _NO_ASSETS,
) -> list[str]:
    """Return one line per field of an operation, in their order."""
    asset = getattr(op, "asset", None)
    hold: bytes = getattr(op, "hold", b"")
    if asset is None:
        asset = assets.get(hold)
    scale = getattr(op, "scale", None)
    if scale is None and asset is not None:
        scale = scales.get(asset)
    money = _Money(asset, scale)
    lines = fields(_describe_struct(op, money))
    if hold in assets and isinstance(getattr(op, "amount", None), int):
        # The bytes name no asset: it is what a node says of the hold.
        lines.append(f"that is {op.amount:,} minor units of what is held")  # type: ignore[union-attr]
    return lines + describe_bundle(getattr(op, "ops", ()), scales, assets)


def summarise(op: Operation, scales: Mapping[str, int]) -> str:
    """Return one line that says what an operation does, for progress and lists."""
    asset = getattr(op, "asset", None)
    amount = getattr(op, "amount", None)
    money = _Money(asset, scales.get(asset) if asset else None)
    parts = [operation_name(type(op))]
    if isinstance(amount, int):
        parts.append(money.show(amount))
    for word, names in (
        ("from", ("debtor", "holder")),
        ("to", ("creditor",)),
        ("of", ("account", "redemption", "hold", "freeze", "participant")),
    ):
        for name in names:
            value = getattr(op, name, None)
            if value is not None:
                parts.append(f"{word} {value.hex() if isinstance(value, bytes) else value}")
    return clean(" ".join(parts))


class _Money:
    """How the amounts of one operation are shown."""

    def __init__(self, asset: str | None, scale: int | None) -> None:
        self.asset = asset
        self.scale = scale

    def show(self, minor: int) -> str:
        """Return an amount in major units, or plainly as minor units if the scale is unknown."""
        if self.asset is None:
            return f"{minor:,} minor units"
        if self.scale is None:
            return f"{minor:,} minor units of {self.asset} (scale unknown)"
        return format_amount(minor, scale=self.scale, asset=self.asset)


def _describe_struct(value: msgspec.Struct, money: _Money) -> Iterator[tuple[str, object]]:
    hints = get_type_hints(type(value), include_extras=True)
    for name in value.__struct_fields__:
        item = getattr(value, name)
        label = name.removesuffix("_ms").replace("_", " ")
        if isinstance(item, AssetTerms):
            yield from _describe_struct(item, money)
        elif name == "ops":
            yield "operations", len(item)
        elif isinstance(item, msgspec.Struct) and not isinstance(item, Policy):
            if get_name_field(type(item)) is not None:
                yield label, operation_name(type(item))
            yield from (
                (f"{label} {inner}", value) for inner, value in _describe_struct(item, money)
            )
        elif name == "members":
            for number, member in enumerate(item, start=1):
                for inner, shown in _describe_struct(member, money):
                    yield f"member {number} {inner}", shown
        elif isinstance(item, int) and not isinstance(item, bool) and _is_amount(hints[name]):
            yield label, money.show(item)
        else:
            yield label, _format(name, item)


def _format(name: str, value: object) -> str | None:
    if value is None or value in ((), ""):
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, bytes):
        return format_uuid(value) if len(value) == 16 else value.hex()
    if isinstance(value, int) and name.endswith("_ms"):
        return format_duration(value) if name in DURATIONS else format_time(value)
    if name == "holidays" and isinstance(value, tuple):
        return ", ".join(format_day(day) for day in value)
    if isinstance(value, Policy):
        return format_policy(value)
    if isinstance(value, Possession):
        return value.key.hex()
    if isinstance(value, tuple):
        return ", ".join(_format(name, item) or "-" for item in value)
    return clean(str(value))


def _is_amount(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        metas = hint.__metadata__
        return any(isinstance(m, msgspec.Meta) and (m.extra or {}).get("json") for m in metas)
    return any(_is_amount(arm) for arm in get_args(hint))


def format_policy(policy: Policy) -> str:
    """Return `2 of: <key>, <key> (weight 2)`."""
    keys = [
        entry.key.hex() + (f" (weight {entry.weight})" if entry.weight != 1 else "")
        for entry in policy.keys
    ]
    return f"{policy.threshold} of: {', '.join(keys)}"


def format_uuid(value: bytes) -> str:
    """Return 16 bytes in the usual form of a UUID."""
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def format_time(time_ms: int) -> str:
    """Return a time as `2026-11-22 12:20:00 UTC`, with milliseconds where there are any."""
    try:
        moment = datetime.fromtimestamp(time_ms // 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"
    fraction = f".{time_ms % 1000:03d}" if time_ms % 1000 else ""
    return f"{moment:%Y-%m-%d %H:%M:%S}{fraction} UTC"


def format_day(day: int) -> str:
    """Return days since 1970-01-01 as a date."""
    return format_time(day * 86_400_000)[:10]


def format_duration(duration_ms: int) -> str:
    """Return `1 d 2 h` for whole units, exact to the millisecond."""
    if duration_ms < 0:
        return f"{duration_ms} ms"
    parts = []
    for unit_ms, name in _UNITS:
        count, duration_ms = divmod(duration_ms, unit_ms)
        if count:
            parts.append(f"{count} {name}")
    if duration_ms or not parts:
        parts.append(f"{duration_ms} ms")
    return " ".join(parts)


def get_debtors(body: Body) -> set[str]:
    """Return the accounts that pay in a body: two or more make it an exchange."""
    return {op.debtor for op in body.ops if hasattr(op, "debtor")}
