"""Writes `docs/codes.md` from the table in `ledger/codes.py`.

Run `python -m tests.ledger.render_codes` after changing a code.
"""

from pathlib import Path
from typing import Final

from atpar.ledger.codes import render_table

PATH: Final = Path(__file__).parents[2] / "docs" / "codes.md"

if __name__ == "__main__":
    PATH.write_text(render_table(), encoding="utf-8")
