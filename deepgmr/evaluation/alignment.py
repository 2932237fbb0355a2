"""Many scans into one frame beside Open3D's multiway registration, with its own pairs and with KISS-Matcher's.

The peers do not say which pairs to try: they get those that `deepgmr.align` tried. A pair counts as found, as in Open3D's
reconstruction system, where what meets is at least .3 of the smaller scan; its pose graph starts at the tree of the pairs
of which most meets, and may prune every edge. Scans are right in the frame, of whatever scan, in which most of them are.
Seconds are of the processor.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from scipy.spatial.transform import Rotation

from deepgmr.alignment import align
from deepgmr.alignment.forest import inverse
from deepgmr.datasets.suites.gathered import fragments_of, scans_of
from deepgmr.datasets.worlds.gatherings import Gathering, building, turntable
from deepgmr.errors import InvalidConfig
from deepgmr.evaluation.peers import Peer, PeerFailed, PeerProcess, check_installed, diagonal, open3d_cloud
from deepgmr.evaluation.results import Result, Watch, as_table, provenance
from deepgmr.evaluation.running import processor_seconds

STUDY = "alignment"
PEERS = {"Open3D: FPFH, RANSAC": "ransac", "Open3D: KISS-Matcher": "kiss"}
INPUTS = ("bunny", "turntable", "turntable-45", "redkitchen", "hotel1", "rooms", "alike", "building")
SCENES = {"redkitchen": "7-scenes-redkitchen", "hotel1": "sun3d-hotel_umd-maryland_hotel1"}
VOXEL = 0.02  # of the peers: a share of the diagonal of a scan
FOUND = 0.3  # share of the smaller scan that meets the other, from which a pair counts as found
PRUNED = 0.25  # Open3D's own threshold
SURE = 0.9


def gathered(name: str, shared: Path | None, seed: int) -> Gathering:
    """An input by name; `shared` holds the scans and 3DMatch. Raises `InvalidConfig` or `InvalidFile`."""
    rng = np.random.default_rng(seed)
    if name in ("bunny", *SCENES):
        if shared is None:
            raise InvalidConfig(f"{name} is read from a folder with scans/ and 3dmatch/; name it with --shared")
        return scans_of(shared / "scans", name) if name == "bunny" else fragments_of(shared / "3dmatch", SCENES[name])
    made = {
        "turntable": lambda: turntable(seed, 15, degrees=24.0, side=128),
        "turntable-45": lambda: turntable(seed, 8, degrees=45.0),
        "rooms": lambda: building(rng, 6),
        "alike": lambda: building(rng, 6, alike=1.0),
        "building": lambda: building(rng, 40, alike=0.5),
        "tiny": lambda: turntable(seed, 4, degrees=24.0),
    }
    if name not in made:
        raise InvalidConfig(f"there is no input {name}; there are {', '.join((*INPUTS, 'tiny'))}")
    return made[name]()


def measure(
    *,
    inputs: Sequence[str] = INPUTS,
    peers: Sequence[str] = tuple(PEERS),
    shared: Path | None = None,
    seed: int = 1,
    workers: int = 1,
    watch: Watch | None = None,
) -> Result:
    """A row an input and method."""
    watch = watch or Watch()
    for peer in peers:
        check_installed(PEERS[peer])
    given = provenance(inputs=list(inputs), seed=seed, workers=workers)
    result: Result = {"study": STUDY, "provenance": given, "rows": []}
    for number, name in enumerate(inputs):
        gathering = gathered(name, shared, seed)
        watch.progress(gathering.name, number / len(inputs))
        spent = processor_seconds()
        found = align(gathering.scans, workers=workers)
        row = judged(gathering, found.poses, found.component, found.confidence)
        result["rows"].append(
            _row(
                gathering, "deepgmr", row, processor_seconds() - spent, len(found.edges), wrong_edges(gathering, found)
            )
        )
        watch.keep(result)
        for peer in peers:
            watch.progress(f"{gathering.name}: {peer}", (number + 0.5) / len(inputs))
            pairs = [(edge.first, edge.second) for edge in found.edges]
            poses, part, seconds = multiway(gathering, PEERS[peer], pairs, seed)
            row = judged(gathering, poses, part, None)
            result["rows"].append(_row(gathering, peer, row, seconds, len(pairs), None))
            watch.keep(result)
    return result


def judged(gathering: Gathering, poses: np.ndarray, part: np.ndarray, confidence: np.ndarray | None) -> Result:
    """How many scans (N,) are right, how far those are off, how many lie wrong to others, and how many are sure of it."""
    middles = np.array([np.append(scan.mean(axis=0), 1.0) for scan in gathering.scans])
    best = np.zeros(len(poses), dtype=bool)
    wrong, degrees, off = best.copy(), np.zeros(len(poses)), np.zeros(len(poses))
    for number in np.unique(part):
        members = np.flatnonzero(part == number)
        most: tuple[Any, ...] = (-1,)
        for frame in members:
            true = inverse(gathering.poses[frame]) @ gathering.poses[members]
            here = inverse(poses[frame]) @ poses[members]
            turn = np.degrees(Rotation.from_matrix(true[:, :3, :3].swapaxes(1, 2) @ here[:, :3, :3]).magnitude())
            way = np.linalg.norm(((here - true) @ middles[members, :, None])[:, :3, 0], axis=1)
            right = (turn < gathering.degrees) & (way < gathering.distance)
            score = int(right.sum()), -float(turn[right].sum())
            if score > most[:2]:
                most = (*score, right, turn, way)
        _, _, right, degrees[members], off[members] = most
        wrong[members] = ~right
        if right.sum() > max(best.sum(), 1):
            best[:] = False
            best[members[right]] = True
    sure = None if confidence is None else int((wrong & (confidence > SURE)).sum())
    others = best.sum() - 1  # but the one that is the frame
    return {
        "right": float(best.mean()),
        "wrong": float(wrong.mean()),
        "wrong, sure": sure,
        "degrees": float(degrees[best].sum() / others) if others > 0 else None,
        "off": float(off[best].sum() / others) if others > 0 else None,
    }


def wrong_edges(gathering: Gathering, found: Any) -> int:
    """Accepted edges that are off by twice of what a scan may be."""
    count = 0
    for edge in found.edges:
        if edge.accepted:
            true = inverse(gathering.poses[edge.first]) @ gathering.poses[edge.second]
            turn = np.degrees(Rotation.from_matrix(true[:3, :3].T @ edge.motion[:3, :3]).magnitude())
            middle = np.append(gathering.scans[edge.second].mean(axis=0), 1.0)
            way = np.linalg.norm((true @ middle - edge.motion @ middle)[:3])
            count += bool(turn > 2 * gathering.degrees or way > 2 * gathering.distance)
    return count


def multiway(
    gathering: Gathering, peer: str, pairs: Sequence[tuple[int, int]], seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Poses (N, 4, 4), the part (N,) that each scan is in, and the seconds, of Open3D's multiway registration."""
    import open3d

    open3d.utility.set_verbosity_level(open3d.utility.VerbosityLevel.Error)
    module, count, start = open3d.pipelines.registration, len(gathering), time.process_time()
    voxel = VOXEL * float(np.median([diagonal(scan) for scan in gathering.scans]))
    clouds = [open3d_cloud(scan).voxel_down_sample(voxel) for scan in gathering.scans]
    edges, milliseconds, process = [], 0.0, PeerProcess(seed, 1)
    try:
        for first, second in pairs:
            try:
                motion, took = process.solve(Peer(peer, VOXEL), gathering.scans[second], gathering.scans[first])
            except PeerFailed:
                continue
            milliseconds += took
            information = module.get_information_matrix_from_point_clouds(
                clouds[second], clouds[first], 1.4 * voxel, motion
            )
            met = float(information[5, 5]) / min(len(clouds[first].points), len(clouds[second].points))
            if met >= FOUND:
                edges.append((first, second, motion, information, met))
    finally:
        process.close()
    graph = module.PoseGraph()
    for pose in _started(count, edges):
        graph.nodes.append(module.PoseGraphNode(pose))
    for first, second, motion, information, _ in edges:
        graph.edges.append(module.PoseGraphEdge(second, first, motion, information, uncertain=True))
    if edges:
        option = module.GlobalOptimizationOption(1.4 * voxel, PRUNED, 1.0, 0)
        module.global_optimization(
            graph,
            module.GlobalOptimizationLevenbergMarquardt(),
            module.GlobalOptimizationConvergenceCriteria(),
            option,
        )
    left = np.array([(edge.source_node_id, edge.target_node_id) for edge in graph.edges]).reshape(-1, 2)
    links = coo_array((np.ones(len(left)), (left[:, 0], left[:, 1])), shape=(count, count))
    poses = np.array([node.pose for node in graph.nodes])
    return poses, connected_components(links, directed=False)[1], time.process_time() - start + milliseconds / 1000


