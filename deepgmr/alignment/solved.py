"""From what is believed to poses, their covariances, and a word on every pair that was tried."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from deepgmr.alignment.answer import Alignment, Link
from deepgmr.alignment.bonds import Bond
from deepgmr.alignment.settings import AlignmentSettings
from deepgmr.alignment.worlds import World, agreement
from deepgmr.pipeline.answer import Failure, Registration
from deepgmr.pipeline.precision import shifted
from deepgmr.pipeline.scan import Scan
from deepgmr.posegraph.graph import Edge, marginals, optimised


@dataclass(frozen=True, eq=False)
class Accepted:
    """Which bonds are right, in which hypothesis, and how probably."""

    chosen: dict[int, int]  # the hypothesis, by the number of the bond
    probability: np.ndarray  # (B,)
    counts: np.ndarray  # (V,) of the bonds of every scan


def accepted(world: World, bonds: list[Bond], size: float) -> Accepted:
    """The bonds that agree with where the forest puts the scans rather than not."""
    table, chosen, probability = world.forest.table, {}, np.zeros(len(bonds))
    support = np.log(table.odds) + np.minimum(agreement(world.forest, size), 50.0)
    for number, bond in enumerate(bonds):
        rows = np.flatnonzero(table.bond == number)
        ties = [row for row in rows.tolist() if row in world.probability]
        together = world.path[bond.first, bond.second]
        if not len(rows) or together == 0:
            continue
        best = ties[0] if ties else int(rows[support[rows].argmax()])
        share = 1 / (1 + math.exp(-float(support[best]))) if support[best] > -50 else 0.0
        if ties or share > 0.5:
            chosen[number] = int(table.hypothesis[best])
        probability[number] = world.probability[best] if ties else share * together
    ends = [end for number in chosen for end in (bonds[number].first, bonds[number].second)]
    return Accepted(chosen, probability, np.bincount(ends, minlength=table.count) if ends else np.zeros(table.count))


def solved(
    world: World,
    bonds: list[Bond],
    answers: Mapping[tuple[int, int], Registration | Failure],
    scans: list[Scan],
    order: list[int],
    size: float,
    settings: AlignmentSettings,
) -> Alignment:
    """The answer; `order` are the numbers that the scans have for whoever asked."""
    found, count = accepted(world, bonds, size), len(scans)
    poses, covariances = np.tile(np.eye(4), (count, 1, 1)), np.zeros((count, 6, 6))
    confidence, components = np.zeros(count), []
    centres = np.zeros((count, 3))
    for inner, outer in enumerate(order):
        centres[outer] = scans[inner].origin
    for members in world.components:
        members = sorted(members, key=lambda inner: order[inner])  # the first is the frame
        place = {inner: row for row, inner in enumerate(members)}
        edges = [
            _placed(bonds[number].edge(hypothesis), place)
            for number, hypothesis in found.chosen.items()
            if bonds[number].first in place
        ]
        start = np.linalg.inv(world.forest.poses[members[0]]) @ world.forest.poses[members]
        best = optimised(start, edges, rounds=settings.iterations, robust=settings.robust)
        spread = marginals(best, edges, robust=settings.robust)
        anchor = scans[members[0]].origin
        for row, inner in enumerate(members):
            outer = order[inner]
            poses[outer], covariances[outer] = _uncentred(best[row], spread[row], anchor, scans[inner].origin)
            confidence[outer] = _confidence(world.path, members, inner)
        components.append(tuple(order[inner] for inner in members))
    components.sort(key=lambda each: (-len(each), each))
    links = _links(found, bonds, answers, world, order, scans)
    return Alignment(poses, confidence, covariances, tuple(components), links, centres)


def _confidence(path: np.ndarray, members: list[int], scan: int) -> float:
    """That a scan lies right to the one that most is tied to; of that one, to the one tied to it best."""
    if len(members) < 2:
        return 0.0
    inside = path[np.ix_(members, members)]
    middle = members[int(inside.sum(axis=1).argmax())]
    return float(path[middle, scan]) if scan != middle else float(max(path[scan, m] for m in members if m != scan))


def _placed(edge: Edge, place: Mapping[int, int]) -> Edge:
    return Edge(place[edge.first], place[edge.second], edge.motion, edge.covariance, edge.loop)


def _uncentred(
    pose: np.ndarray, spread: np.ndarray, anchor: np.ndarray, origin: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A pose between frames about centres and its right covariance, as the input has them and left, about its origin."""
    rotation, moved = pose[:3, :3], pose.copy()
    moved[:3, 3] = pose[:3, 3] + anchor - rotation @ origin
    axes = np.kron(np.eye(2), rotation)
    about_centre = axes @ spread @ axes.T  # of (w, the centre's place): the centre lies at pose + anchor
    return moved, shifted(about_centre, -(pose[:3, 3] + anchor))


def _links(
    found: Accepted,
    bonds: list[Bond],
    answers: Mapping[tuple[int, int], Registration | Failure],
    world: World,
    order: list[int],
    scans: list[Scan],
) -> tuple[Link, ...]:
    numbers = {(bond.first, bond.second): number for number, bond in enumerate(bonds)}
    links = []
    for (first, second), answer in answers.items():
        if isinstance(answer, Failure):
            links.append(Link(order[first], order[second], None, None, 0.0, 0.0, False, answer.sentence))
            continue
        number = numbers[first, second]
        hypothesis = found.chosen.get(number)
        motions = [answer.target_from_source, *(other.target_from_source for other in answer.alternatives)]
        links.append(
            Link(
                first=order[first],
                second=order[second],
                motion=motions[hypothesis or 0],
                covariance=answer.covariance,
                confidence=answer.confidence,
                probability=float(found.probability[number]),
                accepted=hypothesis is not None,
                why=_why(answer, hypothesis, world.path[first, second], bonds[number]),
            )
        )
    return tuple(sorted(links, key=lambda link: (link.first, link.second)))


def _why(answer: Registration, hypothesis: int | None, together: float, bond: Bond) -> str:
    if hypothesis is not None:
        return "agrees with the rest" if hypothesis == 0 else f"its alternative {hypothesis} agrees with the rest"
    if not bond.odds.any():
        return answer.status.sentence
    return "contradicts the rest" if together > 0 else "too unsure to tie two parts"
