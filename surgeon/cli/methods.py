"""`surgeon methods [NAME]`."""

import json

import click

from surgeon.cli.options import json_option
from surgeon.cli.recipes import shipped


@click.command(name="methods")
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the methods, or show one method's options with their defaults and the paper's values."""
    from surgeon.cli import render
    from surgeon.methods import METHODS
    from surgeon.methods.options import describe
    from surgeon.operate.inputs import find_method

    chosen = [find_method(name)] if name else list(METHODS.values())
    if as_json:
        described = [
            {
                "name": method.name,
                "paper": method.paper,
                "summary": method.summary,
                "needs_data": method.needs_data,
                "needs_partner": method.needs_partner,
                "options": [
                    {
                        "name": option.name,
                        "type": describe(option.type),
                        "default": option.default,
                        "paper": option.paper,
                        "help": option.help,
                    }
                    for option in method.options
                ],
            }
            for method in chosen
        ]
        render.echo(json.dumps(described[0] if name else described, indent=2))
    elif name:
        render.option_table(chosen[0])
    else:
        render.method_table(chosen)
        render.say(f"Recipes with the papers' settings, for --recipe NAME: {', '.join(shipped())}.")
