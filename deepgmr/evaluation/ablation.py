"""What each part of `register` is worth, and what more training of its network buys.

Parts are left out by other settings or another bundle. Pairs are procedural and other than those of training and
calibration; right means right up to the symmetry of the shape.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepgmr import metrics
from deepgmr.datasets.pairs.kinds import Case, cases
from deepgmr.errors import InvalidConfig
from deepgmr.evaluation.results import Result, Watch, as_table, provenance
from deepgmr.io.checkpoint import load
from deepgmr.networks.overlap import OverlapNetwork
from deepgmr.pipeline.bundle import Bundle
from deepgmr.pipeline.rank import RANKED, Ranking, Terms
from deepgmr.pipeline.registrar import Registrar
from deepgmr.pipeline.settings import LookSettings
from deepgmr.plain import to_plain

STUDY = "ablation"
KINDS = ("resampled", "crop70", "crop50", "crop70 resampled", "crop50 resampled", "seen", "room", "street", "tabletop")
SEED = 7  # not calibration's


def parts(*, pairs: int = 40, kinds: Sequence[str] = KINDS, watch: Watch | None = None) -> Result:
    """`register` with one part left out at a time."""
    return compare(variants(Registrar.load()), pairs=pairs, kinds=kinds, watch=watch)


def curve(
    weights: Sequence[str | Path], *, pairs: int = 40, kinds: Sequence[str] = KINDS, watch: Watch | None = None
) -> Result:
    """Recall of the network alone against the pairs it was trained on, of weights that a training kept."""
    networks = sorted((network_of(path) for path in weights), key=pairs_seen)
    alone = {f"{pairs_seen(network):,} pairs": with_network(network) for network in networks}
    return compare({name: network_only(one) for name, one in alone.items()}, pairs=pairs, kinds=kinds, watch=watch)


def compare(
    registrars: Mapping[str, Registrar], *, pairs: int, kinds: Sequence[str] = KINDS, watch: Watch | None = None
) -> Result:
    """A row a registrar, over the same pairs: the share of right answers of each kind, and their mean."""
    watch = watch or Watch()
    known = list(cases(pairs, SEED, kinds=kinds))
    result: Result = {"study": STUDY, "provenance": provenance(pairs_a_kind=pairs, seed=SEED), "rows": []}
    for number, (name, registrar) in enumerate(registrars.items()):
        watch.progress(name, number / len(registrars))
        result["rows"].append({"variant": name} | _row(registrar, known))
        watch.keep(result)
    return result


def markdown(result: Result) -> str:
    """A row a variant, a column a kind."""
    return as_table(result["rows"], {"ms": ".0f"})


# -- variants ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ByInliers(Ranking):
    """The more components have a counterpart, the better, however they meet."""

    def plausibility(self, terms: Terms) -> Tensor:
        return 20 * (terms.source_overlap + terms.target_overlap)


def variants(registrar: Registrar) -> dict[str, Registrar]:
    """The registrar, and what is left of it without one of its parts."""
    bundle, settings = registrar.bundle, registrar.settings
    nothing = dict.fromkeys(RANKED, 0.0)

    def ranked(ranking: Ranking) -> Registrar:
        return Registrar(replace(bundle, ranking=ranking), settings)

    return {
        "all": registrar,
        "network only": network_only(registrar),
        "search only": registrar.replace(**{"search.looks": untrained(settings.search.looks)}),
        "all, ranked by the divergence alone": ranked(Ranking(nothing | {"score": bundle.ranking.weights["score"]})),
        "all, ranked by inliers": ranked(ByInliers(nothing)),
    }


def untrained(looks: Sequence[LookSettings]) -> list[Any]:
    """Looks, as settings are replaced by, with the search that needs no training in the network's place."""
    return [to_plain(replace(look, learned=False, patches=False, described=True)) for look in looks]


def network_only(registrar: Registrar) -> Registrar:
    """The first look alone."""
    return registrar.replace(**{"search.looks": [to_plain(registrar.settings.search.looks[0])]})


def with_network(network: OverlapNetwork, registrar: Registrar | None = None) -> Registrar:
    """The same with another network, ranking and confidence as they are."""
    registrar = registrar or Registrar.load()
    return Registrar(replace(registrar.bundle, network=network, id=""), registrar.settings)


def network_of(path: str | Path) -> OverlapNetwork:
    """An overlap network by name or path, or that of a bundle. Raises `InvalidConfig` for another kind."""
    if str(path) == "default":
        return Bundle.load().network
    network = load(path)
    if not isinstance(network, OverlapNetwork):
        raise InvalidConfig(f"{path} holds a {type(network).__name__}, not an overlap network")
    return network


def pairs_seen(network: OverlapNetwork) -> int:
    """Pairs that the training had seen, as the file says."""
    told = getattr(network, "provenance", None)
    return int(told.get("pairs", 0)) if isinstance(told, Mapping) else 0


# -- measuring ---------------------------------------------------------------------------------------------------


def _row(registrar: Registrar, known: Sequence[Case]) -> Result:
    right, confidence, times = [], [], []
    for case in known:
        start = time.perf_counter()
        answer = registrar.register(case.source, case.target, max_rotation_degrees=case.max_rotation_degrees)
        times.append(1e3 * (time.perf_counter() - start))
        confidence.append(answer.confidence)
        right.append(case.judge(answer.target_from_source))
    kinds = dict.fromkeys(case.kind for case in known)
    shares: Result = {
        kind: float(np.mean([found for found, case in zip(right, known, strict=True) if case.kind == kind]))
        for kind in kinds
    }
    sure = metrics.wrong_and_sure(torch.tensor(confidence, dtype=torch.float64), torch.tensor(right))
    mean = float(np.mean(list(shares.values())))
    return shares | {"mean": mean, "wrong and sure": float(sure), "ms": float(np.median(times))}
