"""`egressguard schema`: the reference of the rule language, for editors and for people."""

from __future__ import annotations

import json

import click

from egressguard.policy.reference import expectations_schema, json_schema, markdown


@click.command("schema")
@click.option("--markdown", "as_markdown", is_flag=True, help="The reference for people (docs/rules.md).")
@click.option("--overlay", is_flag=True, help="The schema of a file in sites/NAME/: a site in part, null takes away.")
@click.option("--expectations", is_flag=True, help="The schema of a file in expect/.")
def schema_command(as_markdown: bool, overlay: bool, expectations: bool) -> None:
    """Print the JSON Schema (draft-07) of a rule file: what keys there are, what they take and mean.

    An editor with a YAML language server checks and completes rule files with it: their first line names it.

    \b
    Example:
      egressguard schema >rules/schema.json
      egressguard schema --markdown | less
    Exit codes: 0 printed, 2 wrong usage (two of the options together).
    """
    if as_markdown + overlay + expectations > 1:
        raise click.UsageError("expected one of --markdown, --overlay, --expectations (--markdown tells of all files)")
    schema = expectations_schema() if expectations else json_schema(overlay=overlay)
    click.echo(markdown() if as_markdown else json.dumps(schema, indent=2) + "\n", nl=False)
