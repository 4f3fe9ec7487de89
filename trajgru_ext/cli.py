"""The command line, `trajgru-ext` or `python -m trajgru_ext`."""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

import torch

from trajgru_ext import check as proof
from trajgru_ext.info import collect, what_to_do


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


def check(options: argparse.Namespace) -> int:
    """Compare every operator with what is known to be right."""
    try:
        torch.device(options.device)
    except RuntimeError:
        print(f"trajgru-ext check: no device {options.device!r}", file=sys.stderr)
        return 2
    if reason := proof.why_not(options.device):
        print(f"trajgru-ext check: no {options.device} here: {reason}", file=sys.stderr)
        return 2
    start, made = time.perf_counter(), []
    if not options.json:
        print(f"{proof.machine(options.device)}\n\n{proof.heading()}")
    try:
        for some in proof.findings(options.device):
            made += some
            if not options.json:
                print("\n".join(proof.table(some)), flush=True)
    except RuntimeError as error:
        if not (said := what_to_do(error)):
            raise
        print(f"trajgru-ext check: {said}", file=sys.stderr)
        return 2
    wrong = [one for one in made if not one.passed]
    seconds = round(time.perf_counter() - start, 1)
    if options.json:
        rows = [asdict(one) | {"passed": one.passed} for one in made]
        for row in rows:
            if not math.isfinite(row["error"]):
                row["error"] = None  # JSON has no NaN
        with proof.ieee_float32():
            facts = collect()
        report = {"passed": not wrong, "device": options.device, "seconds": seconds}
        print(json.dumps(report | {"machine": facts, "findings": rows}, indent=1))
    else:
        verdict = f"{len(wrong)} are WRONG" if wrong else "all is right"
        print(f"\n{len(made)} comparisons on {options.device}, {seconds} s: {verdict}")
    return 1 if wrong else 0


def nowcast(arguments: Sequence[str]) -> int:
    """Run a command of the nowcaster."""
    try:
        from trajgru_ext.nowcasting.cli import main as run  # noqa: PLC0415
    except ImportError as error:
        print(
            f"trajgru-ext nowcast: needs {error.name}: "
            "pip install 'trajgru_ext[nowcasting]'",
            file=sys.stderr,
        )
        return 2
    return run(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    parser = argparse.ArgumentParser(prog="trajgru-ext", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser("info", help="versions, kernels and devices")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=info)
    command = commands.add_parser("check", help="prove the operators on this machine")
    command.add_argument("--device", default="cpu", help="cpu, or cuda")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=check)
    command = commands.add_parser(
        "nowcast", help="train, forecast and score nowcasts of rain", add_help=False
    )
    # All after the name, which argparse would else take for options of its own.
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["nowcast"]:
        return nowcast(given[1:])
    options = parser.parse_args(given)
    status: int = options.run(options)
    return status


if __name__ == "__main__":
    sys.exit(main())
