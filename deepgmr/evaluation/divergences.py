"""The divergence module measured: the error and cost of each estimator, and speed and memory as ratios.

Ratios compare two ways of computing the same numbers, alternating in one run on one thread, by the CPU time of their
fastest repetitions, which neighbours on the machine disturb least. Memory is the peak of what is allocated, inputs aside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, kl_divergence

from deepgmr import divergence
from deepgmr.evaluation.results import Result, Watch, as_table, provenance
from deepgmr.mixture import GaussianMixture

STUDY = "divergences"
UNSCENTED = "unscented KL of mixtures"
PARTS = ("speed", "unscented", "accuracy")  # the second in a process of its own is not helped by what the first freed

ESTIMATORS: dict[str, Callable[[GaussianMixture, GaussianMixture], Tensor]] = {
    "kl_monte_carlo, 10,000 samples": lambda p, q: divergence.kl_monte_carlo(p, q, samples=10_000).value,
    "kl_stratified, 10,000 samples": lambda p, q: divergence.kl_stratified(p, q, samples=10_000).value,
    "kl_stratified, 1,000 samples": lambda p, q: divergence.kl_stratified(p, q, samples=1_000).value,
    "kl_unscented": divergence.kl_unscented,
    "kl_variational": divergence.kl_variational,
    "kl_durrieu": divergence.kl_durrieu,
    "kl_product": divergence.kl_product,
    "kl_matched_soft": divergence.kl_matched_soft,
    "kl_matched": divergence.kl_matched,
    "kl_vasconcelos": divergence.kl_vasconcelos,
    "kl_moment_matched": divergence.kl_moment_matched,
    "kl_variational_upper": divergence.kl_variational_upper,
    "kl_durrieu_upper": divergence.kl_durrieu_upper,
    "kl_durrieu_lower": divergence.kl_durrieu_lower,
    "middle of kl_interval": lambda p, q: torch.stack(divergence.kl_interval(p, q)).mean(0),
}


@dataclass(frozen=True)
class Sizes:
    """How large the problems are; `TOY` shows that everything runs."""

    rounds: int = 15
    pairwise: tuple[int, int] = (64, 64)  # batch, components
    unscented: tuple[int, int] = (256, 16)
    histograms: tuple[int, int, int] = (20_000, 128, 4)  # count, bins, rounds
    accuracy: tuple[int, int] = (40, 300_000)  # pairs a column, samples


FULL = Sizes()
TOY = Sizes(2, (8, 16), (8, 16), (500, 128, 2), (4, 3_000))


def measure(*, parts: Sequence[str] = PARTS, sizes: Sizes = FULL, watch: Watch | None = None) -> Result:
    """Some parts, or all."""
    watch = watch or Watch()
    result: Result = {"study": STUDY, "provenance": provenance(parts=list(parts)), "speed": []}
    if "speed" in parts:
        watch.progress("speed", 0.0)
        result["speed"] += pairwise(*sizes.pairwise, sizes.rounds) + histogram_matrix(*sizes.histograms)
    if "unscented" in parts:
        result["speed"] += unscented(*sizes.unscented, sizes.rounds)
    watch.keep(result)
    if "accuracy" in parts:
        watch.progress("accuracy", 0.5)
        result["accuracy"] = accuracy(*sizes.accuracy)
    return result


def markdown(result: Result) -> str:
    """A table of ratios, and one of errors."""
    return "\n\n".join(parts(result).values())


def parts(result: Result) -> dict[str, str]:
    """The tables one by one: `speed`, `unscented` and `accuracy`, those that were measured."""
    found = {part: [_told(row) for row in result["speed"] if _part(row) == part] for part in PARTS}
    tables = {part: as_table(rows) for part, rows in found.items() if rows}
    return tables | ({"accuracy": _accuracy(result["accuracy"])} if "accuracy" in result else {})


def _part(row: Result) -> str:
    return "unscented" if row["what"] == UNSCENTED else "speed"


def _accuracy(found: Result) -> str:
    rows = [{"estimator": "*median true KL*"} | {n: f"{v:.2f}" for n, v in found["truth"].items()}]
    for name, row in found["estimators"].items():
        errors = {n: f"{e:.2g} %" if e < 99.5 else f"{e:.0f} %" for n, e in row["percent"].items()}
        rows.append({"estimator": name} | errors | {n: f"{v:.2g}" for n, v in row["ms"].items()})
    own = ", ".join(f"{value:.1e}" for value in found["standard_error"].values())
    return (
        f"Median relative error against {found['samples']:,}-sample stratified Monte Carlo, over {found['pairs']} "
        "pairs a column.\nCost: milliseconds of one thread a pair, float32, in a batch.\n*random*: two independent "
        f"mixtures; *moved*: a mixture and itself with every parameter a little off.\n\n{as_table(rows)}\n\n"
        f"The truth's own standard error, relative, median of each column: {own}."
    )


def _told(row: Result) -> Result:
    ours, theirs = (
        None if row[k] is None else f"{float(f'{row[k]:.3g}'):,g} {row['unit']}" for k in ("ours", "theirs")
    )
    times = None if row["theirs"] is None else row["theirs"] / row["ours"]
    ratio = None if times is None else f"{times:.0f}x" if times >= 10 else f"{times:.2f}x"
    return {"what": row["what"], "size": row["size"], "against": row["against"], "ours": ours, "theirs": theirs} | {
        "theirs over ours": ratio
    }


def _row(what: str, size: str, against: str, ours: float, theirs: float | None, unit: str = "ms") -> Result:
    return {"what": what, "size": size, "against": against, "ours": ours, "theirs": theirs, "unit": unit}


# -- estimators --------------------------------------------------------------------------------------------------


def random_mixtures(batch: int, components: int, *, isotropic: bool, generator: torch.Generator) -> GaussianMixture:
    """Means standard normal; standard deviations uniform in [0.1, 0.5] along axes turned at random, for 16 components, and
    smaller with their cube root for more, as the components of a cloud are; uneven weights.
    """

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    weights = torch.softmax(0.5 * draw(batch, components), dim=-1)
    means = draw(batch, components, 3)
    if isotropic:
        size, axes = uniform(batch, components, 1).expand(-1, -1, 3), torch.eye(3, dtype=torch.float64)
    else:
        size, axes = uniform(batch, components, 3), torch.linalg.qr(draw(batch, components, 3, 3)).Q
    deviations = (0.1 + 0.4 * size) * (16 / components) ** (1 / 3)
    covariances = (axes * deviations.square().unsqueeze(-2)) @ axes.mT
    return GaussianMixture(weights, means, (covariances + covariances.mT) / 2)


def moved(p: GaussianMixture, generator: torch.Generator) -> GaussianMixture:
    """The same mixture with every parameter a little off, means by half a standard deviation: a small KL, a hard case."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    batch, components = p.weights.shape
    weights = torch.softmax(p.weights.log() + 0.2 * draw(batch, components), dim=-1)
    step = 0.5 * p.variances.sqrt().unsqueeze(-1) * draw(batch, components, 3)
    scale = torch.exp(0.2 * draw(batch, components, 1, 1))
    return GaussianMixture(weights, p.means + step, p.covariances * scale)


