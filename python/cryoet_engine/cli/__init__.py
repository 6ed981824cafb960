# SPDX-License-Identifier: MIT
"""The `cryoet` command: one module a command, heavy imports inside."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from .. import __version__
from .._checks import CryoETError

COMMANDS = {
    "info": "header, voxel size, statistics and a thumbnail of a tomogram",
    "filter": "smooth, enhance, invert or normalise a tomogram",
    "pseudolabel": "strokes to dense soft pseudo labels: 37 features and a random forest",
    "suggest": "where further strokes would help most",
    "merge": "put classes together (foreground and background), or make hard labels",
    "models": "the networks to train: weights, receptive field, memory",
    "train": "train a 3D network on tomograms and their (pseudo) labels",
    "segment": "soft segmentation of a tomogram by a trained network, tile by tile",
    "evaluate": "scores of a segmentation against the truth: F1, IoU, surface Dice, calibration",
    "render": "a picture of a tomogram and its segmentation",
    "view": "a window: draw strokes, watch labels grow, tune ramps and light, save the picture",
    "run": "all of it: strokes to pseudo labels, network, segmentation, picture and report",
    "bench": "how fast pictures are drawn here, beside the paper's table",
    "export": "a soft segmentation as one MRC file a class",
    "demo": "the whole main job on two simulated virion tomograms with known truth",
    "simulate": "tomograms with known truth: virions, liposomes, complexes, 2D membranes, or a data set of many",
    "doctor": "what is installed, what is missing and how to get it",
}

_EPILOG = """\
typical use:
  cryoet run TOMO.mrc --labels STROKES.mrc --classes background,membrane,spikes,lumen -o out/

Strokes are an integer volume of the tomogram's shape: 0 where nothing is drawn, 1 for the first class, and so on.
`cryoet COMMAND --help` explains one command.
"""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cryoet",
        description="From a noisy cryo-electron tomogram and a few pen strokes to a soft segmentation and a picture.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cryoet-engine {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name, what in COMMANDS.items():
        # Only the chosen command's module is imported: the others' arguments are never asked for.
        module = importlib.import_module(f".{name}", __name__) if name == chosen else None
        sub = commands.add_parser(
            name,
            help=what,
            description=module.__doc__ if module else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
        if module:
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    return parser


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 1 (an error, told in one line), 2 (usage), 130 (cancelled)."""
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = next((word for word in words if word in COMMANDS), None)
    # A polite kill cleans up as Ctrl-C does.
    previous = signal.signal(signal.SIGTERM, _terminate)
    args = argparse.Namespace(command=chosen, debug="--debug" in words)  # until the parser has read them
    try:
        args = _parser(chosen).parse_args(words)
        args.run(args)
    except KeyboardInterrupt:
        return _tell(args, "cancelled", 130)
    except CryoETError as error:
        return _tell(args, str(error), 1)
    except MemoryError:
        return _tell(args, "out of memory; choose smaller tiles or blocks, or a machine with more", 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _tell(args, _os_error(error), 1)
    except ModuleNotFoundError as error:  # a folder of the viewer without torch, say
        return _tell(args, f"this needs the package {error.name}, which is not here: pip install {error.name}", 1)
    except Exception as error:
        return _tell(args, f"internal error ({type(error).__name__}: {error}); --debug shows where", 1)
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


def _os_error(error: OSError) -> str:
    where = error.filename or "output"
    if error.errno == errno.ENOSPC:
        return f"{where}: the disk is full; free some space and run it again"
    return f"{where}: {error.strerror or error}"


def _tell(args: argparse.Namespace, text: str, status: int) -> int:
    if args.debug:
        traceback.print_exc()
    print(
        f"cryoet {args.command}: {'' if status == 130 else 'error: '}{' '.join(text.split())}",
        file=sys.stderr,
    )
    return status
