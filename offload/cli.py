"""The command line: what devices are there, run a script on one, bring an old script up to date."""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from device_runtime import registry
from device_runtime.device import Device
from device_runtime.errors import DeviceUnavailable, OffloadError, OptionError
from offload import settings
from offload.doctor.finding import Report
from offload.doctor.machine import host_memory, size
from offload.migrate import MigrationError, migrate

FAILURE, USAGE = 1, 2

app = typer.Typer(
    name="offload",
    help="Run ordinary Python functions on compute units.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _fail(message: str, code: int = FAILURE) -> NoReturn:
    typer.echo(f"offload: {message}", err=True)
    raise typer.Exit(code)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn an error of the package into one message; all others are bugs and keep their traceback."""
    try:
        yield
    except OptionError as error:
        _fail(str(error), USAGE)
    except OffloadError as error:
        _fail(str(error))


@app.command()
def devices(
    addresses: Annotated[
        list[str] | None,
        typer.Argument(metavar="ADDRESS", help="Devices to open, such as local:4; all kinds by default."),
    ] = None,
) -> None:
    """Show which devices there are, their units and memory, and why one is not available.

    Ends with 1 if a device that was named cannot be opened.
    """
    table = Table("device", "units", "memory", "status", box=None, pad_edge=False)
    missing = False
    for address in addresses or registry.known():
        units, memory, status = "-", "-", "available"
        try:
            device = _made(address)
            units = str(device.open())
            device.close()
            memory = size(host_memory() if device.memory is None else device.memory)
        except OffloadError as error:
            reason = "not available" if isinstance(error, DeviceUnavailable) else "cannot be opened like this"
            status = f"{reason}: {error}"
            missing = True
        except Exception as error:  # a bug of one that others have written; the rest is still shown
            status = f"does not work: {type(error).__name__}: {error}"
            missing = True
        # As Text, because rich would take the brackets of an extra, [fpga], for markup.
        table.add_row(*(Text(cell) for cell in (address, units, memory, status)))
    Console().print(table)
    if missing and addresses:
        raise typer.Exit(FAILURE)


def _made(device: str) -> Device:
    return registry.open_device(settings.read().address(device))


@app.command()
def doctor(
    addresses: Annotated[
        list[str] | None,
        typer.Argument(metavar="ADDRESS", help="Devices to open and try, by address or by name."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Say of every device whether it works, why, and what to do if not.

    Ends with 1 if the default device, or one that was named, does not work.
    """
    # It loads much that the other commands do without.
    from offload.doctor.examine import examine, examine_all

    found: list[Report] = []
    console = Console()
    with _plain_errors(), console.status("looking ..."):
        for report in examine(addresses) if addresses else examine_all():
            found.append(report)
            if not as_json:
                _show_report(console, report)
    works = all(report.works for report in found) if addresses else any(r.works for r in found if r.default)
    if as_json:
        told = [{**one._asdict(), "findings": [f._asdict() for f in one.findings]} for one in found]
        typer.echo(json.dumps({"works": works, "reports": told}, indent=2))
    if not works:
        raise typer.Exit(FAILURE)


def _show_report(console: Console, report: Report) -> None:
    title = Text(report.name, style="bold")
    if report.address not in ("", report.name):
        title.append(f" = {report.address}", style="not bold")
    if report.default:
        title.append(" (the default)", style="not bold")
    title.append(": ", style="not bold").append_text(
        _verdict(report.works, "works", "does not work", "was not tried")
    )
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=16)
    table.add_column(min_width=3)
    table.add_column()
    for finding in report.findings:
        told = Text(finding.told)
        if finding.todo:
            told.append(f" → {finding.todo}", style="bold")
        table.add_row(Text(f"  {finding.what}"), _verdict(finding.ok, "yes", "no", "-"), told)
    console.print(title)
    console.print(table)
    console.print()


def _verdict(ok: bool | None, yes: str, no: str, untried: str) -> Text:
    return Text(untried, "yellow") if ok is None else Text(yes, "green") if ok else Text(no, "red")


@app.command(
    context_settings={"allow_interspersed_args": False},
    options_metavar="[--device ADDRESS]",
)
def run(
    script: Annotated[Path, typer.Argument(help="The script, as python would be given it.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARGUMENT", help="What the script finds in sys.argv."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="The device that the script's launches run on.")
    ] = None,
) -> None:
    """Run a script with its launches on a device.

    --device may stand before the script or right after it; everything behind
    that is the script's own, and so is everything behind `--`.
    """
    rest = list(arguments or ())
    if rest[:1] == ["--device"]:
        if len(rest) < 2:
            _fail("--device needs an address, such as local:4", USAGE)
        device, rest = rest[1], rest[2:]
    elif rest and rest[0].startswith("--device="):
        device, rest = rest[0].partition("=")[2], rest[1:]
    if rest[:1] == ["--"]:
        rest = rest[1:]
    if not script.exists():
        _fail(f"there is no script {str(script)!r}", USAGE)
    if device is not None:
        with _plain_errors():
            _made(device)
        os.environ["OFFLOAD_DEVICE"] = device
    # A fresh interpreter, so that all is as python would have it: __main__, sys.path, signals, traceback.
    os.execv(sys.executable, [sys.executable, str(script), *rest])


@app.command(name="migrate")
def migrate_files(
    scripts: Annotated[list[Path], typer.Argument(help="Scripts to bring up to date.")],
    write: Annotated[
        bool, typer.Option("--write", help="Change the files instead of showing a diff.")
    ] = False,
) -> None:
    """Rewrite the keyword async= to async_=, and nothing else; show what would change.

    Ends with 1 if a file cannot be read; the others are still done.
    """
    failed = False
    for script in scripts:
        try:
            old = script.read_bytes()
            new, left = migrate(old)
            if write and new != old:
                script.write_bytes(new)
        except MigrationError as error:
            typer.echo(f"{script}:{error.line}: {error.why}; put this right and migrate again", err=True)
            failed = True
            continue
        except OSError as error:
            typer.echo(f"{script}: {error.strerror}", err=True)
            failed = True
            continue
        for line in left:
            told = "`async` is a keyword now; change it by hand (the argument is async_)"
            typer.echo(f"{script}:{line}: {told}", err=True)
        if write:
            typer.echo(f"{script}: {'changed' if new != old else 'nothing to change'}")
        else:
            _show_diff(str(script), old, new)
    if failed:
        raise typer.Exit(FAILURE)


def _show_diff(name: str, old: bytes, new: bytes) -> None:
    before, after = (text.decode("utf-8", "replace").splitlines() for text in (old, new))
    colours = {"+": typer.colors.GREEN, "-": typer.colors.RED, "@": typer.colors.CYAN}
    for line in difflib.unified_diff(before, after, name, f"{name} (migrated)", lineterm=""):
        typer.secho(line, fg=colours.get(line[0]))


@app.command()
def version() -> None:
    """Show the versions to name in a report."""
    for package in ("offload", "numpy", "cloudpickle", "pyzmq"):
        typer.echo(f"{package} {importlib.metadata.version(package)}")
    typer.echo(f"python {platform.python_version()} on {platform.platform()}")
