"""`python -m bench.tree`: the same as `atpar bench tree`."""

import sys

from atpar.cli.main import cli

if __name__ == "__main__":
    cli.main(["bench", "tree", *sys.argv[1:]])
