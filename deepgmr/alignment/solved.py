"""From what is believed to poses, their covariances, and a word on every pair that was tried."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy

import numpy as np

from deepgmr.alignment.answer import Alignment, Link
from deepgmr.alignment.bonds import Bond
from deepgmr.alignment.fitting import fitted
from deepgmr.alignment.forest import inverse
from deepgmr.alignment.settings import AlignmentSettings
from deepgmr.alignment.settled import World
from deepgmr.pipeline.answer import Failure, Registration
from deepgmr.pipeline.precision import shifted
from deepgmr.pipeline.scan import Scan
from deepgmr.posegraph.graph import marginals


def solved(
    world: World,
    answers: Mapping[tuple[int, int], Registration | Failure],
    scans: list[Scan],
    order: list[int],
    settings: AlignmentSettings,
) -> Alignment:
    """The answer; `order` are the numbers that the scans have for whoever asked."""
    count = len(scans)
    poses, covariances = np.tile(np.eye(4), (count, 1, 1)), np.zeros((count, 6, 6))
    confidence, components = np.zeros(count), []
    for members in world.components:
        members = sorted(members, key=lambda inner: order[inner])  # the first is the frame
        edges = world.edges(members, settings)
        start = inverse(world.forest.poses[members[0]]) @ world.forest.poses[members]
        best = fitted(start, edges, settings)
        spread = marginals(best, edges, robust=settings.robust)
        anchor = scans[members[0]].origin
        for row, inner in enumerate(members):
            outer = order[inner]
            poses[outer], covariances[outer] = _uncentred(best[row], spread[row], anchor, scans[inner].origin)
            confidence[outer] = _confidence(world.path * world.trust, members, inner)
        poses[order[members[0]]] = np.eye(4)  # to the last digit
        components.append(tuple(order[inner] for inner in members))
    components.sort(key=lambda each: (-len(each), each))
    links = _links(world, answers, order)
    drawn = [copy(scan).level(scan.rung_for(settings.drawn), 1.0).points + scan.origin for scan in scans]
    sketches = tuple(drawn[order.index(outer)] for outer in range(count))
    return Alignment(poses, confidence, covariances, tuple(components), links, sketches)


def _confidence(path: np.ndarray, members: list[int], scan: int) -> float:
    """The share of the others that a scan is expected to lie right to."""
    others = [member for member in members if member != scan]
    return float(path[scan, others].mean()) if others else 0.0


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
    world: World, answers: Mapping[tuple[int, int], Registration | Failure], order: list[int]
) -> tuple[Link, ...]:
    numbers = {(bond.first, bond.second): number for number, bond in enumerate(world.bonds)}
    links = []
    for (first, second), answer in answers.items():
        if isinstance(answer, Failure):
            links.append(Link(order[first], order[second], None, None, 0.0, 0.0, False, answer.sentence))
            continue
        number = numbers[first, second]
        row = world.chosen.get(number)
        hypothesis = None if row is None else int(world.forest.table.hypothesis[row])
        motions = [answer.target_from_source, *(other.target_from_source for other in answer.alternatives)]
        links.append(
            Link(
                first=order[first],
                second=order[second],
                motion=motions[hypothesis or 0],
                covariance=answer.covariance,
                confidence=answer.confidence,
                probability=float(
                    world.probability[number] * (world.trust[first, second] if hypothesis is not None else 1.0)
                ),
                accepted=hypothesis is not None,
                why=_why(answer, hypothesis, world.path[first, second] > 0, world.bonds[number]),
            )
        )
    return tuple(sorted(links, key=lambda link: (link.first, link.second)))


def _why(answer: Registration, hypothesis: int | None, together: bool, bond: Bond) -> str:
    if hypothesis is not None:
        return "agrees with the rest" if hypothesis == 0 else f"its alternative {hypothesis} agrees with the rest"
    if not bond.odds.any():
        return answer.status.sentence
    return "contradicts the rest" if together else "too unsure to tie two parts"
