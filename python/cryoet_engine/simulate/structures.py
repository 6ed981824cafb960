# SPDX-License-Identifier: MIT
"""Atomic models and density maps as potential in volts above vitreous ice, ready to be turned and painted.

Potential of an atomic model: electron scattering factors of isolated neutral atoms (International Tables C, table
4.3.2.2; Peng et al. 1996, Acta Cryst. A52:257), as gemmi adds them up in Å^-2, times h^2 / (2 pi m e) = 47.878 V Å^2.
What a particle displaces of the ice is taken off in proportion to mass, atom by atom: at the scale of a voxel it has
the particle's own shape. Ice is 4.5 V in the same approximation; the 3.5 V that are measured (Harscher & Lichte 1998)
hold what bonds do to the potential, which isolated atoms lack in ice and particle alike, and the difference of the two
is what matters (Vulovic et al. 2013, J. Struct. Biol. 183:19).

Most models have no hydrogens. Those of a file are dropped, and each heavy atom carries the average of its kind:
0.99 in a protein, 0.55 in a nucleic acid (see `_Matter`).
"""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from .._checks import file_error, input_error
from ..io import read_volume
from ..io._files import existing, read_error
from ..io.volumes import named_format
from ..volume import Float32Array, Volume
from ._ranges import number, numbers

if TYPE_CHECKING:
    import gemmi

Matrix = npt.NDArray[np.float64]

_VOLTS = 47.877645  # V Å^2: h^2 / (2 pi m e)
_HYDROGEN_FACTOR_A, _HYDROGEN_DA = 0.5288, 1.008  # Å, Da
# Water of 0.93 g/cm3 is 32.17 Å^3 a molecule, whose scattering factors add up to 3.041 Å.
_ICE_V = _VOLTS * 3.0405 / 32.17
_MODELS = (".pdb", ".ent", ".cif", ".mmcif")
_LARGEST_A, _LARGEST_EDGE = 2000.0, 257
_BLUR_VOX = 0.5  # standard deviation, as everywhere in the specimen
_TAIL_VOX = 2.5  # five standard deviations
_THRESHOLD = 0.5
_LARGEST_V = 60.0  # at voxels of 5 Å and more; solid gold is 30
_SMALLEST_MAP = 4
# Blurred to what voxels of 10 Å carry, atomic models have a `_level` of 1.75 to 2.4 V. A map is duller than its model:
# given 1.9 V, the 12 maps at 5 Å whose models we have would hold 26 % more in all than these (median), with 1.7 V 13 %.
_LEVEL_V, _LEVEL_VOXEL_A = 1.7, 10.0


class _Matter(NamedTuple):
    """What the atoms of a kind of molecule carry with them.

    hydrogens: for each heavy atom. An average residue is C4.9 H7.7 N1.35 O1.5 S0.04, a nucleotide C9.5 H11.4 N3.8 O7 P.
    specific_volume_A3: displaced for each Da: 0.73 and 0.54 cm3/g.
    trace: the atom that stands for its whole residue where it is alone.
    residue_atoms, residue_factor_A, residue_Da: heavy atoms of an average residue: number, scattering, mass.
    """

    hydrogens: float
    specific_volume_A3: float
    trace: str
    residue_atoms: float
    residue_factor_A: float
    residue_Da: float


_PROTEIN = _Matter(0.99, 1.212, "CA", 7.8, 18.46, 103.0)
_NUCLEIC = _Matter(0.55, 0.897, "P", 21.3, 51.62, 310.3)


