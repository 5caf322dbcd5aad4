"""Options that several commands of `atpar testnet` have."""

from pathlib import Path

import click

from atpar.cli.testnet.profiles import LAN, PROFILES
from atpar.cli.testnet.record import DEFAULT_DIR

dir_option = click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_DIR,
    show_default=True,
    envvar=["ATPAR_TESTNET", "ATPAR_HOME"],
    help="The testnet's folder.",
)
validators_option = click.option(
    "--validators", type=click.IntRange(4, 31), default=4, show_default=True, help="How many."
)
profile_option = click.option(
    "--profile",
    default=LAN,
    show_default=True,
    metavar="NAME|FILE",
    help=f"How far the validators are from each other: {', '.join(PROFILES)}, or a file.",
)
