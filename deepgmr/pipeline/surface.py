"""A cloud as the search sees it: a few hundred components, each a point with its normal and its neighbourhood.

Both clouds of a pair are reduced with one voxel size, so that neighbourhoods of equally many components are
neighbourhoods of equal size, whatever the two sensors' densities were. The components are the disks of a Gaussian
mixture: round in the tangent plane, thin along the normal (the covariances of generalised ICP, Segal et al. 2009).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import small_gicp
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from deepgmr.networks.patches import towards_hollow

COMPONENTS = (1024, 1500)  # clouds up to the first are used as they are; no cloud gets more than the second
_SHARE = 0.03  # in between, of the points beyond the first
_FEWEST = 32  # components of a reduced cloud
_NEIGHBOURS = 64  # of each component; the widest patch a descriptor looks at
_FOR_NORMALS = 16
_UNEVEN = 1.5  # ratio of spacings from which the denser cloud is thinned to the sparser


@dataclass(frozen=True, eq=False)
class Surface:
    """The components of one cloud, in the common frame of its pair."""

    points: Tensor  # (J, 3) float32
    normals: Tensor  # (J, 3) float32, unit, towards the hollow side of their neighbourhood
    neighbours: Tensor  # (J, K) int64, nearest first, without the component itself
    spacing: float  # median distance to the nearest other component
    tree: cKDTree  # of the points
    cloud: Any  # small_gicp.PointCloud with covariances
    cloud_tree: Any  # small_gicp.KdTree

    def __len__(self) -> int:
        return len(self.points)

    @classmethod
    def of(cls, points: np.ndarray) -> Surface:
        """The surface through points (J, 3) float64, every point a component. Needs at least three points."""
        cloud = small_gicp.PointCloud(points)
        cloud_tree = small_gicp.KdTree(cloud)
        small_gicp.estimate_normals_covariances(cloud, cloud_tree, min(_FOR_NORMALS, len(points)))
        tree = cKDTree(points)
        distances, neighbours = tree.query(points, min(_NEIGHBOURS + 1, len(points)))
        x = torch.from_numpy(points).float()
        index = torch.from_numpy(neighbours[:, 1:])
        normals = torch.from_numpy(np.array(cloud.normals()[:, :3])).float()
        return cls(
            x, towards_hollow(x, normals, index), index, float(np.median(distances[:, 1])), tree, cloud, cloud_tree
        )


def surfaces(source: np.ndarray, target: np.ndarray, *, components: int | None = None) -> tuple[Surface, Surface]:
    """The surfaces of a pair (N, 3), (M, 3) at one resolution.

    The larger has up to about `components`, by default what `COMPONENTS` says. Small clouds that are about equally
    dense are used as they are.
    """
    if components is None:
        fewest, most = COMPONENTS
        components = min(most, fewest + int(_SHARE * max(0, max(len(source), len(target)) - fewest)))
    voxel = max(_voxel(source, components), _voxel(target, components))
    if voxel == 0:
        pair = Surface.of(source), Surface.of(target)
        sparse, dense = sorted((surface.spacing for surface in pair), reverse=True)
        if sparse <= _UNEVEN * dense:
            return pair
    else:
        sparse, dense = sorted((spacing_of(points, cKDTree(points)) for points in (source, target)), reverse=True)
    if sparse > _UNEVEN * dense:
        voxel = max(voxel, sparse)
    return Surface.of(reduce(source, voxel)), Surface.of(reduce(target, voxel))


def reduce(points: np.ndarray, voxel: float) -> np.ndarray:
    """The mean of the points in every occupied voxel; deterministic.

    A cloud that all but vanishes in such voxels, because its partner is so much larger, gets voxels of its own.
    """
    for size in (voxel, _voxel(points, COMPONENTS[1])):
        if size:
            kept = small_gicp.voxelgrid_sampling(points, size).points()[:, :3]
            if len(kept) >= min(_FEWEST, len(points)):
                return np.array(kept)
    return points


def reduce_to(points: np.ndarray, count: int) -> np.ndarray:
    """About `count` points that cover the cloud evenly, or the cloud itself if it has no more."""
    voxel = _voxel(points, count)
    return reduce(points, voxel) if voxel else points


def _voxel(points: np.ndarray, count: int) -> float:
    """The voxel size that leaves about `count` points of a surface; 0 if there are no more than that."""
    if len(points) <= count:
        return 0.0
    size = float(np.ptp(points, axis=0).max()) / math.sqrt(count)
    for _ in range(6):
        ratio = small_gicp.voxelgrid_sampling(points, size).size() / count
        if 0.85 < ratio < 1.15:
            break
        size *= math.sqrt(ratio)
    return size


def spacing_of(points: np.ndarray, tree: cKDTree) -> float:
    """The median distance to the nearest other point, from a sample of at most two thousand of the tree's points."""
    sample = points[:: max(1, len(points) // 1000)]
    return float(np.median(tree.query(sample, 2)[0][:, 1]))
