"""The list of commands; each stands in a small file of its own group."""

from __future__ import annotations

from typing import Annotated

import typer

import cascade
from cascade.cli import asking, cache, calibrate, demo, local, monitor, plan, policies, record, replay, report, run, serve

app = typer.Typer(
    name="cascade",
    help="The cheapest model answers first, verifiers look at the answer, only failures climb to a dearer one.",
    epilog="Start with:  cascade demo    then:  cascade init NAME",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"cascade {cascade.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")] = False,
) -> None:
    pass


app.command()(demo.demo)
app.command()(asking.ask)
app.command()(asking.explain)
app.command()(run.run)
app.command()(record.record)
app.command()(report.report)
app.command()(calibrate.calibrate)
app.command()(replay.replay)
app.command()(monitor.monitor)
app.command()(serve.serve)
app.command()(policies.check)
app.command()(plan.plan)
app.command()(policies.schema)
app.command()(policies.init)
app.add_typer(cache.app, name="cache")
app.add_typer(local.app, name="local")