def _started(count: int, edges: list[Any]) -> np.ndarray:
    """(N, 4, 4) along the trees of the pairs of which most meets."""
    poses, motions = np.tile(np.eye(4), (count, 1, 1)), {}
    first, second, length = np.zeros(len(edges), int), np.zeros(len(edges), int), np.zeros(len(edges))
    for row, (a, b, motion, _, met) in enumerate(edges):
        first[row], second[row], length[row] = a, b, 1.1 - min(met, 1.0)
        motions[a, b], motions[b, a] = motion, inverse(motion)
    tree = minimum_spanning_tree(coo_array((length, (first, second)), shape=(count, count)))
    parts, part = connected_components(tree, directed=False)
    for number in range(parts):
        root = int(np.flatnonzero(part == number)[0])
        order, before = breadth_first_order(tree, root, directed=False)
        for scan in order[1:]:
            poses[scan] = poses[before[scan]] @ motions[int(before[scan]), int(scan)]
    return poses


def _row(gathering: Gathering, method: str, row: Result, seconds: float, pairs: int, wrong: int | None) -> Result:
    size = 2 * float(np.median([np.sqrt(scan.var(axis=0).sum()) for scan in gathering.scans]))
    off = row.pop("off")
    return {
        "input": gathering.name,
        "scans": len(gathering),
        "method": method,
        "pairs": pairs,
        **row,
        "off, % of size": None if off is None else 100 * off / size,
        "wrong pairs accepted": wrong,
        "seconds": seconds,
    }


def markdown(result: Result) -> str:
    """A row an input and method."""
    formats = {"degrees": ".2f", "off, % of size": ".2f", "seconds": ".0f"}
    return as_table(result["rows"], formats, form=".2f")
