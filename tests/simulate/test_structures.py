# SPDX-License-Identifier: MIT
"""Structures as potential. The oracle adds up Gaussians in float64 from published numbers, and imports nothing."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

import cryoet_engine as ce
from cryoet_engine._checks import FileFormatError, InputError
from cryoet_engine.simulate.structures import Structure, euler_deg, random_rotation, read_structure
from cryoet_engine.volume import Volume

Array = npt.NDArray[np.float64]

# h^2 / (2 pi m e) in V Å^2, of CODATA's numbers.
VOLTS = 6.62607015e-34**2 / (2 * math.pi * 9.1093837015e-31 * 1.602176634e-19) * 1e20
# International Tables C, 4.3.2.2: carbon's f(s) = sum of a exp(-b s^2), in Å; hydrogen's and oxygen's f(0).
CARBON_A, CARBON_B = (0.0893, 0.2563, 0.7570, 1.0487, 0.3575), (0.2465, 1.7100, 6.4094, 18.6113, 50.2523)
HYDROGEN, OXYGEN = 0.5288, 1.9827
# Water molecules of 18.015 Da at 0.93 g/cm3, as isolated atoms.
ICE_V = VOLTS * (2 * HYDROGEN + OXYGEN) / (18.015 / 0.93 / 0.602214)
# A carbon atom of a protein, with its 0.99 hydrogens, above the ice that it displaces at 0.73 cm3/g, in V Å^3.
MASS = 12.011 + 0.99 * 1.008
CARBON_V = VOLTS * (sum(CARBON_A) + 0.99 * HYDROGEN) - ICE_V * MASS * 0.73 / 0.602214


def carbon(distance2: Array, blur_A: float) -> Array:
    """A carbon atom's potential above ice at squared distances (Å^2), blurred by a Gaussian."""
    density = np.zeros_like(distance2)
    for a, b in zip(CARBON_A, CARBON_B, strict=True):
        variance = b / (8 * math.pi**2) + blur_A**2
        density += a * np.exp(-distance2 / (2 * variance)) / (2 * math.pi * variance) ** 1.5
    return density * CARBON_V / sum(CARBON_A)


def oracle(atoms: Array, edge: int, *, spacing: float, blur_A: float) -> Array:
    """Potential of carbon atoms (n, 3) in Å from the middle of a cube."""
    axes = (np.arange(edge) - (edge - 1) / 2) * spacing
    grid = np.stack(np.meshgrid(axes, axes, axes, indexing="ij"))
    total = np.zeros((edge,) * 3)
    for atom in atoms:
        total += carbon(np.square(grid - atom[:, None, None, None]).sum(axis=0), blur_A)
    return total


def pdb_line(row: int, xyz: Array, *, name: str = "C1", residue: str = "UNK", chain: str = "A", **more: object) -> str:
    alternative, occupancy, element = more.get("alt", " "), more.get("occ", 1.0), more.get("element", "C")
    x, y, z = xyz
    number = more.get("number", row)
    return (
        f"HETATM{row:5d}  {name:<3s}{alternative}{residue:>3s} {chain}{number:4d}    "
        f"{x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{50.0:6.2f}          {element:>2s}  "
    )


