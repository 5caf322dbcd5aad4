"""kill -9 in the middle of commits: the store opens at a height that was reported, or above."""

import subprocess
import sys
from pathlib import Path

from atpar.node.store import open_store
from tests.node.chains import CHAIN, Chain, make_payment

ROOT = Path(__file__).parents[2]
WRITER = """
import sys
from pathlib import Path
from atpar.node.store import create_store, open_store
from tests.node.chains import CHAIN, Chain, make_payment

path, chain = Path(sys.argv[1]), Chain()
create_store(path, chain_id=CHAIN, header=chain.genesis_header, digest=chain.genesis_digest,
             overlay=chain.genesis)
store = open_store(path)
for number in range(1_000_000):
    store.commit([chain.next(make_payment(number, amounts=(1,) * 20))])
    sys.stdout.write(f"{store.position.height}\\n")
    sys.stdout.flush()
"""


def test_killed_writer_leaves_every_reported_block_complete(tmp_path: Path) -> None:
    path = tmp_path / "chain.db"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert writer.stdout is not None
    reported = 0
    for line in writer.stdout:
        reported = int(line)
        if reported == 40:
            writer.kill()
    writer.wait()
    writer.stdout.close()
    chain = Chain()
    store = open_store(path, chain_id=CHAIN)
    try:
        assert store.position.height >= reported >= 40
        for height in range(1, store.position.height + 1):
            block = chain.next(make_payment(height - 1, amounts=(1,) * 20))
            assert store.get_block_bytes(height) == block.block_bytes
            assert store.get_receipts(height) == block.receipts
            assert store.find_transaction(block.transactions[0].hash) == (height, 0)
            path_up = store.get_finality_path(height)
            assert path_up is not None
            assert path_up.headers == (block.header,)
        assert store.get_block(store.position.height + 1) is None
        lines = store.get_entries("ALFA/main", asset=None, after=None, limit=1_000)
        assert len(lines) == min(1_000, 20 * store.position.height)
        assert store.get_final().digest == chain.digest
    finally:
        store.close()
