"""What holds for all three: every solver takes them, a call a step, and generate sees through them."""

from __future__ import annotations

import pytest
import torch

import pushforward as pf
from contracts.members import Counted
from guidance.laws import LAW, ExactClassifier
from pushforward.core.fields import breaks_of
from pushforward.core.spec import SamplingDefaults
from pushforward.guidance import Autoguidance, ClassifierFree, ClassifierGuidance
from pushforward.models.classifier import NoisyClassifier
from pushforward.nets import MLP, MLPClassifier
from pushforward.recipes.choices import SOLVERS

ORDINARY = [name for name in SOLVERS if name != "dopri5"]


def model(seed: int = 0, **extra) -> pf.Model:
    torch.manual_seed(seed)
    net = MLP(2, 16, 1, classes=3)
    torch.nn.init.normal_(net.conv_out.weight)
    return pf.Model(net, pf.CondOT(), shape=(2,), classes=3, **extra)


def guidances(field, path, worse=None):
    return {
        "free": ClassifierFree(field, 2.0, (0.2, 0.8)),
        "classifier": ClassifierGuidance(field, ExactClassifier(LAW, path), 2.0, (0.2, 0.8)),
        "auto": Autoguidance(field, worse or field, 2.0, (0.2, 0.8)),
    }


@pytest.mark.parametrize("solver", ORDINARY)
@pytest.mark.parametrize("kind", ["free", "classifier", "auto"])
def test_every_solver_calls_the_field_once_for_each_of_its_calls(solver, kind):
    path = pf.VP()
    field = Counted(LAW.field(path))
    made = SOLVERS[solver].make(path=path)
    label = torch.tensor([0, 1, 2, 1])
    with torch.no_grad():
        x = pf.integrate(
            made, guidances(field, path, LAW.field(path))[kind],
            path.source_std * pf.Noise.batch(4).normal((2,), dtype=torch.float64),
            pf.times.uniform(6, 0.0, 0.95), label=label,
        )  # fmt: skip
    assert x.isfinite().all()
    unguided = Counted(LAW.field(path))
    with torch.no_grad():
        pf.integrate(
            made, unguided, torch.zeros(4, 2).double(), pf.times.uniform(6, 0.0, 0.95), label=label
        )
    # Where guidance sets in or ends is one more time of the grid: an exact count of the steps that this makes.
    guided = guidances(field, path, LAW.field(path))[kind]
    assert field.calls == unguided.calls * (6 + len(breaks_of(guided))) // 6


@pytest.mark.parametrize("solver", ["ab2", "deis2", "dpm++2m", "unipc2", "ddim"])
@pytest.mark.parametrize("scale", [1.0, 1.6])
def test_two_ways_to_guide_by_the_same_law_draw_the_same_samples_with_every_form(solver, scale):
    # An exact classifier of scale w is classifier-free guidance of scale w, in data, noise and velocity forms.
    path = pf.VP()
    field = LAW.field(path)
    options = {"solver": SOLVERS[solver].make(path=path), "nfe": 12, "label": [0, 1, 2, 0, -1]}
    free = pf.generate(ClassifierFree(field, scale, (0.1, 0.9)), 5, **options)
    other = pf.generate(field, 5, guidance=scale, interval=(0.1, 0.9), **options)
    assert torch.allclose(free, other, atol=1e-10)
    # Outside the interval one uses the conditional field and the other the unconditional: take all of time.
    free = pf.generate(ClassifierFree(field, scale), 5, **options)
    by = ClassifierGuidance(field, ExactClassifier(LAW, path), scale)
    assert torch.allclose(pf.generate(by, 5, **options), free, atol=1e-6)


@pytest.mark.parametrize("kind", ["free", "classifier", "auto"])
def test_generate_finds_shape_classes_precision_and_settings_through_the_wrapper(kind):
    inner = model(sampling=SamplingDefaults(nfe=7))
    classifier = NoisyClassifier(MLPClassifier(2, 3, 8, 1), inner.path, classes=3, shape=(2,))
    guided = {
        "free": ClassifierFree(inner, 2.0),
        "classifier": ClassifierGuidance(inner, classifier, 2.0),
        "auto": Autoguidance(inner, model(1), 2.0),
    }[kind]
    calls = []
    x = pf.generate(guided, 8, label=2, callback=lambda i, t, x: calls.append(i))
    assert x.shape == (8, 2)
    assert x.dtype == torch.float32
    assert calls[-1] == 7
    assert torch.equal(pf.generate(guided, 8, label=2, batch_size=8), x)
    with pytest.raises(pf.InputError, match="classes 0 to 2"):
        pf.generate(guided, 8, label=3)
    if kind == "free":
        assert torch.equal(x, pf.generate(inner, 8, label=2, guidance=2.0))
    twice = pf.ScheduleTransfer(guided, pf.Cosine())
    assert pf.generate(twice, 3, label=2).shape == (3, 2)


def test_networks_inside_are_put_to_evaluation_and_back():
    seen = []

    class Watched(MLP):
        def forward(self, x, t, label=None):
            seen.append(self.training)
            return super().forward(x, t, label)

    def watched():
        return pf.Model(Watched(2, 8, 1, classes=3), pf.CondOT(), shape=(2,), classes=3).train()

    good, bad = watched(), watched()
    pf.generate(Autoguidance(good, bad, 2.0), 2, nfe=2, label=0)
    assert seen == [False] * 4
    assert good.training
    assert bad.training


def test_a_guided_exact_law_samples_from_its_class():
    # w = 1 on exact fields is the conditional law: its mean is that of the class.
    path = pf.CondOT()
    guided = ClassifierGuidance(LAW.field(path), ExactClassifier(LAW, path), 1.0)
    n = 500
    x = pf.generate(guided, n, label=1, nfe=60)
    truth = LAW.components.means[1]
    spread = x.std(0) / n**0.5
    assert ((x.mean(0) - truth).abs() < 4.5 * spread + 0.01).all()
