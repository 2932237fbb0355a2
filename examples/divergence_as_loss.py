"""A divergence as a training loss: eight round Gaussians are bent onto a spiral of points by gradient descent alone.

`kl_variational` is smooth and needs no correspondence of the components, so it can stand at the end of any network that
puts out a mixture; from the target to ours it leaves no part of the target uncovered. It is no bound and may fall below
zero, so `kl_stratified` says how far apart the two still are.
"""

from __future__ import annotations

import torch
from picture import SOURCE, TARGET, plt, wanted

from deepgmr import GaussianMixture, divergence

generator = torch.Generator().manual_seed(0)
turn = 3 * torch.pi * torch.rand(600, generator=generator).sqrt()
points = torch.stack([turn * turn.cos(), turn * turn.sin()], dim=-1) / 10
points += 0.02 * torch.randn(points.shape, generator=generator)
target = GaussianMixture.fit(points, 24).mixture  # of the points, by EM

logits = torch.zeros(8, requires_grad=True)
means = points[torch.randperm(600, generator=generator)[:8]].clone().requires_grad_()
factors = (0.2 * torch.eye(2)).repeat(8, 1, 1).requires_grad_()


def mixture() -> GaussianMixture:
    covariances = factors @ factors.mT + 1e-3 * torch.eye(2)
    return GaussianMixture(logits.softmax(-1), means, covariances)


before = mixture()
optimiser = torch.optim.Adam([logits, means, factors], lr=0.02)
losses = []
for _ in range(300):
    loss = divergence.kl_variational(target, mixture())
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    losses.append(loss.item())
after = mixture()

for name, model in (("before", before), ("after", after)):
    found = divergence.kl_stratified(target, model, generator=generator)
    print(f"{name}: KL(target || ours) = {found.value.item():.3f} +- {found.standard_error.item():.3f} nats")
print(f"variational estimate: {losses[0]:.3f} at first, {losses[-1]:.3f} at last")
assert losses[-1] < 0.5 * losses[0]

if path := wanted(__doc__):
    figure, axes = plt.subplots(1, 3, figsize=(12, 4))
    for panel, title, model in ((axes[0], "before", before), (axes[1], "after", after)):
        panel.scatter(*points.T, s=2, c=TARGET)
        for mean, covariance in zip(model.means.detach(), model.covariances.detach(), strict=True):
            values, vectors = torch.linalg.eigh(covariance)
            circle = torch.linspace(0, 2 * torch.pi, 60)
            ring = mean[:, None] + vectors @ (2 * values.sqrt()[:, None] * torch.stack([circle.cos(), circle.sin()]))
            panel.plot(*ring, c=SOURCE)
        panel.set(title=title, aspect="equal")
        panel.set_axis_off()
    axes[2].plot(losses, c=SOURCE)
    axes[2].set(title="variational KL", xlabel="step")
    figure.tight_layout()
    figure.savefig(path, dpi=72)
