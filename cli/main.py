"""The `atpar` command: its tree, its global options, and the one place where errors end.

Subcommands are loaded when they are used, so that starting costs as little as possible; their
one-line helps stand in the table here. Whatever is raised below becomes one line, what to do
next, and an exit code. A traceback appears only with `--debug`.
"""

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import click

from atpar.cli.context import State, keys_options, node_options, output_options
from atpar.cli.errors import EXIT_DONE, CliError, explain

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    # name: (module of atpar.cli, one line of help); the function is the name with `_`, `_command`
    "demo": ("demo", "Tell the whole story on a fresh network, then stop it."),
    "testnet": ("testnet.commands", "A network of real validators on this machine."),
    "keys": ("keys", "Make, show, list, import and export keys."),
    "genesis": ("genesis", "The ceremony that founds a chain."),
    "node": ("run", "Set up, run and inspect one node."),
    "mint": ("ops", "Issue coins against a deposit in the reserve."),
    "transfer": ("ops", "Pay."),
    "redeem": ("ops", "Ask for fiat at par."),
    "burn": ("ops", "Destroy redeemed coins after the payout."),
    "attest": ("ops", "State what the reserve holds."),
    "hold": ("holds", "Reserve money for a creditor under a condition."),
    "capture": ("holds", "Take held money."),
    "assign": ("holds", "Sell a claim on held money, or a part of it."),
    "release": ("holds", "Give held money back to its owner."),
    "holds": ("holds", "List and show holds."),
    "freeze": ("compliance", "Block an account, or an amount on it."),
    "unfreeze": ("compliance", "Lift one freeze order."),
    "seize": ("compliance", "Take frozen money by order."),
    "pause": ("compliance", "Stop mints, payments, holds or captures of an asset."),
    "unpause": ("compliance", "Resume what was paused."),
    "controls": ("compliance", "Show and set KYC tiers and limits."),
    "propose": ("bundles", "Put an operation to those who must agree, on the ledger."),
    "approve": ("bundles", "Agree to a proposal."),
    "reject": ("bundles", "Refuse to agree to a proposal."),
    "withdraw": ("bundles", "Take a proposal back."),
    "proposals": ("bundles", "List and show open proposals."),
    "params": ("governance", "Show and change the chain's parameters."),
    "validators": ("governance", "Show the voting set, and fix that of the next epoch."),
    "void": ("ops", "Use up a transaction id, so that a lost envelope can never run."),
    "account": ("query", "Show, list, open and change accounts."),
    "asset": ("query", "Show, list and change assets, and set mint quotas."),
    "participant": ("query", "Show, list, create and change participants."),
    "redemptions": ("query", "List redemptions."),
    "statement": ("statement", "Show what moved on an account, with balances that add up."),
    "tx": ("tx", "Make, sign, join, send and look up transactions."),
    "verify": ("verify", "Check a receipt or proof offline, with no node."),
    "evidence": ("evidence", "List, show, export and record double votes of validators."),
    "bench": ("bench.commands", "Measure what each part costs on this machine."),
    "completion": ("completion", "Print the shell completion script."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are looked up."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return all names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return a command, importing its module."""
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"no such command: {args[0]!r}{_suggest(args[0])}")
        return super().resolve_command(ctx, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: ARG002, FBT001, FBT002 - click's signature
        windows_expand_args: bool = True,  # noqa: ARG002, FBT001, FBT002
        **extra: Any,
    ) -> Any:
        """Run, and end the process with the exit code of what happened."""
        state = extra.setdefault("obj", State())
        try:
            code = super().main(
                args, prog_name or "atpar", complete_var, standalone_mode=False, **extra
            )
        except BrokenPipeError:
            _leave_broken_pipe()
        except click.exceptions.NoArgsIsHelpError as error:
            # Nothing was asked for and nothing went wrong; scripts still see wrong usage.
            click.echo(error.format_message(), err=True)
            sys.exit(error.exit_code)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - nobody sees a traceback
            _end(state, error)
        sys.exit(code if isinstance(code, int) else EXIT_DONE)


def load_command(name: str) -> click.Command:
    """Return a command of the table, importing its module."""
    module = importlib.import_module(f"atpar.cli.{COMMANDS[name][0]}")
    command: click.Command = getattr(module, f"{name}_command")
    return command


def _suggest(word: str) -> str:
    import difflib

    near = difflib.get_close_matches(word, COMMANDS, n=1)
    return f"; did you mean `{near[0]}`?" if near else ""


def _end(state: State, error: BaseException) -> NoReturn:
    if state.debug:
        traceback.print_exception(error, file=sys.stderr)
    found = _find_cause(error)
    state.output.fail(found)
    sys.exit(found.exit_code)


def _find_cause(error: BaseException) -> CliError:
    """Return the explanation, looking into groups that a nursery wraps around a single error."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return explain(error)


def _leave_broken_pipe() -> NoReturn:
    """End quietly when the reader of our output is gone (`atpar … | head`)."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def _show_version(context: click.Context, _: click.Parameter, value: Any) -> None:
    if not value or context.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"atpar {version('atpar')}")
    context.exit()


@click.group(
    name="atpar",
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="First steps: `atpar demo`, or `atpar testnet up` and follow what it prints.",
)
@output_options
@node_options
@keys_options
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
    help="Show the version.",
)  # fmt: skip
def cli() -> None:
    """The ledger that licensed banks run together: fiat-backed money, at par and final.

    Results go to stdout and progress to stderr. Exit codes: 0 done and final, 2 wrong usage,
    3 configuration, 4 keystore, 5 node unreachable, 6 refused, 7 outcome unknown, 8 safety stop,
    9 not ready, 130 interrupted.
    """


def main() -> NoReturn:
    """Run the command line as a process. Never returns."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    cli.main()
    raise AssertionError("click's main returned")
