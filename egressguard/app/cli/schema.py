"""`egressguard schema`: the reference of the rule language, for editors and for people."""

from __future__ import annotations

import json

import click

from egressguard.policy.reference import json_schema, markdown


@click.command("schema")
@click.option("--markdown", "as_markdown", is_flag=True, help="The reference for people (docs/rules.md).")
@click.option("--overlay", is_flag=True, help="The schema of a file in sites/NAME/: a site in part, null takes away.")
def schema_command(as_markdown: bool, overlay: bool) -> None:
    """Print the JSON Schema (draft-07) of a rule file: what keys there are, what they take and mean.

    An editor with a YAML language server checks and completes rule files with it: their first line names it.

    \b
    Example:
      egressguard schema >rules/schema.json
      egressguard schema --markdown | less
    Exit codes: 0 printed, 2 wrong usage (--markdown and --overlay together).
    """
    if as_markdown and overlay:
        raise click.UsageError("--markdown describes both kinds of files: leave --overlay out")
    click.echo(markdown() if as_markdown else json.dumps(json_schema(overlay=overlay), indent=2) + "\n", nl=False)
