"""What the network is worth: the same pairs registered with it and without, and how many only one of them got right.

Without it the searches that need no training take its place in every look, and the ranking is deaf to its terms. Pairs are
procedural, of the kinds that are hard, and other than those of training and calibration.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

from scipy.stats import binomtest

from deepgmr.datasets.pairs.kinds import Case, cases
from deepgmr.evaluation.ablation import untrained
from deepgmr.evaluation.results import Result, Watch, as_table, provenance
from deepgmr.pipeline.rank import Ranking
from deepgmr.pipeline.registrar import Registrar

STUDY = "paired"
KINDS = ("recrop70", "recrop50", "crop70 resampled", "crop50 resampled", "crop50", "seen", "thin", "outliers")
SEED = 23  # not calibration's
OF_THE_NETWORK = ("matched",)


def measure(*, pairs: int = 250, kinds: Sequence[str] = KINDS, seed: int = SEED, watch: Watch | None = None) -> Result:
    """A row a kind, and one of all: shares of right answers, discordant pairs and McNemar's exact p, medians of time."""
    watch, registrar = watch or Watch(), Registrar.load()
    both = registrar, without_network(registrar)
    result: Result = {"study": STUDY, "provenance": provenance(pairs_a_kind=pairs, seed=seed), "rows": []}
    found: list[tuple[tuple[bool, float], ...]] = []
    for number, kind in enumerate(kinds):
        watch.progress(kind, number / len(kinds))
        rows = [tuple(_answered(each, case) for each in both) for case in cases(pairs, seed, kinds=[kind])]
        found += rows
        result["rows"].append(_row(kind, rows))
        watch.keep(result)
    result["rows"].append(_row("all", found))
    return result


def without_network(registrar: Registrar) -> Registrar:
    """The same registrar with searches that need no training in the network's place, and deaf to its terms."""
    search = registrar.settings.search
    looks = {"search.looks": untrained(search.looks), "search.detailed": untrained(search.detailed)}
    bundle, silent = registrar.bundle, dict.fromkeys(OF_THE_NETWORK, 0.0)
    ranking, detailed = (Ranking({**one.weights, **silent}) for one in (bundle.ranking, bundle.detailed_ranking))
    deaf = replace(bundle, ranking=ranking, detailed_ranking=detailed, id="")
    return Registrar(deaf, registrar.settings.replace(**looks))


def markdown(result: Result) -> str:
    """A row a kind."""
    return as_table(result["rows"], {"p": ".1e", "ms with": ".0f", "ms without": ".0f"})


def _answered(registrar: Registrar, case: Case) -> tuple[bool, float]:
    start = time.process_time()
    answer = registrar.register(case.source, case.target, max_rotation_degrees=case.max_rotation_degrees)
    return case.judge(answer.target_from_source), 1e3 * (time.process_time() - start)


def _row(kind: str, rows: Sequence[tuple[tuple[bool, float], ...]]) -> Result:
    won, lost = (sum(one[0] and not other[0] for one, other in pairs) for pairs in (rows, [row[::-1] for row in rows]))
    with_it, without = (statistics.fmean(row[i][0] for row in rows) for i in (0, 1))
    return {
        "kind": kind,
        "pairs": len(rows),
        "with": with_it,
        "without": without,
        "won": won,
        "lost": lost,
        "p": float(binomtest(won, won + lost).pvalue) if won + lost else 1.0,
        "ms with": statistics.median(row[0][1] for row in rows),
        "ms without": statistics.median(row[1][1] for row in rows),
    }
