"""A batch with a bad pair in it: `register` refuses a cloud that cannot be used, and the batch goes on.

An error knows which of the two clouds it is about (`role`). An answer that is not to be trusted is no error: its
`status` says so, and `trusted` is false.
"""

from __future__ import annotations

import numpy as np
import torch
from picture import SOURCE, TARGET, draw, moved, wanted

import deepgmr
from deepgmr.datasets.pairs.protocols import make_pairs
from deepgmr.datasets.worlds.shapes import sample_shapes

generator = torch.Generator().manual_seed(8)
made = make_pairs(sample_shapes(3, 2048, generator=generator)[0], "crop70_180", generator=generator)
pairs = [(made.source[i].numpy(), made.target[i].numpy()) for i in range(3)]
broken = pairs[1][1].copy()
broken[:5] = np.nan  # a sensor that saw nothing
line = np.linspace((0, 0, 0), (1, 2, 3), 500)  # it can be turned about itself
pairs += [(pairs[1][0], broken), (line, line + 1)]

answers: list[deepgmr.Registration | None] = []
for number, (source, target) in enumerate(pairs):
    try:
        answer = deepgmr.register(source, target)
    except deepgmr.errors.InvalidCloud as error:
        print(f"pair {number}: refused, the {error.role} cannot be used: {error}")
        answers.append(None)
        continue
    print(f"pair {number}: {answer.status.value}, confidence {answer.confidence:.3f}")
    answers.append(answer)

usable = [number for number, answer in enumerate(answers) if answer is not None and answer.trusted]
print(f"to act on: pairs {usable}")
assert answers[3] is None and 4 not in usable

if path := wanted(__doc__):
    panels = []
    for number, found in enumerate(answers):
        source, target = pairs[number]
        word = "refused" if found is None else found.status.value
        after = source if found is None else moved(source, found.target_from_source)
        target = target[np.isfinite(target).all(axis=1)]
        panels.append((f"pair {number}: {word}", [(after, SOURCE), (target, TARGET)]))
    draw(path, panels)
