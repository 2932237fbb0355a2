"""Measure the divergence module: an accuracy table with the cost of each estimator, and speed and memory as ratios.

    python scripts/benchmark_divergence.py            # prints markdown, a few minutes
    python scripts/benchmark_divergence.py --quick    # the same at toy sizes, to see that it runs

Ratios compare two ways of computing the same numbers, alternating in one run on one thread, by the CPU time of their fastest
repetitions, which neighbours on the machine disturb least. Memory is the peak of what is allocated, inputs aside.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, kl_divergence

from deepgmr import GaussianMixture, divergence

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


def fastest(function: Callable[[], object], repetitions: int) -> float:
    """CPU seconds of the fastest of some repetitions."""
    times = []
    for _ in range(repetitions):
        start = time.thread_time()
        function()
        times.append(time.thread_time() - start)
    return min(times)


def alternate(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float]:
    """CPU seconds of the fastest repetition of each, taking turns so that both meet the same machine."""
    ours(), theirs()
    pairs = [(fastest(ours, 3), fastest(theirs, 1)) for _ in range(rounds)]
    return min(a for a, _ in pairs), min(b for _, b in pairs)


def peak_bytes(function: Callable[[], object]) -> int:
    """The most bytes alive at once among what the function allocates."""
    function()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = torch.tensor([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    return int(alive.cumsum(0).max())


def accuracy(batch: int, samples: int) -> None:
    print(f"Median relative error against {samples:,}-sample stratified Monte Carlo, over {batch} pairs a column.")
    print("Cost: milliseconds of one thread a pair, float32, in a batch.")
    print("*random*: two independent mixtures; *moved*: a mixture and itself with every parameter a little off.\n")
    columns = [(j, iso, near) for near in (False, True) for j in (16, 64) for iso in (True, False)]
    names = [f"{'moved' if near else 'random'}, J={j}, {'round' if iso else 'full'}" for j, iso, near in columns]
    print("| estimator | " + " | ".join(names) + " | ms, J=16 | ms, J=64 |")
    print("|---|" + "--:|" * (len(columns) + 2))
    generator = torch.Generator().manual_seed(0)
    problems = {}
    for j, iso, near in columns:
        p = random_mixtures(batch, j, isotropic=iso, generator=generator)
        q = moved(p, generator) if near else random_mixtures(batch, j, isotropic=iso, generator=generator)
        truths = [divergence.kl_stratified(p[i], q[i], samples=samples, generator=generator) for i in range(batch)]
        problems[j, iso, near] = p, q, torch.stack([t.value for t in truths])
        error = torch.stack([t.standard_error / t.value for t in truths]).median()
        names.append(f"{error:.1e}")
    medians = [f"{truth.median():.2f}" for _, _, truth in problems.values()]
    print("| *median true KL* | " + " | ".join(medians) + " | | |")
    for name, estimator in ESTIMATORS.items():
        cells = []
        for p, q, truth in problems.values():
            percent = 100 * ((estimator(p, q) - truth).abs() / truth).median().item()
            cells.append(f"{percent:.2g} %" if percent < 99.5 else f"{percent:.0f} %")
        for j in (16, 64):
            sides = [m.to(torch.float32) for m in problems[j, False, True][:2]]
            cells.append(f"{1e3 * fastest(lambda e=estimator, s=sides: e(*s), 3) / batch:.2g}")  # type: ignore[misc]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(
        "\nThe truth's own standard error, relative, median of each column: " + ", ".join(names[len(columns) :]) + ".\n"
    )


def pairwise(batch: int, components: int, rounds: int) -> None:
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
    a, b = alternate(ours, theirs, rounds)
    lean, fat = peak_bytes(ours), peak_bytes(theirs)
    row("pairwise component KL", f"B={batch}, J=K={components}, d=3", "torch's broadcast `kl_divergence`", a, b)
    print(
        f"| &nbsp;&nbsp;its peak memory | | the same | {lean / 1e6:.2f} MB | {fat / 1e6:.2f} MB | {fat / lean:.1f}x leaner |"
    )


def unscented(batch: int, components: int, rounds: int) -> None:
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

    size = f"B={batch}, J={components}"
    for theirs, how in ((samples_first, "samples first"), (samples_inside, "rearranged, the fastest we found")):
        assert torch.allclose(divergence.kl_unscented(p, q), theirs(), rtol=1e-3, atol=1e-3)
        a, b = alternate(lambda: divergence.kl_unscented(p, q), theirs, rounds)
        row("unscented KL of mixtures", size, f"`MixtureSameFamily.log_prob`, {how}", a, b)


def histogram_matrix(count: int, bins: int, rounds: int) -> None:
    generator = torch.Generator().manual_seed(3)
    p, q = (torch.rand(count, bins, generator=generator).add(1e-3) for _ in range(2))
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    a, b = alternate(lambda: divergence.pairwise_kl_histograms(p, q), lambda: p @ q.T, rounds)
    beyond = peak_bytes(lambda: divergence.pairwise_kl_histograms(p, q)) - 4 * count**2
    size = f"{count:,} x {count:,}, {bins} bins"
    print(
        f"| matrix of histogram KL | {size} | the bare matrix product | {a:.2f} s | {b:.2f} s | {a / b:.2f}x its time |"
    )
    print(f"| &nbsp;&nbsp;memory beyond its output | | | {beyond / 1e6:.0f} MB | | |")
    empty = q.clone()
    empty[:, 0] = 0
    empty = empty / empty.sum(-1, keepdim=True)
    a, b = alternate(lambda: divergence.pairwise_kl_histograms(p, empty), lambda: p @ q.T, rounds)
    print(f"| &nbsp;&nbsp;with empty bins in q | | the same | {a:.2f} s | {b:.2f} s | {a / b:.2f}x its time |")


def row(name: str, size: str, against: str, ours: float, theirs: float) -> None:
    print(
        f"| {name} | {size} | {against} | {1e3 * ours:.2f} ms | {1e3 * theirs:.1f} ms | {theirs / ours:.0f}x faster |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="toy sizes, to see that it runs")
    parser.add_argument("--only", choices=["speed", "unscented", "accuracy"], help="one part")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quick = options.quick
    print(f"torch {torch.__version__}, one thread, {platform.machine()}\n")
    if options.only != "accuracy":
        print("| what | size | against | ours | theirs | ratio |")
        print("|---|---|---|--:|--:|--:|")
        rounds = 2 if quick else 15
        if options.only != "unscented":
            pairwise(8 if quick else 64, 16 if quick else 64, rounds)
            histogram_matrix(500 if quick else 20_000, 128, 2 if quick else 4)
        unscented(8 if quick else 256, 16, rounds)
        print()
    if options.only in (None, "accuracy"):
        accuracy(4 if quick else 40, 3_000 if quick else 300_000)


if __name__ == "__main__":
    main()
