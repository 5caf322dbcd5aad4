"""Sends envelopes to one node for the load generator, many per request."""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from atpar.cli.testnet.load import Verdict
from atpar.cli.testnet.wire import Unreachable, Wire
from atpar.ledger.codes import Code

TIMEOUT_S: Final = 5.0
BUSY_RETRY_S: Final = 1.0
UNKNOWN_CODE: Final = 999
_TOO_MANY: Final = 429
_UNAVAILABLE: Final = 503


class _Result(msgspec.Struct):
    status: str
    code: str
    retry_after_ms: Annotated[int, msgspec.Meta(ge=0)] | None = None


class _Batch(msgspec.Struct):
    results: list[_Result]


_DECODER: Final = msgspec.msgpack.Decoder(_Batch)
_ACCEPTED: Final = Verdict(accepted=True)
_encode: Final = msgspec.msgpack.encode


class ApiTarget:
    """One node's `POST /v1/transactions`."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def submit(self, envelopes: Sequence[bytes]) -> list[Verdict]:
        """Return one verdict per envelope, in order.

        Raises:
            Unreachable: no answer, or one that cannot be understood.
        """
        answer = await self._wire.post(
            "/v1/transactions", _encode(list(envelopes)), {}, timeout_s=TIMEOUT_S
        )
        try:
            results = _DECODER.decode(answer.body).results
        except msgspec.DecodeError:
            # A problem document about the request as a whole.
            if answer.status in (_TOO_MANY, _UNAVAILABLE):
                wait_s = float(answer.headers.get("retry-after", BUSY_RETRY_S))
                return [Verdict(accepted=False, retry_after_s=wait_s) for _ in envelopes]
            raise Unreachable(f"{self._wire.url}: HTTP {answer.status}") from None
        if len(results) != len(envelopes):
            raise Unreachable(f"{self._wire.url}: {len(results)} results for {len(envelopes)}")
        return [_judge(result) for result in results]


def _judge(result: _Result) -> Verdict:
    if result.status != "rejected":
        return _ACCEPTED
    retry_s = None if result.retry_after_ms is None else result.retry_after_ms / 1000
    code = Code.__members__.get(result.code)
    return Verdict(
        accepted=False, code=UNKNOWN_CODE if code is None else int(code), retry_after_s=retry_s
    )
