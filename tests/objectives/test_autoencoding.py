"""Training of autoencoders."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

import pushforward as pf
from pushforward.models.autoencoder import AutoencoderModel
from pushforward.nets import AutoencoderKL, PatchDiscriminator
from pushforward.objectives.autoencoding import (
    Autoencoding,
    absolute,
    adaptive_weight,
    relative_entropy,
    squared,
)


class Linear(nn.Module):
    """Samples (B, 1, 1, D) to and from K numbers."""

    def __init__(self, dim, latent):
        super().__init__()
        self.down, self.up = nn.Linear(dim, latent), nn.Linear(latent, dim)

    def posterior(self, x):
        return self.down(x), None

    def decode(self, z):
        return self.up(z)

    @property
    def last(self):
        return self.up.weight


def small(seed=0):
    torch.manual_seed(seed)
    return AutoencoderModel(AutoencoderKL(1, 2, (4, 4), 1, 2, False), PatchDiscriminator(1, 4, 1))


def data(n=6, seed=1):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def noise(n=6, step=0):
    return pf.Noise.batch(n, 0, step)


def test_the_relative_entropy_is_that_of_normal_laws():
    torch.manual_seed(0)
    mean, log_variance = torch.randn(4, 2, 3, 3).double(), torch.randn(4, 2, 3, 3).double()
    law = Normal(mean, (log_variance / 2).exp())
    expected = kl_divergence(law, Normal(0.0, 1.0)).flatten(1).sum(1)
    assert torch.allclose(relative_entropy(mean, log_variance), expected)


def test_latents_are_drawn_from_the_posterior_by_their_own_noise():
    model = small()
    seen = []
    decode = model.net.decode
    model.net.decode = lambda z: seen.append(z.detach()) or decode(z)
    x = data(1).expand(4000, 1, 8, 8)
    Autoencoding(model)(x, noise(4000))
    mean, log_variance = (part[:1].detach() for part in model.net.encode(x[:1]))
    z = (seen[0] - mean) / (log_variance / 2).exp()
    assert z.mean(0).abs().max() < 5 / 4000**0.5
    assert (z.var(0) - 1).abs().max() < 5 * (2 / 4000) ** 0.5
    Autoencoding(model)(x[:2], noise(4000)[torch.tensor([7, 3])])
    assert torch.allclose(seen[1], seen[0][[7, 3]], atol=1e-5)


def test_without_a_judge_the_loss_is_the_sum_of_its_parts():
    model, x = small(), data()
    out = Autoencoding(model, kl_weight=0.3, perceptual=squared, perceptual_weight=2.0)(x, noise())
    f = out["figures"]
    assert set(out) == {"loss", "figures"}
    assert set(f) == {"l1", "perceptual", "kl"}
    assert torch.allclose(out["loss"], f["l1"] + 2 * f["perceptual"] + 0.3 * f["kl"] / 64)


def test_the_adaptive_weight_makes_both_losses_pull_alike_on_the_last_layer():
    model, x = small(), data()
    net, judge = model.net, model.discriminator
    y = net.decode(net.encode(x)[0])
    w = adaptive_weight(absolute(x, y), -judge(y).flatten(1).mean(1), net.last)

    def pull(loss):
        net.zero_grad()
        loss(net.decode(net.encode(x)[0])).backward()
        return net.decoder.conv_out.weight.grad.norm()

    ours = pull(lambda y: (x - y).abs().mean())
    theirs = pull(lambda y: -judge(y).mean())
    assert torch.allclose(w, ours / (theirs + 1e-4), rtol=1e-4)
    # A judge that says nothing of the picture is not divided by.
    flat = adaptive_weight(absolute(x, y), 0 * y.flatten(1).mean(1), net.last)
    assert torch.allclose(flat, (ours / 1e-4).clamp(max=1e4), rtol=1e-4)


def test_a_judge_that_is_sure_and_right_has_nothing_to_learn():
    model, x = small(), data()
    unsure = Autoencoding(model, gan_start=0)(x, noise())
    assert bool((unsure["discriminator"] > 0).all())
    sure = nn.Sequential(nn.AvgPool2d(8), Sign(x.mean((1, 2, 3))))
    model.discriminator = sure
    found = Autoencoding(model, gan_start=0)(x, noise())
    assert torch.equal(found["discriminator"], torch.zeros(6))


class Sign(nn.Module):
    """3 for the means it knows, -3 for others."""

    def __init__(self, known):
        super().__init__()
        self.known = known

    def forward(self, x):
        near = (x.flatten() - self.known).abs() < 1e-6
        return torch.where(near, 3.0, -3.0)[:, None, None, None] + 0 * x


def test_no_loss_moves_the_parameters_of_the_other():
    model = small()
    out = Autoencoding(model, gan_start=0)(data(), noise())
    net, judge = list(model.net.parameters()), list(model.discriminator.parameters())
    grads = torch.autograd.grad(
        out["discriminator"].sum(), net, retain_graph=True, allow_unused=True
    )
    assert all(g is None for g in grads)
    # The autoencoder's loss does depend on the judge; the trainer takes its gradient for the net alone.
    out["loss"].sum().backward(inputs=net)
    assert all(p.grad is None for p in judge)
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net)


def test_the_judge_takes_part_from_its_step_on():
    objective = Autoencoding(small(), gan_start=3)
    assert "discriminator" not in objective(data(), noise(step=2))
    assert "discriminator" in objective(data(), noise(step=3))
    assert "discriminator" not in replace(objective, gan_start=None)(data(), noise(step=3))


def test_a_better_judge_pushes_the_autoencoder_towards_what_it_takes_for_real():
    model, x = small(), data()
    bright = nn.Conv2d(1, 1, 1)
    nn.init.ones_(bright.weight)
    model.discriminator = bright
    pushed = {}
    for weight in (0.0, 5.0):
        out = Autoencoding(model, gan_start=0, gan_weight=weight)(x, noise())
        (grad,) = torch.autograd.grad(out["loss"].sum(), model.net.decoder.conv_out.bias)
        pushed[weight] = float(grad)
    assert pushed[5.0] < pushed[0.0]  # descent raises the brightness


def test_a_linear_autoencoder_finds_the_principal_components():
    torch.manual_seed(0)
    n, dim, latent = 2000, 6, 2
    mix = torch.linalg.qr(torch.randn(dim, dim).double())[0] * torch.tensor(
        [3, 2, 0.8, 0.5, 0.3, 0.1]
    )
    x = torch.randn(n, dim).double() @ mix.T + 1
    values = torch.linalg.eigvalsh(torch.cov(x.T, correction=0))
    least = values[: dim - latent].sum() / dim
    net = Linear(dim, latent).double()
    objective = Autoencoding(Pair(net), squared)
    optimiser = torch.optim.LBFGS(net.parameters(), max_iter=400, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        found = objective(x[:, None, None], noise(n))["loss"].mean()
        found.backward()
        return found

    optimiser.step(loss)
    assert float(loss().detach()) == pytest.approx(float(least), rel=1e-4)


class Pair(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net, self.discriminator = net, nn.Identity()


def test_what_cannot_be_is_refused():
    with pytest.raises(pf.InputError, match="kl_weight"):
        Autoencoding(small(), kl_weight=-1)
    with pytest.raises(pf.InputError, match="noise ids"):
        Autoencoding(small())(data(3), noise(2))
