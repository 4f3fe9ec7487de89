"""The command line, `trajgru-ext` or `python -m trajgru_ext`."""

import argparse
import json
import sys
from collections.abc import Sequence

from trajgru_ext.info import collect


def info(options: argparse.Namespace) -> int:
    """Print what this installation is."""
    facts = collect()
    if options.json:
        print(json.dumps(facts, indent=1))
        return 0
    width = max(map(len, facts))
    for name, fact in facts.items():
        text = ", ".join(fact) if isinstance(fact, list) else str(fact)
        print(f"{name:<{width}}  {text}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    parser = argparse.ArgumentParser(prog="trajgru-ext", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser("info", help="versions, kernels and devices")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=info)
    options = parser.parse_args(arguments)
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
