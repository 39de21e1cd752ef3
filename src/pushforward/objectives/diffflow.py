"""Diffusion with a forward process that is trained too: DiffFlow.

In noise time s = 1 - t both processes have one drift F and one noise level g, and the backward one a score besides:

    forward     dy = F(y) ds + g dw                    data -> noise
    backward    dy = [F(y) - g^2 score(y)] ds + g dw   noise -> data

On a grid 1 = t_0 > t_1 > ... > t_N = 0, with F of the process of a Gaussian path and a network on top of it:

    y_{k+1} = a_k y_k     + h_k drift(y_k, t_k)                                             + sqrt(v_k) z_k
    y_k     = (2 - a_k) y_{k+1} - h_k drift(y_{k+1}, t_{k+1}) + v_k score(y_{k+1}, t_{k+1}) + sqrt(v_k) delta_k

h_k = t_k - t_{k+1};  a_k = alpha_{k+1}/alpha_k and v_k = sigma_{k+1}^2 - a_k^2 sigma_k^2 are those of the path's own
noising process, without an error in the step, sigma_0 being 0 at the data. Without the network the states have the
path's marginals. What the two processes give a path of states has the relative entropy

    E_q ln q(y_0 ... y_N)/p(y_0 ... y_N) = E[ln q(y_0)] + E[-ln p(y_N) + 1/2 sum_k (|delta_k|^2 - |z_k|^2)]

and the second mean is a bound on -ln p(x) at the data.

Zhang & Chen 2021 (arXiv 2110.07579), sec. 3. There g_i scatters the forward step and g_{i+1} the backward one; here
both have the variance that the path adds in between, so that no ln(g_{i+1}/g_i) is left in the bound, and the last
step to the data is as narrow as the first from them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.noise import Noise
from pushforward.data.batch import Batch
from pushforward.models.diffflow import DiffFlowModel
from pushforward.objectives.matching import refuse_mask


@dataclass(frozen=True)
class DiffFlow:
    """The relative entropy of the paths of two processes, up to the entropy of the data: a bound on -ln p(x).

        loss_i = -ln p(y_N) + 1/2 sum_k (|delta_k|^2 - |z_k|^2),    y_0 = x_i, in nats

    model:   drift and score are trained together; where model.drift is None, or its parameters are frozen, the score
             alone.
    adjoint: one step's activations in memory instead of all (`trajectory`), for one more evaluation of each step.

    Zhang & Chen 2021 (arXiv 2110.07579), sec. 3 and alg. 1-2.
    """

    model: DiffFlowModel
    adjoint: bool = True

    def __call__(self, batch: Batch | Tensor, noise: Noise) -> dict[str, Tensor]:
        """{"loss": (B,)}. batch: a Batch, or data (B, ...) alone; noise: keyed by the global ids of its samples."""
        refuse_mask(batch)
        if isinstance(batch, Tensor):
            batch = Batch(batch)
        if len(noise) != len(batch):
            raise InputError(f"{len(noise)} noise ids for a batch of {len(batch)}")
        if batch.x0 is not None:
            raise InputError(
                "the batch brings its own source samples, and DiffFlow ends in Gaussian noise"
            )
        return {"loss": self.model.bound(batch.x1, noise, adjoint=self.adjoint, **batch.cond)}