class Rotated(NamedTuple):
    """A structure turned and shifted, in a box that just holds it.

    potential: (z, y, x) float32, volts above ice. mask: (z, y, x) bool, the particle's own voxels.
    centre: index (z, y, x) in the box of the voxel at which the structure is put; it is shifted off by `offset_vox`.
    """

    potential: Float32Array
    mask: npt.NDArray[np.bool_]
    centre: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Structure:
    """A particle as potential, its centre of mass in the middle voxel.

    name: the file's name without endings, such as 1bxn.
    fine: (z, y, x) float32, volts above ice, at half the voxel size, blurred to what the voxel size carries; a cube of
        edge 4 n + 1. Sampled twice as finely, it can be turned without loss.
    voxel_size_A: edge length of a voxel of `potential` and of what `rotated` gives, in Å.
    threshold_V: a voxel above it belongs to the particle.
    centre_A: where the centre of mass lies in the file, (z, y, x) in Å: an atomic model's coordinates, or from a
        map's voxel n // 2 along each axis of n.
    """

    name: str
    fine: Float32Array
    voxel_size_A: float
    threshold_V: float
    centre_A: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def potential(self) -> Float32Array:
        """(z, y, x) float32, volts above ice, at `voxel_size_A`: a cube of odd edge."""
        return self.fine[::2, ::2, ::2]

    @functools.cached_property
    def radius_A(self) -> float:
        """Distance of the mask's farthest point from the centre, in Å."""
        points = np.argwhere(self.fine > self.threshold_V) - (self.fine.shape[0] - 1) / 2
        return float(np.sqrt(np.square(points).sum(axis=1).max()) * self.voxel_size_A / 2)

    @functools.cached_property
    def _spline(self) -> Float32Array:
        return np.asarray(ndimage.spline_filter(self.fine, order=3, output=np.float32, mode="mirror"))

    @functools.cached_property
    def _corners(self) -> Matrix:
        """Corners (n, 3) of the convex hull of what is not ice, in voxels from the centre."""
        points = np.argwhere(self.fine > 0.02 * self.threshold_V)
        with contextlib.suppress(QhullError):  # flat, or a single point
            points = points[ConvexHull(points).vertices]
        return np.asarray((points - (self.fine.shape[0] - 1) / 2) / 2)

    def rotated(self, rotation: Matrix, *, offset_vox: Sequence[float] = (0.0, 0.0, 0.0)) -> Rotated:
        """Turned about its centre, then shifted by a part of a voxel.

        rotation: (3, 3) matrix that acts on (z, y, x) vectors of the structure. offset_vox: shift (z, y, x).
        By cubic splines on the fine grid: within 0.5 % (rms) of turning a protein's atoms, and 0.3 % of its integral.

        Errors: InputError for what is no rotation, and for a shift of more than a voxel.
        """
        matrix = _checked_rotation("Structure.rotated", rotation)
        offset = np.array(numbers("Structure.rotated", "offset_vox", tuple(offset_vox), -1, 1, count=3))
        corners = np.einsum("ni,ji->nj", self._corners, matrix) + offset  # not by BLAS, as everywhere in the specimen
        low, high = np.floor(corners.min(axis=0)).astype(int), np.ceil(corners.max(axis=0)).astype(int)
        shape = tuple(int(n) for n in high - low + 1)
        inverse = 2 * matrix.T
        middle = (self.fine.shape[0] - 1) / 2
        potential = ndimage.affine_transform(
            self._spline,
            inverse,
            middle + inverse @ (low - offset),
            output_shape=shape,
            output=np.float32,
            order=3,
            prefilter=False,
        )
        np.maximum(potential, 0, out=potential)
        z, y, x = (-int(n) for n in low)
        return Rotated(potential, potential > self.threshold_V, (z, y, x))


