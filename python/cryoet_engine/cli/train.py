# SPDX-License-Identifier: MIT
"""Train a 3D network on tomograms and their labels.

Labels are soft pseudo labels (OME-Zarr from `cryoet pseudolabel`) or a label volume (0 unlabelled, 1..K classes; with
--labels-from-zero 0..K-1 classes).
With one pair a part of the volume is held back for validation; the best weights by validation are kept. An
interrupted training leaves OUT.partial, which the same command resumes. OUT has the network, curve.jsonl and
curves.png, and in OUT/last the network after its last step. `tail -f OUT.partial/curve.jsonl` shows how it goes.

  cryoet train --pair TOMO soft.zarr --model unet3d -o net/
  cryoet train --pair TOMO four.zarr --from net/ -o net4/         # from two classes to four: the last layer is new

Several GPUs or machines: torchrun --nproc-per-node 4 -m cryoet_engine.cli train ... (--batch is then each one's).
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .._checks import InputError, file_error, input_error
from ._console import Bars, class_names, open_tomogram, positive, say

if TYPE_CHECKING:
    from ..models import Network
    from ..training import TrainingSettings
    from ..volume import SoftSegmentation, Volume

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
    parser.add_argument(
        "--sampling",
        choices=("random", "chunks"),
        help="where patches are cut: anywhere (default), or one an epoch in each of the overlapping chunks of a volume",
    )
    parser.add_argument("--chunk", type=positive, metavar="N", help="edge of the chunks in y and x (default 512)")
    parser.add_argument("--batch", type=positive, metavar="N", help="patches a step")
    parser.add_argument(
        "--accumulate", type=positive, metavar="N", help="batches whose gradients make one step (default 1)"
    )
    parser.add_argument(
        "--augment",
        type=augmentation,
        action="append",
        default=[],
        metavar="NAME=X",
        help="strength of an augmentation, 0: none: flips, turns, rotation_deg, zoom, elastic, noise, blur, "
        "missing_wedge, fourier_amplitude, contrast, brightness, gamma; may be given several times",
    )
    parser.add_argument("--learning-rate", type=float, metavar="X", help="peak of the schedule")
    parser.add_argument(
        "--schedule", choices=("one_cycle", "cosine", "constant"), help="of the learning rate (default one_cycle)"
    )
    parser.add_argument(
        "--patches-per-epoch", type=positive, metavar="N", help="validation follows each epoch (default 200)"
    )
    parser.add_argument(
        "--validation-share", type=float, metavar="X", help="of each tomogram, held back at one side (default 0.15)"
    )
    parser.add_argument(
        "--patience", type=positive, metavar="N", help="stop after N epochs that were no better (default: never)"
    )
    parser.add_argument(
        "--normalisation", choices=("minmax", "percentile", "zscore"), help="of whole tomograms (default zscore)"
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="of convolutions; auto (default): bfloat16 on cards that have it, else float32",
    )
    parser.add_argument(
        "--loader-threads", type=int, metavar="N", help="threads that read patches meanwhile (default 1; full: 4)"
    )
    parser.add_argument(
        "--loss",
        type=loss_name,
        metavar="LOSS",
        help="adaptive_wing, bce, cross_entropy, dice, mse, or a sum (default: cross_entropy + dice; in `run` with two "
        "classes and soft targets mse)",
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
    parser.add_argument(
        "--labels-from-zero",
        action="store_true",
        help="label volumes count classes from 0, as the simulator's truth and other tools' masks do: nothing is "
        "unlabelled",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an older network in DIR")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of the trained network")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all that is random (default 0)")
    parser.add_argument(
        "--activation",
        choices=("none", "sigmoid", "softmax", "normalised_relu"),
        default="none",
        help="of the network's outputs; none: what the loss implies (softmax with cross_entropy and dice), else none",
    )
    add_network_arguments(parser)
    parser.add_argument(
        "--from",
        dest="source",
        metavar="NET",
        help="begin with the weights of a trained network, or of a PyTorch or safetensors file (then say --model)",
    )
    parser.add_argument(
        "--tensorboard",
        nargs="?",
        const=True,
        default=False,
        metavar="DIR",
        help="write TensorBoard events, by default to OUT/tensorboard",
    )
    parser.set_defaults(model=None)  # --from knows


def loss_name(text: str) -> str:
    """A loss, or a sum of losses, that a network can be trained with."""
    from ..training.losses import parse_loss

    try:
        parse_loss(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def augmentation(text: str) -> tuple[str, float | bool]:
    """NAME=X of `Augmentation`."""
    from ..training import Augmentation

    defaults = dataclasses.asdict(Augmentation())
    name, _, value = text.partition("=")
    try:
        number = float(value)
        chosen = bool(number) if isinstance(defaults[name], bool) else number
        Augmentation(**{name: chosen})  # type: ignore[arg-type]
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except (KeyError, ValueError):
        expected = f"NAME=X with one of {', '.join(defaults)}"
        raise argparse.ArgumentTypeError(f"expected {expected}; got {text!r}") from None
    return name, chosen


def settings_of(args: argparse.Namespace) -> tuple[TrainingSettings, int]:
    """The training settings, and the number of steps, that the arguments ask for."""
    from ..training import Augmentation, TrainingSettings

    names = (
        *("patch", "batch", "accumulate", "learning_rate", "schedule", "patience", "loss", "targets"),
        *("patches_per_epoch", "validation_share"),
        *("normalisation", "precision", "loader_threads", "sampling", "chunk"),
    )
    given: dict[str, Any] = {name: value for name in names if (value := getattr(args, name)) is not None}
    # The defaults of TrainingSettings are for minutes on a CPU; the full network is trained as in paper 1.
    paper = {"patch": 128, "batch": 4, "learning_rate": 1e-3, "loader_threads": 4} if preset_of(args) == "full" else {}
    varied = Augmentation(**dict(args.augment))
    return TrainingSettings(device=args.device, seed=args.seed, augmentation=varied, **(paper | given)), args.steps


def preset_of(args: argparse.Namespace) -> str:
    """The preset, with `auto` decided by the device."""
    if args.preset != "auto":
        return str(args.preset)
    import torch

    return "full" if args.device != "cpu" and torch.cuda.is_available() else "small"


def network_of(args: argparse.Namespace, n_classes: int) -> Network:
    """The network that the arguments ask for, with first weights from the seed."""
    from ..models import create_model

    return create_model(
        args.model or "unet3d",
        preset=preset_of(args),
        in_channels=1,
        out_channels=n_classes,
        activation=getattr(args, "activation", "none"),  # which `run` leaves to the loss
        seed=args.seed,
    )


def run(args: argparse.Namespace) -> None:
    """Tomograms and labels in, a trained network out: by one process, or by all that torchrun started."""
    from ..training.distributed import first_to_fail, join

    with join(args.device) as processes:
        try:
            _train(args, first=processes.rank == 0)
        except BaseException:
            if not first_to_fail():
                _leave(1)
            raise
    if processes.size > 1:
        _leave(0)


def _leave(status: int) -> NoReturn:
    """End the process without the interpreter's own end: DistributedDataParallel never lets go of gloo's threads, and
    on these it aborts now and then (seen in 2 of 60 trainings), long after the network is written.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _train(args: argparse.Namespace, *, first: bool) -> None:
    from .. import io
    from ..training import train
    from ..volume import SoftSegmentation

    out = Path(args.output)
    if out.is_dir() and any(out.iterdir()) and not args.overwrite:
        raise file_error(out, "output", expected="a new folder", got="one with files", fix="add --overwrite")
    pairs = [(open_tomogram(args, tomogram), _labels(args, labels, first=first)) for tomogram, labels in args.pair]
    labels = pairs[0][1]
    if isinstance(labels, SoftSegmentation):
        classes = labels.classes
        if args.classes not in (None, classes):
            fix = "leave --classes out: soft labels bring their names"
            raise input_error("--classes", "names", expected=", ".join(classes), got=", ".join(args.classes), fix=fix)
    elif args.classes is None:
        raise input_error(
            "--classes",
            "names",
            expected="the names of the classes of a label volume",
            got="none",
            fix="give --classes",
        )
    else:
        classes = args.classes
        pairs = [(volume, io.as_soft(marks, classes)) for volume, marks in pairs]
    model = _begin(args, classes)
    settings, steps = settings_of(args)
    names = [Path(tomogram).name for tomogram, _ in args.pair]
    with Bars() as bars:
        result = train(
            model, pairs, steps=steps, settings=settings, out=out, names=names, tensorboard=args.tensorboard,
            progress=bars,
        )  # fmt: skip
    if first:
        for note in result.notes:
            say(f"note: {note}")
        judged = not math.isnan(result.best_f1)
        score = f"held-back F1 {result.best_f1:.3f}" if judged else "no held-back labels to judge it by"
        say(f"{out}: {model.config.name}, {score}")


