"""TLS over one TCP connection: whole runs of bytes in and out, one system call each.

trio's own `SSLStream` gives out one record of 16 KiB at a time and takes locks around each. Between
validators, where a block is hundreds of records, that was a tenth of the processor time; here all
records that have arrived are decrypted at once, and a run is encrypted and sent as a whole. A block
of a thousand payments is one read: each further one would wait for a round of all other tasks.

Not a general stream: one task reads, one task sends, and neither before the handshake is over.
TLS 1.3 has no renegotiation; an answer to a key update goes out with what is sent next.
"""

import os
import ssl
from contextlib import suppress
from typing import Final

import trio

from atpar.node.limits import READ_BYTES

_MAX_RECORD_BYTES: Final = 16 * 1024


class TlsStream(trio.abc.AsyncResource):
    """One connection. Owns the TCP stream; `trio.aclose_forcefully` ends both."""

    def __init__(
        self, tcp: trio.SocketStream, context: ssl.SSLContext, *, server_side: bool = False
    ) -> None:
        self._tcp = tcp
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._unsent = memoryview(b"")
        """Encrypted, and not yet taken by the system."""

    async def do_handshake(self) -> None:
        """Finish the handshake.

        Raises:
            trio.BrokenResourceError: it failed, with an `ssl.SSLError` as its cause, or the
                connection broke.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError as error:
                # The alert tells the other side why, if it still listens.
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._flush()
                raise trio.BrokenResourceError(f"TLS handshake: {error}") from error
            else:
                await self._flush()
                return

    def get_peer_certificate(self) -> bytes:
        """Return the certificate that the other side showed, DER; empty without one."""
        return self._tls.getpeercert(binary_form=True) or b""

    async def receive_some(self) -> bytes:
        """Return all bytes that have arrived, waiting for some; none once the peer has ended well.

        At most `READ_BYTES` at a time.

        Raises:
            trio.BrokenResourceError: the connection broke, or was cut off without a TLS end.
        """
        while True:
            pieces: list[bytes] = []
            try:
                while piece := self._tls.read(_MAX_RECORD_BYTES):
                    pieces.append(piece)
            except ssl.SSLWantReadError:
                if not pieces:
                    await self._fill()
                    continue
            except ssl.SSLError as error:
                raise trio.BrokenResourceError(f"TLS: {error}") from error
            return b"".join(pieces)

    async def send_all(self, data: bytes) -> None:
        """Send bytes, all of them, behind what `send_now` left. Waits for nothing else.

        Raises:
            trio.BrokenResourceError: the connection broke.
        """
        self._encrypt(data)
        await self._flush()

    def send_now(self, data: bytes) -> bool:
        """Send what the system takes without waiting; return whether that was everything.

        Not while another task is in `send_all`, which sends what is left.

        Raises:
            trio.BrokenResourceError: the connection broke.
        """
        self._encrypt(data)
        return self._push()

    @property
    def has_unsent(self) -> bool:
        """Whether `send_now` left something to be sent."""
        return bool(self._unsent)

    def _encrypt(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[self._tls.write(left) :]
        except ssl.SSLError as error:
            raise trio.BrokenResourceError(f"TLS: {error}") from error

    async def aclose(self) -> None:
        """Close the connection without ceremony: its messages end where they end anyway."""
        await trio.aclose_forcefully(self._tcp)

    async def _flush(self) -> None:
        while not self._push():
            await trio.lowlevel.wait_writable(self._tcp.socket)

    def _push(self) -> bool:
        """Hand the system what is encrypted; return whether it took everything."""
        while self._unsent or self._outgoing.pending:
            if not self._unsent:
                self._unsent = memoryview(self._outgoing.read())
            try:
                taken = os.write(self._tcp.socket.fileno(), self._unsent)
            except BlockingIOError:
                return False
            except OSError as error:
                raise trio.BrokenResourceError(f"connection broken: {error}") from error
            self._unsent = self._unsent[taken:]
        return True

    async def _fill(self) -> None:
        """Wait for bytes from the network, or its end."""
        data: bytes | None = None
        while data is None:
            # First of all: so a peer that always has more to say leaves others their turn.
            await trio.lowlevel.wait_readable(self._tcp.socket)
            try:
                data = os.read(self._tcp.socket.fileno(), READ_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError(f"connection broken: {error}") from error
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