def _fastest(function: Callable[[], object], repetitions: int) -> float:
    """CPU seconds of the fastest of some repetitions."""
    times = []
    for _ in range(repetitions):
        start = time.thread_time()
        function()
        times.append(time.thread_time() - start)
    return min(times)


def _alternate(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float]:
    """CPU seconds of the fastest repetition of each, taking turns so that both meet the same machine."""
    ours(), theirs()
    pairs = [(_fastest(ours, 3), _fastest(theirs, 1)) for _ in range(rounds)]
    return min(a for a, _ in pairs), min(b for _, b in pairs)


def _peak_bytes(function: Callable[[], object]) -> int:
    """The most bytes alive at once among what the function allocates."""
    function()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = torch.tensor([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    return int(alive.cumsum(0).max())


# -- speed -----------------------------------------------------------------------------------------------------


def pairwise(batch: int, components: int, rounds: int) -> list[Result]:
    """The KL of every component to every other, against torch's own."""
    p = random_mixtures(batch, components, isotropic=False, generator=torch.Generator().manual_seed(1)).to(
        torch.float32
    )
    m, s = p.means, p.covariances

    def theirs() -> Tensor:
        one = MultivariateNormal(m[:, :, None], s[:, :, None], validate_args=False)
        return kl_divergence(one, MultivariateNormal(m[:, None], s[:, None], validate_args=False))

    def ours() -> Tensor:
        return divergence.kl_gaussian(m[:, :, None], s[:, :, None], m[:, None], s[:, None])

    assert torch.allclose(ours(), theirs(), rtol=1e-3, atol=1e-3)
    a, b = _alternate(ours, theirs, rounds)
    lean, fat = _peak_bytes(ours), _peak_bytes(theirs)
    size, against = f"B={batch}, J=K={components}, d=3", "torch's broadcast `kl_divergence`"
    return [
        _row("pairwise component KL", size, against, 1e3 * a, 1e3 * b),
        _row("its peak memory", size, against, lean / 1e6, fat / 1e6, "MB"),
    ]


def unscented(batch: int, components: int, rounds: int) -> list[Result]:
    """Against the same formula through torch's mixtures, points where torch puts samples, and where they are fastest."""
    generator = torch.Generator().manual_seed(2)
    p = random_mixtures(batch, components, isotropic=False, generator=generator).to(torch.float32)
    q = random_mixtures(batch, components, isotropic=False, generator=generator).to(torch.float32)

    def sigma_points() -> Tensor:
        values, vectors = torch.linalg.eigh(p.covariances)
        step = (3**0.5 * values.sqrt().unsqueeze(-2) * vectors).mT  # (B, J, 3, 3): a point a row
        return torch.cat([p.means.unsqueeze(-2) + step, p.means.unsqueeze(-2) - step], dim=-2)  # (B, J, 6, 3)

    def samples_first() -> Tensor:
        sides = [g.to_distribution() for g in (p, q)]
        x = sigma_points().movedim(0, 2).flatten(0, 1)  # (6 J, B, 3)
        ratio = (sides[0].log_prob(x) - sides[1].log_prob(x)).unflatten(0, (components, 6))
        return (p.weights * ratio.mean(1).T).sum(-1)

    def samples_inside() -> Tensor:
        sides = [
            MixtureSameFamily(
                Categorical(g.weights.unsqueeze(1)),
                MultivariateNormal(g.means.unsqueeze(1), g.covariances.unsqueeze(1)),
            )
            for g in (p, q)
        ]
        x = sigma_points().flatten(1, 2)  # (B, 6 J, 3)
        ratio = (sides[0].log_prob(x) - sides[1].log_prob(x)).unflatten(-1, (components, 6))
        return (p.weights * ratio.mean(-1)).sum(-1)

    size, rows = f"B={batch}, J={components}", []
    for theirs, how in ((samples_first, "samples first"), (samples_inside, "rearranged, the fastest we found")):
        assert torch.allclose(divergence.kl_unscented(p, q), theirs(), rtol=1e-3, atol=1e-3)
        a, b = _alternate(lambda: divergence.kl_unscented(p, q), theirs, rounds)
        rows.append(_row(UNSCENTED, size, f"`MixtureSameFamily.log_prob`, {how}", 1e3 * a, 1e3 * b))
    return rows


def histogram_matrix(count: int, bins: int, rounds: int) -> list[Result]:
    """The KL of every histogram to every other, against the bare matrix product."""
    generator = torch.Generator().manual_seed(3)
    p, q = (torch.rand(count, bins, generator=generator).add(1e-3) for _ in range(2))
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    a, b = _alternate(lambda: divergence.pairwise_kl_histograms(p, q), lambda: p @ q.T, rounds)
    beyond = _peak_bytes(lambda: divergence.pairwise_kl_histograms(p, q)) - 4 * count**2
    size, against = f"{count:,} x {count:,}, {bins} bins", "the bare matrix product"
    empty = q.clone()
    empty[:, 0] = 0
    empty = empty / empty.sum(-1, keepdim=True)
    c, d = _alternate(lambda: divergence.pairwise_kl_histograms(p, empty), lambda: p @ q.T, rounds)
    return [
        _row("matrix of histogram KL", size, against, 1e3 * a, 1e3 * b),
        _row("its memory beyond the output", size, "", beyond / 1e6, None, "MB"),
        _row("the same with empty bins in q", size, against, 1e3 * c, 1e3 * d),
    ]


# -- accuracy ----------------------------------------------------------------------------------------------------


def accuracy(batch: int, samples: int) -> Result:
    """Percent of error of every estimator on random mixtures and on moved ones, and its milliseconds a pair."""
    kinds = [(j, iso, near) for near in (False, True) for j in (16, 64) for iso in (True, False)]
    generator = torch.Generator().manual_seed(0)
    problems: dict[str, tuple[GaussianMixture, GaussianMixture, Tensor]] = {}
    own = {}
    for j, iso, near in kinds:
        name = f"{'moved' if near else 'random'}, J={j}, {'round' if iso else 'full'}"
        p = random_mixtures(batch, j, isotropic=iso, generator=generator)
        q = moved(p, generator) if near else random_mixtures(batch, j, isotropic=iso, generator=generator)
        truths = [divergence.kl_stratified(p[i], q[i], samples=samples, generator=generator) for i in range(batch)]
        problems[name] = p, q, torch.stack([t.value for t in truths])
        own[name] = float(torch.stack([t.standard_error / t.value for t in truths]).median())
    estimators: Result = {}
    for label, estimator in ESTIMATORS.items():
        percent = {
            name: 100 * float(((estimator(p, q) - truth).abs() / truth).median())
            for name, (p, q, truth) in problems.items()
        }
        cost = {}
        for j in (16, 64):
            sides = [m.to(torch.float32) for m in problems[f"moved, J={j}, full"][:2]]
            cost[f"ms, J={j}"] = 1e3 * _fastest(lambda e=estimator, s=sides: e(*s), 3) / batch  # type: ignore[misc]
        estimators[label] = {"percent": percent, "ms": cost}
    return {
        "pairs": batch,
        "samples": samples,
        "truth": {name: float(truth.median()) for name, (_, _, truth) in problems.items()},
        "standard_error": own,
        "estimators": estimators,
    }