def random_rotation(rng: Generator) -> Matrix:
    """A rotation (3, 3), uniform on SO(3): from a quaternion of four normal numbers, so that no version changes it."""
    w, x, y, z = (float(v) for v in rng.standard_normal(4))
    s = 2 / (w * w + x * x + y * y + z * z)
    return np.array(
        [
            [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
            [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
            [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)],
        ]
    )


def euler_deg(rotation: Matrix) -> tuple[float, float, float]:
    """RELION's (rot, tilt, psi) in degrees of a rotation (3, 3) that takes (z, y, x) vectors of a structure into place.

    RELION's matrix A(rot, tilt, psi) = Rz(-psi) Ry(-tilt) Rz(-rot) (with active rotations of (x, y, z) vectors) takes
    the reference's coordinates to the particle's; our rotation is A with the axes in the order z, y, x. scipy's
    `Rotation.from_euler("ZYZ", (rot, tilt, psi), degrees=True)` is its inverse. Tilt is from 0 to 180; where it is
    either, rot is 0. Source: RELION, Euler_angles2matrix; Heymann et al. 2005, J. Struct. Biol. 151:196.

    Errors: InputError for what is no rotation.
    """
    a = _checked_rotation("euler_deg", rotation)[::-1, ::-1]
    tilt = math.atan2(math.hypot(a[2, 0], a[2, 1]), a[2, 2])
    if math.hypot(a[2, 0], a[2, 1]) < 1e-7:
        rot, psi = 0.0, math.atan2(a[0, 1], a[1, 1])
    else:
        rot, psi = math.atan2(a[2, 1], a[2, 0]), math.atan2(a[1, 2], -a[0, 2])
    return math.degrees(rot), math.degrees(tilt), math.degrees(psi)


def _checked_rotation(where: str, rotation: Any) -> Matrix:
    try:
        matrix = np.asarray(rotation, np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.shape != (3, 3) or not np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-6) or np.linalg.det(matrix) < 0:
        got = f"shape {matrix.shape}" if matrix.shape != (3, 3) else f"{matrix.tolist()}"
        raise input_error(where, "rotation", expected="a (3, 3) matrix, orthogonal, of determinant 1", got=got)
    return matrix


def read_structure(
    path: str | os.PathLike[str], *, voxel_size_A: float, assembly: bool = True, map_voxel_size_A: float | None = None
) -> Structure:
    """Read a particle from an atomic model (.pdb, .ent, .cif, .mmcif, each also .gz or .bz2) or a density map.

    voxel_size_A: of the specimen that the particle is for, 1 to 100; what ice displaces is good from about 4 on.
    assembly: of an atomic model, build the first biological assembly that the file declares, if it does: a crystal's
        asymmetric unit often holds half a complex, or two. False: the atoms as in the file.
    map_voxel_size_A: of a map whose header does not tell, or tells wrongly.

    An atomic model: its first model, without water; of alternative locations the likeliest; every atom is there in
    full, whatever its occupancy. B-factors are ignored: they tell of a crystal's or a map's disorder, and would smear
    the particle. A trace of C-alpha or P atoms stands for whole residues.

    A map (whatever `read_volume` reads): its grey scale is unknown. The median of its faces becomes 0, and so does
    what is below that, or apart from the particle; then it is scaled so that, blurred to voxels of 10 Å, the mean of
    its density weighted by itself is 1.7 V, near that of atomic models; dense protein is then near 3 V.

    Errors: FileFormatError for what is no structure, is cut short, is empty or flat, has impossible coordinates, or
    is larger than 2000 Å; InputError for impossible voxel sizes, or one at which the structure has over 257 voxels.
    """
    voxel = number("read_structure", "voxel_size_A", voxel_size_A, 1, 100)
    file = existing(Path(path))
    name, ending = _name(file)
    if ending in _MODELS:
        fine, centre = _potential_of_atoms(file, _atoms(file, assembly=assembly), voxel)
    elif file.is_dir() or named_format(file):
        volume = read_volume(file)
        fine, centre = _potential_of_map(file, volume, _map_voxel_size(file, volume, map_voxel_size_A), voxel)
    else:
        raise file_error(
            file,
            "name",
            expected="an ending of an atomic model (.pdb, .cif) or of a map (.mrc, .map), also with .gz",
            got=f"{ending or 'none'}",
            fix="rename it if it is one of these",
        )
    z, y, x = (float(v) for v in centre)
    return Structure(name, fine, voxel, _THRESHOLD * _level(fine), (z, y, x))


def _name(file: Path) -> tuple[str, str]:
    """Name without endings, and the ending that tells the format, in lower case."""
    inner = Path(file.stem) if file.suffix.lower() in (".gz", ".bz2") else Path(file.name)
    return inner.stem, inner.suffix.lower()


def _level(potential: npt.NDArray[Any]) -> float:
    """The mean of a density weighted by itself: its interior's value, however wide a border of nothing it has."""
    total = float(np.sum(potential, dtype=np.float64))
    return float(np.sum(np.square(potential, dtype=np.float64))) / total if total > 0 else 0.0


class _Atoms(NamedTuple):
    """Heavy atoms, one entry each.

    positions (n, 3): (z, y, x) in Å. share (n,): of an atom's potential, with what it carries, that ice leaves over.
    """

    elements: list[gemmi.Element]
    positions: Matrix
    share: Matrix

    @property
    def charge(self) -> Matrix:
        """Integral (n,) of each atom's potential above ice, in units of `_VOLTS` Å^3."""
        return np.asarray(self.share * [_factor(element) for element in self.elements])


def _factor(element: gemmi.Element) -> float:
    """Scattering factor in Å in the forward direction."""
    return sum(element.c4322.a) if element.c4322 else 0.0


def _matter(residue: gemmi.Residue) -> _Matter | None:
    """What a residue of a polymer is made of; None for a ligand."""
    import gemmi

    known = gemmi.find_tabulated_residue(residue.name)
    return _NUCLEIC if known.is_nucleic_acid() else _PROTEIN if known.is_amino_acid() else None


def _is_trace(chain: gemmi.Chain) -> bool:
    """Whether most residues are a single atom of the main chain."""
    kinds = [(residue, _matter(residue)) for residue in chain]
    alone = [len(residue) == 1 and residue[0].name == matter.trace for residue, matter in kinds if matter]
    return sum(alone) > len(alone) / 2


def _atoms(file: Path, *, assembly: bool) -> _Atoms:
    import gemmi

    elements: list[gemmi.Element] = []
    positions: list[list[float]] = []
    carried: list[tuple[float, float, float, float]] = []  # factor, mass, hydrogens, specific volume
    for chain in _model(file, assembly=assembly):
        is_trace = _is_trace(chain)
        for residue in chain:
            if residue.is_water():
                continue
            matter = _matter(residue) or _PROTEIN
            for atom in residue:
                if atom.element.is_hydrogen:
                    continue
                unknown = atom.element.atomic_number == 0 or not atom.element.c4322
                element = gemmi.Element("C") if unknown else atom.element
                factor, mass, count = _factor(element), element.weight, 1.0
                if is_trace and atom.name == matter.trace:
                    factor, mass, count = matter.residue_factor_A, matter.residue_Da, matter.residue_atoms
                elements.append(element)
                positions.append(atom.pos.tolist())
                carried.append((factor, mass, count * matter.hydrogens, matter.specific_volume_A3))
    if not elements:
        raise file_error(file, "atomic model", expected="atoms other than water and hydrogens", got="none")
    where = np.array(positions)[:, ::-1]
    if not np.isfinite(where).all():
        raise file_error(file, "coordinates", expected="finite numbers", got="some that are not")
    factors, masses, hydrogens, specific_volumes = np.array(carried).T
    displaced = (masses + hydrogens * _HYDROGEN_DA) * specific_volumes * _ICE_V / _VOLTS
    above_ice = factors + hydrogens * _HYDROGEN_FACTOR_A - displaced
    return _Atoms(elements, where, above_ice / [_factor(element) for element in elements])


def _model(file: Path, *, assembly: bool) -> gemmi.Model:
    """The first model of a file, its alternative locations resolved, as the assembly if wanted and declared."""
    import gemmi

    content = _content(file)
    is_cif = _name(file)[1] in (".cif", ".mmcif") or content.lstrip().startswith(b"data_")
    if not content.strip():
        raise file_error(file, "file", expected="an atomic model", got="an empty file")
    if not is_cif:
        _check_columns(file, content)
    try:
        structure = gemmi.read_structure_string(
            content, format=gemmi.CoorFormat.Mmcif if is_cif else gemmi.CoorFormat.Pdb
        )
    except (RuntimeError, ValueError, IndexError) as error:
        raise file_error(
            file, "content", expected="an mmCIF file" if is_cif else "a PDB file", got=f"something else: {error}"
        ) from error
    if len(structure) == 0:
        raise file_error(file, "atomic model", expected="atoms", got="none")
    del structure[1:]
    _resolve_alternatives(structure[0])
    if assembly and structure.assemblies:
        try:
            structure.transform_to_assembly(structure.assemblies[0].name, gemmi.HowToNameCopiedChain.Dup)
        except (RuntimeError, ValueError, IndexError) as error:
            raise file_error(
                file, "biological assembly", expected="one that can be built", got=error, fix="say assembly=False"
            ) from error
    return structure[0]


def _content(file: Path) -> bytes:
    """What a file holds, decompressed, a question mark for every byte that is no ASCII."""
    opened: Any = {".gz": gzip.open, ".bz2": bz2.open}.get(file.suffix.lower(), open)
    try:
        with opened(file, "rb") as stream:
            content: bytes = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise read_error(file, error) from error
    return content.decode("ascii", "replace").encode("ascii", "replace")  # gemmi's strings have to be UTF-8


def _check_columns(file: Path, content: bytes) -> None:
    """Coordinates of a PDB file stand in fixed columns, and what is no number there would be read as 0."""
    atoms = 0
    for row, line in enumerate(content.splitlines(), 1):
        if line.startswith((b"ATOM  ", b"HETATM")):
            atoms += 1
            try:
                for column in (30, 38, 46):
                    float(line[column : column + 8])
            except ValueError:
                raise file_error(
                    file,
                    f"coordinates in line {row}",
                    expected="three numbers of eight columns from column 31 on",
                    got=repr(line[30:54].decode("latin1")),
                    fix="a structure too large for the PDB format comes as mmCIF",
                ) from None
    if not atoms:
        raise file_error(file, "content", expected="a PDB file with ATOM or HETATM lines", got="none of these")


def _resolve_alternatives(model: gemmi.Model) -> None:
    """Of each atom's alternative locations, those of a point mutation's two residues too, keep the likeliest."""
    for chain in model:
        best: dict[tuple[str, str], tuple[float, Any]] = {}
        for residue in chain:
            for atom in residue:
                if atom.has_altloc():
                    key = (str(residue.seqid), atom.name)
                    if key not in best or atom.occ > best[key][0]:
                        best[key] = (atom.occ, (residue.name, atom.altloc))
        if not best:
            continue
        for residue in chain:
            for at in range(len(residue) - 1, -1, -1):
                atom = residue[at]
                if atom.has_altloc() and best[str(residue.seqid), atom.name][1] != (residue.name, atom.altloc):
                    del residue[at]


def _potential_of_atoms(file: Path, atoms: _Atoms, voxel: float) -> tuple[Float32Array, Matrix]:
    """Potential above ice at half the voxel size, sampled from the exact sum of Gaussians; and its centre (3,)."""
    import gemmi

    _check_extent(file, np.ptp(atoms.positions, axis=0))
    centre = np.average(atoms.positions, axis=0, weights=atoms.charge)
    centred = atoms.positions - centre
    edge = _fine_edge(float(np.abs(centred).max()) + 3, voxel)
    spacing = voxel / 2
    sigma = _BLUR_VOX * voxel
    calculator = gemmi.DensityCalculatorE()
    calculator.grid.unit_cell = gemmi.UnitCell(edge * spacing, edge * spacing, edge * spacing, 90, 90, 90)
    calculator.grid.spacegroup = gemmi.SpaceGroup("P 1")
    calculator.grid.set_size(edge, edge, edge)
    calculator.blur = 8 * math.pi**2 * sigma**2
    calculator.cutoff = 1e-5 * 2.5 / (2 * math.pi * sigma**2) ** 1.5  # in carbon's peaks: up to 4.8 sigma
    atom = gemmi.Atom()
    atom.b_iso = 0
    middle = (edge - 1) / 2 * spacing
    for element, (z, y, x), share in zip(atoms.elements, centred + middle, atoms.share, strict=True):
        atom.element, atom.pos, atom.occ = element, gemmi.Position(x, y, z), share
        calculator.add_atom_density_to_grid(atom)
    potential = np.ascontiguousarray(calculator.grid.array.T) * np.float32(_VOLTS)
    largest = _LARGEST_V * max(1, 5 / voxel) ** 3
    if potential.max() > largest:
        raise file_error(
            file,
            "coordinates",
            expected=f"atoms that lie apart, up to {largest:g} V of potential",
            got=f"{potential.max():.3g} V",
            fix="coordinates are in Å; several copies in one place are too many",
        )
    return potential, centre


def _fine_edge(reach_A: float, voxel: float) -> int:
    """Edge of the cube at half the voxel size around something that reaches so far from its middle."""
    half = math.ceil(reach_A / voxel + _TAIL_VOX)
    if 2 * half + 1 > _LARGEST_EDGE:
        raise input_error(
            "read_structure",
            "voxel_size_A",
            expected=f"one at which the structure has up to {_LARGEST_EDGE} voxels a side",
            got=f"{voxel:g} Å and {2 * half + 1} voxels",
            fix="take a larger voxel size",
        )
    return 4 * half + 1


def _check_extent(file: Path, extent_A: Any) -> None:
    if max(extent_A) > _LARGEST_A:
        raise file_error(
            file,
            "extent",
            expected=f"up to {_LARGEST_A:g} Å",
            got=" x ".join(f"{one:.4g}" for one in extent_A),
            fix="check the coordinates, or a map's voxel size: both are in Å",
        )


def _potential_of_map(file: Path, volume: Volume, size_A: Matrix, voxel: float) -> tuple[Float32Array, Matrix]:
    """A map's density as potential above ice at half the voxel size: cleaned, scaled, blurred to what voxels carry.

    And its centre of mass (3,), from the map's voxel n // 2.

    size_A (3,): of the map's own voxels.
    """
    if min(volume.shape) < _SMALLEST_MAP:
        shape = " x ".join(str(n) for n in volume.shape)
        raise file_error(file, "density map", expected=f"a volume of {_SMALLEST_MAP} voxels a side or more", got=shape)
    _check_extent(file, size_A * volume.shape / 2)  # half of the box may be empty
    density = np.array(volume.data[:], np.float32)
    if not np.isfinite(density).all():
        raise file_error(file, "density map", expected="finite numbers", got="some that are not")
    density -= np.float32(np.median(_border(density)))
    # Detail that no voxel will carry goes first: noise is strongest there, and every later step is quicker.
    first = min(voxel, _LEVEL_VOXEL_A)
    carried = np.maximum(size_A, first)
    steps = np.maximum(first / 2 / size_A, 1).astype(int)
    spacing = steps * size_A
    density = _particle(file, _blurred(density, size_A, size_A, first)[:: steps[0], :: steps[1], :: steps[2]])
    tail = math.ceil(_TAIL_VOX * max(voxel, _LEVEL_VOXEL_A) / spacing.min())
    density = np.pad(density, tail)
    density *= np.float32(_LEVEL_V / _level(_blurred(density, spacing, carried, _LEVEL_VOXEL_A)))

    occupied = np.argwhere(density > 0)
    centre = np.average(occupied, axis=0, weights=density[tuple(occupied.T)])
    reach = np.abs(occupied - centre) * spacing
    _check_extent(file, 2 * reach.max(axis=0))
    edge = _fine_edge(float(reach.max()), voxel)
    scale = voxel / 2 / spacing
    density = _blurred(density, spacing, carried, voxel)
    fine = ndimage.affine_transform(
        density,
        np.diag(scale),
        centre - scale * (edge - 1) / 2,
        output_shape=(edge, edge, edge),
        output=np.float32,
        order=3,
    )
    middle = np.array(volume.shape) // 2 * size_A
    return np.maximum(fine, 0, out=fine), (centre - tail) * spacing - middle


def _map_voxel_size(file: Path, volume: Volume, given: float | None) -> Matrix:
    if given is not None:
        return np.full(3, number("read_structure", "map_voxel_size_A", given, 0.1, 200))
    # 1 is what programs write that do not know.
    if volume.voxel_size_status == "unknown" or volume.voxel_size_A == (1.0, 1.0, 1.0):
        raise file_error(
            file,
            "voxel size",
            expected="Å in the map's header",
            got="1 or none, as programs write that do not know it",
            fix="give it as map_voxel_size_A, even if it is 1",
        )
    return np.array(volume.voxel_size_A)


def _border(density: Float32Array) -> Float32Array:
    """The voxels of the six faces."""
    inner = np.zeros(density.shape, bool)
    inner[1:-1, 1:-1, 1:-1] = True
    return density[~inner]


def _blurred(density: Float32Array, spacing_A: Matrix, carried_A: Any, wanted_A: float) -> Float32Array:
    """Blurred from what voxels of the one size carry to what those of another carry, unless they carry more."""
    variance = np.maximum(wanted_A**2 - np.square(carried_A), 0) * _BLUR_VOX**2
    if not variance.any():
        return density
    blurred = ndimage.gaussian_filter(density, np.sqrt(variance) / spacing_A, mode="constant")
    return np.asarray(blurred, np.float32)


def _particle(file: Path, density: Float32Array) -> Float32Array:
    """The density of a map's particle, everything around it 0."""
    bright, dark = (float(np.square(np.maximum(d, 0), dtype=np.float64).sum()) for d in (density, -density))
    if not bright > 0 and not dark > 0:
        raise file_error(file, "density map", expected="a particle", got="the same value everywhere")
    if dark > bright:
        raise file_error(
            file,
            "density map",
            expected="a particle brighter than what is around it",
            got="one darker than the median of the map's faces",
            fix="write the map with its sign turned",
        )
    border = _border(density)
    noise = 1.4826 * float(np.median(np.abs(border - np.median(border))))
    floor = max(3 * noise, 1e-3 * float(density.max()))
    floor = max(floor, 0.25 * _level(density[density > floor]))
    labels, _ = ndimage.label(density > floor, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    own = (sizes >= 0.05 * sizes.max())[labels]  # smaller specks are noise
    own[labels == 0] = False
    if not own.any():
        raise file_error(file, "density map", expected="a particle above the noise of the map's faces", got="none")
    own = ndimage.binary_dilation(own, np.ones((3, 3, 3), bool), iterations=2)
    return np.where(own, np.maximum(density, 0), np.float32(0))
