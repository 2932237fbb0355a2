"""Splats: scenes of 3-D Gaussians as their training writes them, in a PLY (Kerbl et al., SIGGRAPH 2023).

Each vertex is a Gaussian: its mean in x, y, z; the logarithms of its standard deviations in scale_0.., along axes that
the quaternion rot_0.. (w, x, y, z, of any length) turns; the logit of its opacity; and its colour as seen from any
direction, in real spherical harmonics of up to the third degree: f_dc_0.. the constant, f_rest_0.. the rest, those of red
before those of green and of blue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepgmr.errors import InvalidCloud, InvalidMixture

if TYPE_CHECKING:
    from deepgmr.mixture.gaussian_mixture import GaussianMixture

BLOCK = 1 << 16  # components turned together
SCALES = ("scale_0", "scale_1", "scale_2")
TURN = ("rot_0", "rot_1", "rot_2", "rot_3")
SHAPE = frozenset((*SCALES, *TURN, "opacity"))  # what makes a mixture of points
REST = "f_rest_"
DEGREES = {0: 0, 9: 1, 24: 2, 45: 3}  # by the number of coefficients f_rest_


def is_splat(properties: dict[str, np.ndarray]) -> bool:
    """Whether points with these properties are the means of Gaussians of known shape and opacity."""
    return all(name in properties and properties[name].ndim == 1 for name in SHAPE)


def components(properties: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The opacities (J,) in [0, 1] and the covariances (J, 3, 3), float64, of a splat.

    A logit beyond what exp holds is an opacity of zero or one; a quaternion of length zero makes a covariance of NaN.
    """
    with np.errstate(all="ignore"):
        opacities = 1 / (1 + np.exp(-_columns(properties, ("opacity",))[:, 0]))
        turned = rotations(_columns(properties, TURN)) * np.exp(_columns(properties, SCALES))[:, None, :]
        return opacities, turned @ turned.transpose(0, 2, 1)


def mixture_of(means: np.ndarray, properties: dict[str, np.ndarray]) -> GaussianMixture:
    """A splat as the mixture it is: weights in proportion to the opacities, float64.

    Raises `InvalidMixture` for points that are no splat, numbers that are not finite, and where all is transparent.
    """
    import torch  # here: it takes long to import, and most files are clouds

    from deepgmr.mixture.gaussian_mixture import GaussianMixture

    if not is_splat(properties):
        found = ", ".join(properties) or "none"
        raise InvalidMixture(f"a splat has the properties {', '.join(sorted(SHAPE))}; the cloud's are: {found}")
    opacities, covariances = components(properties)
    bad = ~(np.isfinite(means).all(axis=1) & np.isfinite(covariances).all(axis=(1, 2)) & np.isfinite(opacities))
    if bad.any():
        raise InvalidMixture(
            f"{int(bad.sum()):,} of {len(bad):,} components of the splat are not finite; leave them out"
        )
    if not opacities.sum() > 0:
        raise InvalidMixture(f"all {len(bad):,} components of the splat are transparent; there is nothing to see")
    return GaussianMixture(*map(torch.from_numpy, (opacities / opacities.sum(), means, covariances)))


def turned(properties: dict[str, np.ndarray], rotation: np.ndarray, scale: float = 1.0) -> dict[str, np.ndarray]:
    """The properties of a cloud after a rotation (3, 3): quaternions and spherical harmonics turn, all else stays.

    Deviations grow by `scale`.

    Raises `InvalidCloud` for harmonics beyond the third degree.
    """
    result = dict(properties)
    if all(name in properties and properties[name].ndim == 1 for name in (*TURN, *SCALES[:2])):
        _turn(result, TURN, _left_product(rotation))
        if scale != 1:
            flat = [name for name in SCALES if name in properties]  # of surfels there are two
            result |= {name: (properties[name] + np.log(scale)).astype(properties[name].dtype) for name in flat}
        names = tuple(f"{REST}{i}" for i in range(sum(name.startswith(REST) for name in properties)))
        if len(names) not in DEGREES or any(name not in properties for name in names):
            raise InvalidCloud(
                f"the splat has {len(names)} coefficients {REST}, and spherical harmonics of degree 1, 2 and 3 have 9, 24 "
                "and 45; it cannot be turned"
            )
        if names:  # the harmonics from degree 1 of each of three colours
            turning = harmonics_rotation(rotation, DEGREES[len(names)])[1:, 1:]
            _turn(result, names, np.kron(np.eye(3), turning))
    return result