def _labels(args: argparse.Namespace, path: str, *, first: bool) -> Volume | SoftSegmentation:
    from .. import io
    from ..volume import SoftSegmentation

    labels = io.read(path)
    if args.labels_from_zero:
        if isinstance(labels, SoftSegmentation):
            fix = "leave --labels-from-zero out"
            raise file_error(path, "labels", expected="a label volume", got="a soft segmentation", fix=fix)
        return io.labels_from_zero(labels)
    if first and any("0 background" in note for note in labels.notes):  # as the simulator writes into its truth
        say(f"note: {path} calls 0 background by its notes, but 0 is unlabelled unless with --labels-from-zero")
    return labels


def _begin(args: argparse.Namespace, classes: tuple[str, ...]) -> Network:
    """The network with its first weights. What --from decides and was not given is put into the arguments."""
    from ..models import transfer

    if args.source is None:
        return network_of(args, len(classes))
    if Path(args.source).is_dir():
        preset = "" if args.preset == "auto" else args.preset
    else:
        preset = preset_of(args)
    activation = None if args.activation == "none" else args.activation
    model = transfer(
        args.source, classes=classes, activation=activation, seed=args.seed, name=args.model or "", preset=preset
    )
    args.preset = model.config.preset
    args.normalisation = args.normalisation or model.initialised_from.get("normalisation")
    return model
