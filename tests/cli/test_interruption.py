"""Being asked to end: what was started is cleaned up, however often it is asked."""

import os
import signal
import tempfile
from pathlib import Path

import pytest

from atpar.cli.testnet.lifecycle import ended_like_interrupted
from atpar.cli.testnet.network import INTERRUPTIONS


@pytest.mark.parametrize("second", INTERRUPTIONS)
def test_second_signal_does_not_break_off_the_cleaning_up(second: signal.Signals) -> None:
    before = [signal.getsignal(number) for number in INTERRUPTIONS]
    folders: list[Path] = []

    def be_interrupted_twice() -> None:
        with ended_like_interrupted(), tempfile.TemporaryDirectory() as folder:
            folders.append(Path(folder))
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), second)
                (Path(folder) / "cleaned").touch()

    with pytest.raises(KeyboardInterrupt):
        be_interrupted_twice()
    assert not folders[0].exists()
    assert [signal.getsignal(number) for number in INTERRUPTIONS] == before
