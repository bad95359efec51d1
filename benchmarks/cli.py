"""The command line: which benchmarks, beside whom, and where the results go."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import machine, plot, report
from benchmarks.catalogue import ALL, find
from benchmarks.declare import Setting
from benchmarks.peers import PEERS
from benchmarks.runner import run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Benchmarks; all if none is named.")
    ] = None,
    peers: Annotated[str, typer.Option(help="Peers, with commas between them, or none.")] = ",".join(PEERS),
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of each benchmark.")] = None,
    quick: Annotated[bool, typer.Option(help="Tiny sizes, two rounds: only to see that it works.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything that was measured.")
    ] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the benchmarks payload and metg.")
    ] = None,
    pages: Annotated[
        list[Path] | None,
        typer.Option("--markdown", metavar="FILE", help="Write the table into a page, between its marks."),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show which benchmarks there are.")] = False,
) -> None:
    """Measure offload beside other ways to run Python functions on the cores of a machine.

    Ends with 1 if something of offload's own could not be measured.
    """
    console = Console()
    if listed:
        console.print(_list())
        return
    wanted = [peer for peer in peers.split(",") if peer and peer != "none"]
    unknown = [peer for peer in wanted if peer not in PEERS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]} is none of {', '.join(PEERS)}", param_hint="--peers")
    try:
        chosen = [find(name) for name in names] if names else list(ALL)
    except LookupError as error:
        raise typer.BadParameter(str(error.args[0]), param_hint="NAME") from None
    about = machine.describe(wanted)
    results = {}
    with console.status("") as status:
        for benchmark in chosen:
            results[benchmark.name] = run(benchmark, wanted, Setting(quick), rounds, status.update)
            if json_file is not None:  # after each one, so that a run that is broken off leaves what it has
                data = {"run": about, "benchmarks": {name: one.as_data() for name, one in results.items()}}
                json_file.write_text(json.dumps(data, indent=1) + "\n")
    shown = list(results.values())
    for result in shown:
        console.print(report.table(result))
    console.print(machine.sentence(about), style="dim")
    if plot_file is not None:
        plot.draw(results, plot_file)
    for page in pages or ():
        beside = os.path.relpath(plot_file, page.parent) if plot_file is not None else None
        report.write_section(page, report.markdown(shown, about, beside))
    if any(one.failures() for one in shown):
        raise typer.Exit(1)


def _list() -> Table:
    table = Table("name", "what", box=None, pad_edge=False)
    for benchmark in ALL:
        table.add_row(benchmark.name, benchmark.what)
    return table