def rotations(quaternions: np.ndarray) -> np.ndarray:
    """The rotation matrices (J, 3, 3) of quaternions (J, 4), w first, of any length but zero."""
    w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(rows).transpose(2, 0, 1)


def harmonics(directions: np.ndarray, degree: int) -> np.ndarray:
    """Real spherical harmonics (K, (degree + 1)^2) of unit directions (K, 3), with the signs and the order of splats.

    Degree 0 to 3, order -l to l; with the Condon-Shortley phase (Sloan, "Stupid Spherical Harmonics Tricks", 2008).
    """
    x, y, z = directions.T
    a, b = np.sqrt(3 / (4 * np.pi)), np.sqrt(15 / (4 * np.pi))
    c, d, e = (np.sqrt(n / (32 * np.pi)) for n in (35, 210, 21))
    found = [np.full_like(x, np.sqrt(1 / (4 * np.pi)))]
    found += [-a * y, a * z, -a * x]
    found += [b * x * y, -b * y * z, b / np.sqrt(12) * (3 * z * z - 1), -b * x * z, b / 2 * (x * x - y * y)]
    found += [-c * y * (3 * x * x - y * y), 2 * d * x * y * z, -e * y * (5 * z * z - 1)]
    found += [np.sqrt(7 / (16 * np.pi)) * z * (5 * z * z - 3), -e * x * (5 * z * z - 1), d * z * (x * x - y * y)]
    found += [-c * x * (x * x - 3 * y * y)]
    return np.stack(found[: (degree + 1) ** 2], axis=1)


def harmonics_rotation(rotation: np.ndarray, degree: int) -> np.ndarray:
    """The matrix (n, n) that turns coefficients: f(d) before is f(rotation @ d) after, for every direction d.

    Each degree turns within itself, so the matrix follows from the values in a few directions, exactly: these are those
    of Fibonacci's lattice, many times more than unknowns.
    """
    count = 8 * (degree + 1) ** 2
    height = 1 - (2 * np.arange(count) + 1) / count
    angle = np.pi * (1 + 5**0.5) * np.arange(count)
    flat = np.sqrt(1 - height**2)
    directions = np.stack([flat * np.cos(angle), flat * np.sin(angle), height], axis=1)
    before, after = harmonics(directions, degree), harmonics(directions @ rotation.T, degree)
    whole = np.zeros((before.shape[1], before.shape[1]))
    for band in range(degree + 1):
        own = slice(band**2, (band + 1) ** 2)
        whole[own, own] = np.linalg.lstsq(before[:, own], after[:, own], rcond=None)[0].T
    return whole


def _columns(properties: dict[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    return np.stack([properties[name] for name in names], axis=1).astype(np.float64)


def _turn(properties: dict[str, np.ndarray], names: tuple[str, ...], matrix: np.ndarray) -> None:
    """Replace so many columns by a matrix times them, in their types."""
    before = [properties[name] for name in names]
    for name in names:
        properties[name] = np.empty_like(properties[name])
    for start in range(0, len(before[0]), BLOCK):
        rows = slice(start, start + BLOCK)
        after = matrix @ np.stack([column[rows] for column in before]).astype(np.float64)
        for name, values in zip(names, after, strict=True):
            properties[name][rows] = values


def _left_product(rotation: np.ndarray) -> np.ndarray:
    """The matrix (4, 4) by which quaternions (w, x, y, z) become those turned by a rotation after them."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
