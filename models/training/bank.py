"""What the heads read of the latest windows: with it the terms on all codes together see more codes than a batch has.

Kept is not the code but what it is made of, and the heads read it anew at each step. So every code is of the network as
it is, for what lies before the heads stays as long as there is a bank (`models.training.settled`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.training.objective import Codes


@dataclass(frozen=True, slots=True)
class Bank:
    """Rows of the latest windows, the newest last.

    Attributes:
        read: what the heads read of each view, (m, views, …).
        epsilon: what z was drawn with, (m, latents).
        group: as in `models.training.objective.LossInputs`, (m, 1).
    """

    read: Tensor
    epsilon: Tensor
    group: Tensor

    def views(self) -> Tensor:
        """Return what the heads are to read again: (m · views, …)."""
        return self.read.flatten(0, 1)

    def codes(self, mu: Tensor, logvar: Tensor) -> Codes:
        """Return the codes that the heads made of `views`, (m · views, latents) each."""
        m, views = self.read.shape[:2]
        mu, logvar = (head.reshape(m, views, -1) for head in (mu, logvar))
        z = mu[:, 0] + torch.exp(0.5 * logvar[:, 0]) * self.epsilon
        return Codes(mu[:, 0], mu[:, 1] if views > 1 else mu.new_zeros(m, 0), z, self.group)

    def with_newest(self, newest: Bank, most: int) -> Bank:
        """Return a bank of at most so many rows that ends with these."""
        pairs = zip(self.tensors().values(), newest.tensors().values(), strict=True)
        return Bank(*(torch.cat(pair)[-most:] for pair in pairs))

    def tensors(self) -> dict[str, Tensor]:
        """Return every field by name, for a checkpoint."""
        return {"read": self.read, "epsilon": self.epsilon, "group": self.group}


def bank_of(read: Tensor, epsilon: Tensor, group: Tensor) -> Bank:
    """Return the rows of a batch of n windows: what the heads read of its views (views · n, …), without gradient."""
    n = len(epsilon)
    rows = read.detach().float().reshape(-1, n, *read.shape[1:]).transpose(0, 1)
    return Bank(rows, epsilon.reshape(n, -1), group)


def bank_from(tensors: dict[str, Tensor]) -> Bank | None:
    """Return the bank that a checkpoint holds; None where it holds none."""
    return Bank(**tensors) if tensors else None
