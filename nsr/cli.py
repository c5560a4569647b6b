"""What every stage program shares: common options, settings, a log file, and errors as one line and an exit code."""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import nsr
from nsr.config import Config, resolve, section
from nsr.digest import code_digest
from nsr.errors import ConfigError, NsrError
from nsr.job import Job, current, running
from nsr.log import first_speaks, get_logger, log_to

# Options whose files or folders a result is made from.
INPUTS = ("photos", "source", "masks", "model", "scene", "points", "mesh", "render", "ground_truth", "gt_cameras")


def stage_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all stages have; `doc` is the program's module docstring."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = parser.add_argument_group("common options")
    common.add_argument("--settings", metavar="JSON", default="{}", help="settings as JSON, as the workflow passes them")
    common.add_argument("--config", metavar="FILE", type=Path, action="append", default=[], help="YAML with settings; repeatable")
    common.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all cores")
    common.add_argument("--log", type=Path, help="also write the log to this file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single settings, e.g. mesh.resolution=256")
    return parser


def model_parser(doc: str | None) -> argparse.ArgumentParser:
    """`stage_parser` with the options of all programs that read a trained model: `--model`, `--scene`, `--device`."""
    parser = stage_parser(doc)
    parser.add_argument("--model", type=Path, required=True, help="model.pt of the training stage")
    parser.add_argument("--scene", type=Path, required=True, help="scene folder of the prepare stage")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


def settings(args: argparse.Namespace) -> Config:
    """The resolved configuration of a stage's arguments: files, then JSON, then single overrides."""
    try:
        passed = json.loads(args.settings)
    except ValueError as error:
        raise ConfigError(f"--settings: not JSON ({error})") from error
    resolved = resolve([*args.config, passed], args.overrides)
    # A stage is given the sections that it uses; where files or nothing were given, all may count.
    given = {*passed, *(word.partition(".")[0].partition("=")[0] for word in args.overrides)}
    current().settings = section(resolved, *(given if passed and not args.config else vars(resolved)))
    return resolved


def threads(args: argparse.Namespace) -> int:
    """Number of CPU threads to use."""
    return args.threads if args.threads > 0 else os.cpu_count() or 1


def run(parser: argparse.ArgumentParser, main: Callable[[argparse.Namespace], None], argv: Sequence[str] | None = None) -> int:
    """Parse, run `main(args)`, and return the exit code; an `NsrError` becomes one line on stderr (and in the log)."""
    args = parser.parse_intermixed_args(argv)  # settings may stand anywhere among the options
    try:
        first = first_speaks()
        with log_to(args.log if first else None) as logger, running(_job(parser, args)):
            logger.setLevel(logging.INFO if first else logging.WARNING)
            return _guarded(main, args)
    except OSError as error:
        with log_to(None):
            get_logger().error("--log: %s", _describe(error))
        return NsrError.exit_code


def _job(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Job:
    """What is known of a stage's run from its command line: name, code and inputs."""
    root, stage = Path(nsr.__file__).parents[1], parser.prog.removesuffix(".py")
    given = {name: value for name in INPUTS if isinstance(value := getattr(args, name, None), Path)}
    if not (root / "scripts" / f"{stage}.py").is_file():
        return Job(stage, inputs=given)
    return Job(stage, code_digest(stage, root), _commit(root), inputs=given)


def _commit(root: Path) -> str | None:
    """The commit of a checkout, with `-dirty` where files differ from it; None where git does not know."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _guarded(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    """Run `main(args)`; the exit code."""
    try:
        main(args)
    except NsrError as error:
        get_logger().error("%s", " ".join(str(error).split()))
        return error.exit_code
    except OSError as error:
        # The machine's answer about a file, not a defect: no permission, disk full, a folder in a file's place.
        get_logger().error("%s", _describe(error))
        return NsrError.exit_code
    except KeyboardInterrupt:
        get_logger().error("interrupted")
        return 130
    except Exception:
        get_logger().exception("unexpected error; please report it")
        return 1
    return 0


def _describe(error: OSError) -> str:
    """One line with file, reason and remedy."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}; check the path, its permissions and the disk space".replace("\n", " ")


def main_exit(parser: argparse.ArgumentParser, main: Callable[[argparse.Namespace], None]) -> None:
    """`sys.exit(run(...))`: the last line of every stage program."""
    sys.exit(run(parser, main))
