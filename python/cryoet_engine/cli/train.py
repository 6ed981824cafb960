# SPDX-License-Identifier: MIT
"""Train a 3D network on tomograms and their labels.

Labels are soft pseudo labels (OME-Zarr from `cryoet pseudolabel`) or a label volume (0 unlabelled, 1..K classes).
With one pair a part of the volume is held back for validation; the best weights by validation are kept. An
interrupted training leaves OUT.partial, which the same command resumes.

  cryoet train --pair TOMO soft.zarr --model unet3d -o net/
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._checks import InputError, file_error, input_error
from ._console import Bars, class_names, open_tomogram, positive, say

if TYPE_CHECKING:
    from ..models import Network
    from ..training import TrainingSettings

#: Some six minutes for the small network on two cores.
STEPS = 1500


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what decides a network and its training."""
    parser.add_argument(
        "--model", default="unet3d", metavar="NAME", help="network (default unet3d); `cryoet models` lists them"
    )
    parser.add_argument(
        "--preset",
        choices=("auto", "small", "full"),
        default="auto",
        help="size of the network; auto: full on a GPU, small on a CPU",
    )
    parser.add_argument(
        "--steps", type=positive, metavar="N", help="optimiser steps (default %(default)s)", default=STEPS
    )
    parser.add_argument("--patch", type=positive, metavar="N", help="edge of the training patches in voxels")
    parser.add_argument("--batch", type=positive, metavar="N", help="patches a step")
    parser.add_argument("--learning-rate", type=float, metavar="X", help="peak of the one-cycle schedule")
    parser.add_argument(
        "--loss",
        type=loss_name,
        metavar="LOSS",
        help="adaptive_wing, bce, cross_entropy (default), dice, mse, or a sum: 'cross_entropy + 0.5*dice'",
    )
    parser.add_argument("--targets", choices=("hard", "soft"), help="labels as classes or as probabilities")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "--pair",
        nargs=2,
        action="append",
        required=True,
        metavar=("TOMO", "LABELS"),
        help="a tomogram and its labels; may be given several times",
    )
    parser.add_argument("--fill", metavar="VALUE", help="replace NaN and infinite voxels by this number, or by `mean`")
    parser.add_argument(
        "--classes", type=class_names, metavar="A,B,...", help="names of the classes where LABELS is a label volume"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an older network in DIR")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of the trained network")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all that is random (default 0)")
    parser.add_argument(
        "--activation",
        choices=("none", "sigmoid", "softmax", "normalised_relu"),
        default="none",
        help="of the network's outputs; none: what the loss implies (softmax with cross_entropy), else none",
    )
    add_network_arguments(parser)


def loss_name(text: str) -> str:
    """A loss, or a sum of losses, that a network can be trained with."""
    from ..training.losses import parse_loss

    try:
        parse_loss(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def settings_of(args: argparse.Namespace) -> tuple[TrainingSettings, int]:
    """The training settings, and the number of steps, that the arguments ask for."""
    from ..training import TrainingSettings

    names = ("patch", "batch", "learning_rate", "loss", "targets")
    given: dict[str, Any] = {name: value for name in names if (value := getattr(args, name)) is not None}
    # The defaults of TrainingSettings are for minutes on a CPU; the full network is trained as in paper 1.
    paper = {"patch": 128, "batch": 4, "learning_rate": 1e-3} if preset_of(args) == "full" else {}
    return TrainingSettings(device=args.device, seed=args.seed, **(paper | given)), args.steps


def preset_of(args: argparse.Namespace) -> str:
    """The preset, with `auto` decided by the device."""
    if args.preset != "auto":
        return str(args.preset)
    import torch

    return "full" if args.device != "cpu" and torch.cuda.is_available() else "small"


def network_of(args: argparse.Namespace, n_classes: int) -> Network:
    """The network that the arguments ask for, with first weights from the seed."""
    import torch

    from ..models import create_model

    torch.manual_seed(args.seed)
    return create_model(
        args.model,
        preset=preset_of(args),
        in_channels=1,
        out_channels=n_classes,
        activation=getattr(args, "activation", "none"),  # which `run` leaves to the loss
    )


def run(args: argparse.Namespace) -> None:
    """Tomograms and labels in, a trained network out."""
    from .. import io
    from ..training import train
    from ..volume import SoftSegmentation

    out = Path(args.output)
    if out.is_dir() and any(out.iterdir()) and not args.overwrite:
        raise file_error(out, "output", expected="a new folder", got="one with files", fix="add --overwrite")
    pairs = [(open_tomogram(args, tomogram), io.read(labels)) for tomogram, labels in args.pair]
    first = pairs[0][1]
    if isinstance(first, SoftSegmentation):
        n_classes = len(first.classes)
    elif args.classes is None:
        raise input_error(
            "--classes",
            "names",
            expected="the names of the classes of a label volume",
            got="none",
            fix="give --classes",
        )
    else:
        names = args.classes
        n_classes = len(names)
        pairs = [(volume, io.as_soft(labels, names)) for volume, labels in pairs]
    settings, steps = settings_of(args)
    model = network_of(args, n_classes)
    with Bars() as bars:
        result = train(model, pairs, steps=steps, settings=settings, out=out, progress=bars)
    score = "no held-back labels to judge it by" if math.isnan(result.best_f1) else f"held-back F1 {result.best_f1:.3f}"
    say(f"{out}: {args.model}, {score}")