def cluster(seed: int = 3, n: int = 120) -> Array:
    """Carbon atoms (n, 3) in (z, y, x), on three decimals: an ellipsoid with an arm, unlike its mirror images."""
    rng = np.random.default_rng(seed)
    body = rng.standard_normal((n, 3)) * (6.0, 9.0, 14.0)
    body[: n // 4] += (12.0, -20.0, 25.0)
    return np.round(body, 3)


def pdb(atoms: Array, **more: object) -> str:
    return "\n".join([pdb_line(i + 1, atom[::-1], **more) for i, atom in enumerate(atoms)] + ["END", ""])


def mmcif(atoms: Array, extra: str = "") -> str:
    columns = (
        "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_seq_id Cartn_x Cartn_y"
    )
    columns += " Cartn_z occupancy B_iso_or_equiv auth_asym_id auth_seq_id pdbx_PDB_model_num"
    head = "data_test\n" + extra + "loop_\n" + "\n".join(f"_atom_site.{column}" for column in columns.split()) + "\n"
    rows = [f"HETATM {i + 1} C C1 . UNK A . {x} {y} {z} 1 50 A {i + 1} 1" for i, (z, y, x) in enumerate(atoms)]
    return head + "\n".join(rows) + "\n"


def written(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Structure:
    """The cluster at voxels of 8 Å."""
    path = written(tmp_path_factory.mktemp("arm") / "arm.pdb", pdb(cluster()))
    return read_structure(path, voxel_size_A=8)


def integral(structure: Structure) -> float:
    return float(structure.fine.sum(dtype=np.float64)) * (structure.voxel_size_A / 2) ** 3


def centre_of_mass_vox(potential: npt.NDArray[np.float32]) -> Array:
    return np.array(ndimage.center_of_mass(potential.astype(np.float64))) - (np.array(potential.shape) - 1) / 2


@pytest.mark.parametrize("voxel", [4.0, 8.0, 13.0])
def test_potential_is_the_sum_of_scattering_factors(tmp_path: Path, voxel: float) -> None:
    atoms = cluster()
    got = read_structure(written(tmp_path / "arm.pdb", pdb(atoms + np.array((300, -500, 100)))), voxel_size_A=voxel)
    expected = oracle(atoms - atoms.mean(axis=0), got.fine.shape[0], spacing=voxel / 2, blur_A=voxel / 2)
    assert np.abs(got.fine - expected).max() < 1e-3 * expected.max()  # measured: 2e-4
    assert np.array_equal(got.potential, got.fine[::2, ::2, ::2])
    assert integral(got) == pytest.approx(len(atoms) * CARBON_V, rel=2e-4)  # measured: 5e-5
    # Half a voxel of blur leaves 0.7 % of what repeats from voxel to voxel; 120 atoms have some of it.
    assert got.potential.sum() * voxel**3 == pytest.approx(integral(got), rel=1e-2)  # measured: 5e-3
    assert np.abs(centre_of_mass_vox(got.potential)).max() < 0.02
    assert got.potential.shape[0] % 2 == 1
    assert np.sum(got.potential > got.threshold_V) > 10


def test_a_single_atom_is_in_the_middle(tmp_path: Path) -> None:
    atom = np.array([[12.345, -3.1, 7.7]])
    got = read_structure(written(tmp_path / "one.pdb", pdb(atom)), voxel_size_A=10)
    middle = (got.potential.shape[0] - 1) // 2
    assert np.unravel_index(np.argmax(got.potential), got.potential.shape) == (middle,) * 3
    assert got.potential[middle, middle, middle] == pytest.approx(carbon(np.zeros(()), 5.0), rel=1e-3)
    assert np.allclose(got.potential, got.potential.transpose(2, 0, 1), atol=1e-6 * got.potential.max())
    assert got.name == "one"
    assert got.centre_A == pytest.approx(atom[0])


def test_water_hydrogens_and_second_choices_are_left_out(tmp_path: Path) -> None:
    atoms = cluster(n=40)
    plain = read_structure(written(tmp_path / "plain.pdb", pdb(atoms)), voxel_size_A=8)
    lines = pdb(atoms).splitlines()[:-1]
    lines[7] = pdb_line(8, atoms[7][::-1], alt="B", occ=0.7)  # the likelier one comes second
    lines.insert(7, pdb_line(8, atoms[7][::-1] + 9, alt="A", occ=0.3, number=8))
    lines.append(pdb_line(90, (50, 0, 0), residue="HOH", name="O", element="O"))
    lines.insert(0, "AUTHOR    J.MÜLLER")
    lines.append(pdb_line(91, (0, 50, 0), name="H1", element="H"))
    models = ["MODEL        1", *lines, "ENDMDL", "MODEL        2", *lines, "ENDMDL", "END"]
    (tmp_path / "full.pdb").write_bytes("\n".join(models).encode("latin1"))
    got = read_structure(tmp_path / "full.pdb", voxel_size_A=8)
    assert np.array_equal(got.fine, plain.fine)


def test_nucleic_acid_displaces_less_ice(tmp_path: Path) -> None:
    atoms = cluster(n=40)
    protein = read_structure(written(tmp_path / "p.pdb", pdb(atoms, residue="ALA")), voxel_size_A=8)
    nucleic = read_structure(written(tmp_path / "n.pdb", pdb(atoms, residue="A")), voxel_size_A=8)
    mass = 12.011 + 0.55 * 1.008
    expected = VOLTS * (sum(CARBON_A) + 0.55 * HYDROGEN) - ICE_V * mass * 0.54 / 0.602214
    assert integral(protein) == pytest.approx(len(atoms) * CARBON_V, rel=2e-3)
    assert integral(nucleic) == pytest.approx(len(atoms) * expected, rel=2e-3)


def test_a_trace_stands_for_whole_residues(tmp_path: Path) -> None:
    trace = pdb(cluster(n=40), residue="ALA", name="CA")
    got = read_structure(written(tmp_path / "trace.pdb", trace), voxel_size_A=8)
    # Proteins are 8.0 V before ice is taken off, at 1.21 Å^3 for each of the 110.8 Da of an average residue.
    assert integral(got) == pytest.approx(40 * 110.8 * 1.212 * (8.03 - ICE_V), rel=0.02)


@pytest.mark.parametrize("name", ["same.cif", "same.mmcif.gz", "same.pdb.gz", "same.ent"])
def test_formats_hold_the_same_atoms(tmp_path: Path, arm: Structure, name: str) -> None:
    text = mmcif(cluster()) if "cif" in name else pdb(cluster())
    got = read_structure(written(tmp_path / name, text), voxel_size_A=8)
    assert np.allclose(got.fine, arm.fine, atol=1e-5)
    assert got.name == "same"


BIOMT = """\
REMARK 350 BIOMOLECULE: 1
REMARK 350 APPLY THE FOLLOWING TO CHAINS: A
REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000
REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000
REMARK 350   BIOMT1   2  1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   2  0.000000  1.000000  0.000000        0.00000
REMARK 350   BIOMT3   2  0.000000  0.000000  1.000000       90.00000
"""
CIF_ASSEMBLY = """\
_pdbx_struct_assembly.id 1
_pdbx_struct_assembly.details author_defined_assembly
_pdbx_struct_assembly.method_details ?
_pdbx_struct_assembly.oligomeric_details dimeric
_pdbx_struct_assembly.oligomeric_count 2
_pdbx_struct_assembly_gen.assembly_id 1
_pdbx_struct_assembly_gen.oper_expression 1,2
_pdbx_struct_assembly_gen.asym_id_list A
loop_
_pdbx_struct_oper_list.id
_pdbx_struct_oper_list.type
_pdbx_struct_oper_list.matrix[1][1]
_pdbx_struct_oper_list.matrix[1][2]
_pdbx_struct_oper_list.matrix[1][3]
_pdbx_struct_oper_list.vector[1]
_pdbx_struct_oper_list.matrix[2][1]
_pdbx_struct_oper_list.matrix[2][2]
_pdbx_struct_oper_list.matrix[2][3]
_pdbx_struct_oper_list.vector[2]
_pdbx_struct_oper_list.matrix[3][1]
_pdbx_struct_oper_list.matrix[3][2]
_pdbx_struct_oper_list.matrix[3][3]
_pdbx_struct_oper_list.vector[3]
1 identity 1 0 0 0 0 1 0 0 0 0 1 0
2 other 1 0 0 0 0 1 0 0 0 0 1 90
"""


@pytest.mark.parametrize("name", ["dimer.pdb", "dimer.cif"])
def test_the_biological_assembly_is_built(tmp_path: Path, arm: Structure, name: str) -> None:
    text = mmcif(cluster(), CIF_ASSEMBLY) if name.endswith("cif") else BIOMT + pdb(cluster())
    path = written(tmp_path / name, text)
    dimer = read_structure(path, voxel_size_A=8)
    assert integral(dimer) == pytest.approx(2 * integral(arm), rel=1e-3)
    middle = (dimer.potential.shape[0] - 1) // 2
    z = dimer.potential.sum(axis=(1, 2))  # 90 Å apart along z
    assert z[middle - 6 : middle - 4].min() > 2 * z[middle]
    assert np.allclose(read_structure(path, voxel_size_A=8, assembly=False).fine, arm.fine, atol=1e-5)


def padded(potential: npt.NDArray[np.float32], centre: tuple[int, int, int], edge: int) -> npt.NDArray[np.float32]:
    """A box in a cube whose middle voxel is the box's centre."""
    cube = np.zeros((edge,) * 3, np.float32)
    cube[tuple(slice(edge // 2 - c, edge // 2 - c + n) for c, n in zip(centre, potential.shape, strict=True))] = (
        potential
    )
    return cube


def test_no_rotation_changes_nothing(arm: Structure) -> None:
    edge = arm.potential.shape[0]
    turned = arm.rotated(np.eye(3))
    assert turned.potential.dtype == np.float32
    assert np.allclose(padded(turned.potential, turned.centre, edge), arm.potential, atol=0.01 * arm.threshold_V)
    assert np.array_equal(turned.mask, turned.potential > arm.threshold_V)
    assert turned.mask.sum() == (arm.potential > arm.threshold_V).sum()
    corners = np.argwhere(turned.mask) - turned.centre
    assert np.linalg.norm(corners, axis=1).max() * 8 <= arm.radius_A + 0.01
    assert min(turned.potential.shape) < edge - 3  # the box is tight


@pytest.mark.parametrize("plane", [(0, 1), (1, 2), (2, 0)])
def test_quarter_turns_are_those_of_numpy(arm: Structure, plane: tuple[int, int]) -> None:
    first, second = plane
    matrix = np.eye(3)
    matrix[plane, plane] = 0
    matrix[second, first], matrix[first, second] = 1, -1  # takes the first axis to the second
    turned = arm.rotated(matrix)
    expected = np.rot90(arm.potential, axes=plane)
    got = padded(turned.potential, turned.centre, expected.shape[0])
    assert np.allclose(got, expected, atol=0.01 * arm.threshold_V)


def test_turning_is_turning_the_atoms(arm: Structure) -> None:
    """Against the oracle with turned and shifted atoms, which a wrong axis order or a mirror image would fail."""
    atoms = cluster()
    rng = np.random.default_rng(5)
    rotation, offset = random_rotation(rng), rng.uniform(-0.5, 0.5, 3)
    turned = arm.rotated(rotation, offset_vox=offset)
    edge = arm.potential.shape[0]
    moved = (atoms - atoms.mean(axis=0)) @ rotation.T + offset * 8
    expected = oracle(moved, edge, spacing=8, blur_A=4)
    got = padded(turned.potential, turned.centre, edge)
    error = math.sqrt(np.mean(np.square(got - expected)) / np.mean(np.square(expected)))
    assert error < 0.015  # measured: 0.9 %
    assert got.sum() == pytest.approx(arm.potential.sum(), rel=5e-3)


def test_shift_moves_the_centre_of_mass(arm: Structure) -> None:
    turned = arm.rotated(np.eye(3), offset_vox=(0.25, -0.5, 0.4))
    shift = np.array(ndimage.center_of_mass(turned.potential)) - turned.centre
    assert np.allclose(shift, (0.25, -0.5, 0.4), atol=0.02)


def test_integral_and_mask_survive_any_rotation(arm: Structure) -> None:
    rng = np.random.default_rng(6)
    for _ in range(20):
        turned = arm.rotated(random_rotation(rng), offset_vox=rng.uniform(-0.5, 0.5, 3))
        assert turned.potential.sum() == pytest.approx(arm.potential.sum(), rel=5e-3)  # measured: 2e-3
        assert turned.mask.sum() * 8**3 == pytest.approx(np.sum(arm.fine > arm.threshold_V) * 4**3, rel=0.2)
        assert turned.potential.min() >= 0


@pytest.mark.parametrize("rotation", [np.eye(3)[::-1], 2 * np.eye(3), np.eye(2), np.full((3, 3), np.nan), "left"])
def test_what_is_no_rotation_is_refused(arm: Structure, rotation: object) -> None:
    with pytest.raises(InputError, match=r"Structure\.rotated: rotation: expected a \(3, 3\) matrix"):
        arm.rotated(rotation)
    with pytest.raises(InputError, match="euler_deg: rotation"):
        euler_deg(rotation)


def test_a_shift_of_voxels_is_refused(arm: Structure) -> None:
    with pytest.raises(InputError, match="offset_vox"):
        arm.rotated(np.eye(3), offset_vox=(3.0, 0.0, 0.0))


def test_random_rotations_are_uniform_and_stay_the_same() -> None:
    rng = np.random.default_rng(7)
    matrices = np.stack([random_rotation(rng) for _ in range(4000)])
    assert np.allclose(matrices @ matrices.transpose(0, 2, 1), np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(matrices), 1)
    assert np.abs(matrices.mean(axis=0)).max() < 0.04
    # Of a uniform rotation the angle's density is (1 - cos a) / pi: <cos a> = -1/2, and <cos 2a> = 0.
    cosine = (np.trace(matrices, axis1=1, axis2=2) - 1) / 2
    assert cosine.mean() == pytest.approx(-0.5, abs=0.03)
    assert (2 * cosine**2 - 1).mean() == pytest.approx(0, abs=0.05)
    w, x, y, z = np.random.default_rng(7).standard_normal(4)
    assert np.allclose(matrices[0], Rotation.from_quat((x, y, z, w)).as_matrix())


def relion_matrix(rot: float, tilt: float, psi: float) -> Array:
    """Euler_angles2matrix of RELION, written out: from the reference's (x, y, z) to the particle's."""
    (ca, cb, cg), (sa, sb, sg) = np.cos(np.radians((rot, tilt, psi))), np.sin(np.radians((rot, tilt, psi)))
    return np.array(
        [
            [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
            [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
            [sb * ca, sb * sa, cb],
        ]
    )


def test_euler_angles_are_those_of_relion() -> None:
    rng = np.random.default_rng(8)
    special = [np.eye(3), np.diag((1.0, -1.0, -1.0)), np.diag((-1.0, -1.0, 1.0)), np.diag((-1.0, 1.0, -1.0))]
    for matrix in [random_rotation(rng) for _ in range(50)] + special:
        angles = euler_deg(matrix)
        assert 0 <= angles[1] <= 180
        xyz = matrix[::-1, ::-1]
        assert np.allclose(relion_matrix(*angles), xyz, atol=1e-9)
        assert np.allclose(Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix(), xyz, atol=1e-9)
    # About the beam, which is z, by 30 degrees from x to y: a point on the x axis goes to (cos 30, sin 30).
    turned = np.array([[1, 0, 0], [0, math.cos(math.pi / 6), 0.5], [0, -0.5, math.cos(math.pi / 6)]])
    assert np.allclose(turned @ (0, 0, 1), (0, 0.5, math.cos(math.pi / 6)))
    assert euler_deg(turned) == pytest.approx((0, 0, -30))


def write_map(path: Path, density: npt.NDArray[np.float32], voxel: float | tuple[float, float, float]) -> Path:
    ce.write(path, Volume(density, voxel_size_A=voxel))
    return path


def ball(edge: int, radius: float, centre: Array | tuple[float, float, float]) -> npt.NDArray[np.float32]:
    offset = np.indices((edge,) * 3) - np.array(centre, float)[:, None, None, None]
    return (1 / (1 + np.exp(2 * (np.sqrt((offset**2).sum(axis=0)) - radius)))).astype(np.float32)


@pytest.mark.parametrize("name", ["ball.mrc", "ball.map.gz"])
def test_a_map_becomes_volts(tmp_path: Path, name: str) -> None:
    path = write_map(tmp_path / name, 40 - 7 + 11 * ball(40, 11.0, (17.0, 20.0, 23.0)), 6.0)
    got = read_structure(path, voxel_size_A=10)
    assert got.name == "ball"
    assert got.fine.min() == 0
    assert got.centre_A == pytest.approx(6.0 * (np.array((17.0, 20.0, 23.0)) - 20), abs=0.05)
    middle = (got.potential.shape[0] - 1) // 2
    assert 1.7 < got.potential[middle, middle, middle] < 2.2
    assert got.radius_A == pytest.approx(66, abs=5)
    assert integral(got) == pytest.approx(got.potential[middle, middle, middle] * 4 / 3 * math.pi * 66**3, rel=0.1)
    assert np.abs(centre_of_mass_vox(got.potential)).max() < 0.02
    assert got.potential[0].max() < 1e-3


def test_a_map_of_an_atomic_model_is_that_model(tmp_path: Path, arm: Structure) -> None:
    """Off its centre, with unequal voxels, other grey values, noise, a speck; at its own voxel size and a coarser."""
    rng = np.random.default_rng(9)
    density = np.pad(1000 * arm.fine, ((9, 4), (6, 6), (3, 8)))
    density[2:4, 2:4, 2:4] = density.max() / 2
    density += rng.normal(0, 5, density.shape).astype(np.float32) - 30
    path = write_map(tmp_path / "arm.mrc", density[:, :, ::2], (4.0, 4.0, 8.0))
    for voxel in (8, 16):
        model = read_structure(written(tmp_path / "arm.pdb", pdb(cluster())), voxel_size_A=voxel)
        got = read_structure(path, voxel_size_A=voxel)
        edge = min(model.potential.shape[0], got.potential.shape[0])
        cut = [
            one.potential[(slice((one.potential.shape[0] - edge) // 2, (one.potential.shape[0] + edge) // 2),) * 3]
            for one in (got, model)
        ]
        correlation = np.corrcoef(cut[0].ravel(), cut[1].ravel())[0, 1]
        assert correlation > 0.97


def test_nothing_aliases(tmp_path: Path) -> None:
    """A grating that the voxels cannot carry is gone, not turned into a coarser one."""
    smooth = ball(64, 20.0, (31.5, 31.5, 31.5))
    grating = smooth * (1 + 0.8 * np.cos(np.pi * 0.9 * np.arange(64, dtype=np.float32)))
    kept = [
        read_structure(write_map(tmp_path / f"{name}.mrc", one, 4.0), voxel_size_A=12)
        for name, one in (("smooth", smooth), ("grating", grating.astype(np.float32)))
    ]
    inside = [one.potential[tuple(slice(n // 2 - 3, n // 2 + 4) for n in one.potential.shape)] for one in kept]
    assert np.std(inside[1] / inside[1].mean()) < np.std(inside[0] / inside[0].mean()) + 0.01


def test_a_map_without_a_voxel_size_needs_one(tmp_path: Path) -> None:
    path = write_map(tmp_path / "ball.mrc", ball(24, 6.0, (12, 12, 12)), 1.0)
    with pytest.raises(FileFormatError, match=r"ball\.mrc: voxel size: expected .* give it as map_voxel_size_A"):
        read_structure(path, voxel_size_A=10)
    assert read_structure(path, voxel_size_A=10, map_voxel_size_A=8).radius_A == pytest.approx(48, abs=5)
    with pytest.raises(InputError, match="map_voxel_size_A"):
        read_structure(path, voxel_size_A=10, map_voxel_size_A=0)


NAN = ball(16, 4.0, (8, 8, 8)) * np.where(np.arange(16) == 5, np.float32(np.nan), np.float32(1))
LINE = pdb_line(1, (0, 0, 0))
BAD_TEXT = {
    "empty.pdb": ("", "empty.pdb: file: expected an atomic model, got an empty file"),
    "empty.cif": (" \n", "empty.cif: file: expected an atomic model, got an empty file"),
    "garbage.pdb": ("<html>not found</html>\n", "garbage.pdb: content: expected a PDB file with ATOM"),
    "garbage.cif": ("<html>not found</html>\n", "garbage.cif: content: expected an mmCIF file, got something else"),
    "header.pdb": ("HEADER    NOTHING\nEND\n", "header.pdb: content: expected a PDB file with ATOM"),
    "nothing.cif": ("data_x\n_a 1\n", "nothing.cif: atomic model: expected atoms, got none"),
    "water.pdb": (
        pdb_line(1, (0, 0, 0), residue="HOH", name="O", element="O"),
        "water.pdb: atomic model: expected atoms",
    ),
    "stars.pdb": (LINE[:30] + 24 * "*" + LINE[54:], "stars.pdb: coordinates in line 1: expected three numbers"),
    "short.pdb": (LINE[:40], "short.pdb: coordinates in line 1"),
    "nan.pdb": (LINE[:30] + 3 * "     nan" + LINE[54:], "nan.pdb: coordinates: expected finite numbers"),
    "unknown.cif": (mmcif(np.zeros((1, 3))).replace("0.0", "?"), "unknown.cif: coordinates: expected finite numbers"),
    "far.pdb": (pdb(np.array([[0, 0, 0], [0, 0, 2500.0]])), "far.pdb: extent: expected up to 2000 Å, got 0 x 0 x 2500"),
    "heap.pdb": (pdb(np.zeros((3000, 3))), "heap.pdb: coordinates: expected atoms that lie apart"),
    "cut.pdb.gz": (pdb(cluster()), "cut.pdb.gz: cannot be read"),
    "words.txt": ("hello", r"words.txt: name: expected an ending .* got \.txt"),
    "words": ("hello", "words: name: expected an ending .* got none"),
    "words.mrc": ("hello", "words.mrc: MRC header"),
    "empty.mrc": ("", "empty.mrc"),
}
BAD_MAPS = {
    "nan.mrc": (NAN, 5.0, "density map: expected finite numbers"),
    "flat.mrc": (np.full((16, 16, 16), 3.0, np.float32), 5.0, "density map: expected a particle, got the same value"),
    "thin.mrc": (np.ones((1, 64, 64), np.float32), 5.0, "density map: expected a volume of .* got 1 x 64 x 64"),
    "dark.mrc": (-ball(16, 4.0, (8, 8, 8)), 5.0, "density map: expected a particle brighter .* sign turned"),
    "huge.mrc": (ball(64, 20.0, (32, 32, 32)), 100.0, "extent: expected up to 2000 Å"),
}


@pytest.mark.parametrize("name", BAD_TEXT)
def test_bad_files_give_one_clear_error(tmp_path: Path, name: str) -> None:
    text, message = BAD_TEXT[name]
    path = written(tmp_path / name, text)
    if name.endswith(".gz"):
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FileFormatError, match=message):
        read_structure(path, voxel_size_A=10)


@pytest.mark.parametrize("name", BAD_MAPS)
def test_bad_maps_give_one_clear_error(tmp_path: Path, name: str) -> None:
    density, voxel, message = BAD_MAPS[name]
    with pytest.raises(FileFormatError, match=message):
        read_structure(write_map(tmp_path / name, density.astype(np.float32), voxel), voxel_size_A=10)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    written(tmp_path / "1bxn.pdb", pdb(cluster()))
    with pytest.raises(FileFormatError, match=r"expected an existing file, .* did you mean 1bxn\.pdb"):
        read_structure(tmp_path / "1bxm.pdb", voxel_size_A=10)


@pytest.mark.parametrize("voxel", [0, -10, math.nan, "ten", True, 1000])
def test_voxel_sizes_are_checked(tmp_path: Path, voxel: object) -> None:
    with pytest.raises(InputError, match="read_structure: voxel_size_A: expected a number from 1 to 100"):
        read_structure(tmp_path, voxel_size_A=voxel)


def test_too_many_voxels_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "long.pdb", pdb(np.array([[0, 0, 0], [0, 0, 1900.0]])))
    with pytest.raises(InputError, match=r"up to 257 voxels a side, got 2 Å and .* take a larger voxel size"):
        read_structure(path, voxel_size_A=2)


def extent_A(structure: Structure) -> Array:
    """Principal extents of the mask, largest first."""
    points = np.argwhere(structure.fine > structure.threshold_V) * structure.voxel_size_A / 2
    _, vectors = np.linalg.eigh(np.cov(points.T))
    return np.ptp(points @ vectors, axis=0)[::-1]


def test_the_spike_is_as_large_as_a_spike(test_data: Path) -> None:
    spike = read_structure(test_data / "structures/atoms/6vxx.pdb.gz", voxel_size_A=10)
    assert 150 < extent_A(spike)[0] < 200  # its ectodomain
    assert 2 < np.percentile(spike.potential[spike.potential > spike.threshold_V], 95) < 3.5


@pytest.mark.parametrize("name", ["1bxn", "3gl1", "3h84"])
def test_models_and_maps_of_one_complex_agree(test_data: Path, name: str) -> None:
    """SHREC's maps were made of the asymmetric units, in their own frame."""
    atoms = read_structure(test_data / f"structures/atoms/{name}.pdb.gz", voxel_size_A=10, assembly=False)
    density = read_structure(test_data / f"structures/density/{name}.mrc.gz", voxel_size_A=10)
    edge = max(atoms.potential.shape[0], density.potential.shape[0])
    cubes = [np.pad(one.potential, (edge - one.potential.shape[0]) // 2) for one in (atoms, density)]
    assert np.corrcoef(cubes[0].ravel(), cubes[1].ravel())[0, 1] > 0.95  # measured: 0.98 and more
    assert integral(density) == pytest.approx(integral(atoms), rel=0.25)


def test_half_a_complex_becomes_a_whole_one(test_data: Path) -> None:
    path = test_data / "structures/atoms/3h84.pdb.gz"
    half, whole = (read_structure(path, voxel_size_A=10, assembly=assembly) for assembly in (False, True))
    assert integral(whole) == pytest.approx(2 * integral(half), rel=1e-3)


def test_all_maps_become_volts(test_data: Path) -> None:
    paths = sorted((test_data / "structures/density").glob("*.mrc.gz"))
    assert len(paths) >= 21
    for path in paths:
        got = read_structure(path, voxel_size_A=20)
        assert 2 < got.potential.max() < 3.5, path
        assert 25 < got.radius_A < 200, path
        assert got.potential[0].max() < 0.05, path


@pytest.mark.parametrize("name", ["1s3x", "3cf3", "5gjv", "4v4r_30S"])
def test_models_become_volts(test_data: Path, name: str) -> None:
    """A small protein, a ring, a membrane protein with sugars and lipids, and half a ribosome."""
    path = test_data / f"structures/atoms/{name}.pdb.gz"
    got = read_structure(path, voxel_size_A=16, assembly=False)
    assert 2 < got.potential.max() < 4
    assert 25 < got.radius_A < 150
