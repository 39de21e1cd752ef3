"""Bayes: the score of a class is that of the law plus the gradient of the posterior, under every name."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import pushforward as pf
from contracts.members import PATHS, THREE_PATHS, Counted, mixture, randn, relative
from guidance.laws import LABEL, LAW, ExactClassifier, T, X
from pushforward.core.spec import Provenance
from pushforward.guidance import ClassifierFree, ClassifierGuidance
from pushforward.models.classifier import NoisyClassifier
from pushforward.nets import MLP, ImageClassifier, MLPClassifier
from pushforward.objectives import Classification, noisy_accuracy
from pushforward.saving.folder import load_classifier


@pytest.mark.parametrize("path", PATHS)
def test_an_exact_classifier_turns_the_law_into_its_class(path):
    field = LAW.field(path)
    guided = ClassifierGuidance(field, ExactClassifier(LAW, path), 1.0)
    for want in pf.PREDICTIONS:
        truth = field(X, T, want, label=LABEL)
        assert relative(guided(X, T, want, label=LABEL), truth) < 1e-8, want


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scale", [-1.0, 0.5, 3.0])
def test_other_scales_are_the_algebra_of_scores(path, scale):
    # score + w (score of the class - score), which is classifier-free guidance by Bayes' rule.
    field = LAW.field(path)
    guided = ClassifierGuidance(field, ExactClassifier(LAW, path), scale)
    free, given = field(X, T, "score"), field(X, T, "score", label=LABEL)
    assert relative(guided(X, T, "score", label=LABEL), free + scale * (given - free)) < 1e-8
    for want in pf.PREDICTIONS:
        truth = ClassifierFree(field, scale)(X, T, want, label=LABEL)
        assert relative(guided(X, T, want, label=LABEL), truth) < 1e-8, want


def test_a_conditional_field_under_scale_w_is_classifier_free_guidance_by_one_more():
    path = pf.Cosine()
    field = LAW.field(path)
    got = ClassifierGuidance(field, ExactClassifier(LAW, path), 1.5, conditional=True)
    truth = ClassifierFree(field, 2.5)
    for want in pf.PREDICTIONS:
        assert relative(got(X, T, want, label=LABEL), truth(X, T, want, label=LABEL)) < 1e-9


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_infinite_at_the_ends_of_time(path):
    field = LAW.field(path)
    guided = ClassifierGuidance(field, ExactClassifier(LAW, path), 2.0)
    for t in (0.0, 1.0):
        for want in ("velocity", "data", "noise", "score"):
            got = guided(X, t, want, label=LABEL)
            truth = ClassifierFree(field, 2.0)(X, t, want, label=LABEL)
            assert got.isfinite().all(), (t, want)
            # At t = 0 the push is that at the margin, where alpha is small, if alpha(0) = 0.
            atol = 0.15 if float(path.alpha(torch.zeros(()))) == 0 and t == 0 else 1e-6
            scale = 1 + truth.abs().max()
            assert float((got - truth).abs().max() / scale) < atol, (t, want)


def test_the_push_at_time_zero_is_that_at_the_margin_and_at_all_other_times_its_own():
    path = pf.CondOT()
    field = LAW.field(path)
    guided = ClassifierGuidance(field, ExactClassifier(LAW, path), 2.0, margin=0.1)
    usual = ClassifierGuidance(field, ExactClassifier(LAW, path), 2.0)
    at = torch.full((5,), 0.1, dtype=torch.float64)
    push = guided(X, at, label=LABEL) - field(X, at)
    assert torch.allclose(guided(X, 0.0, label=LABEL) - field(X, 0.0), push, rtol=1e-9)
    for t in (0.01, 0.05, 0.11):
        assert torch.equal(guided(X, t, label=LABEL), usual(X, t, label=LABEL))
        assert not torch.allclose(guided(X, t, label=LABEL) - field(X, t), push, rtol=1e-3)


def test_networks_are_asked_for_their_push_at_a_hundredth_where_it_has_no_value():
    # In float64 at a millionth: exact laws bear that.
    path = pf.CondOT()
    field = LAW.field(path)
    asked = []

    class Kept(ExactClassifier):
        def __call__(self, x, t):
            asked.append(float(t[0]))
            return super().__call__(x, t)

    guided = ClassifierGuidance(field, Kept(LAW, path), 2.0)
    for x in (X.float(), X):
        guided(x, 0.0, label=LABEL)
    assert asked == pytest.approx([1e-2, 1e-6])


def test_samples_without_a_class_are_not_guided_and_the_others_are():
    path = pf.CondOT()
    field, classifier = LAW.field(path), ExactClassifier(LAW, path)
    label = torch.tensor([0, -1, 2, -1, 0])
    guided = ClassifierGuidance(field, classifier, 2.0)
    got, full = guided(X, T, label=label), guided(X, T, label=label.clamp(min=0))
    free = field(X, T)
    assert torch.equal(got[label < 0], free[label < 0])
    assert torch.allclose(got[label >= 0], full[label >= 0], rtol=1e-12)
    calls = classifier.calls
    assert torch.equal(guided(X, T, label=torch.full((5,), -1)), free)
    assert torch.equal(guided(X, T), free)
    assert torch.equal(ClassifierGuidance(field, classifier, 0.0)(X, T, label=LABEL), free)
    assert classifier.calls == calls


@pytest.mark.parametrize("interval", [(0.3, 0.7), (0.35, 0.65), (0.0, 0.35), (0.9, 1.0)])
def test_outside_its_interval_the_field_alone_is_used_for_each_sample(interval):
    path = pf.VP()
    field, classifier = LAW.field(path), ExactClassifier(LAW, path)
    got = ClassifierGuidance(field, classifier, 3.0, interval)(X, T, label=LABEL)
    always = ClassifierGuidance(field, ExactClassifier(LAW, path), 3.0)(X, T, label=LABEL)
    inside = (interval[0] <= T) & (interval[1] >= T)
    assert torch.equal(got[~inside], field(X, T)[~inside])
    assert torch.allclose(got[inside], always[inside], rtol=1e-12)
    assert classifier.calls == int(inside.any())


def test_one_call_of_the_field_and_one_of_the_classifier_a_step_without_gradients():
    path = pf.CondOT()
    field, classifier = Counted(LAW.field(path)), ExactClassifier(LAW, path)
    guided = ClassifierGuidance(field, classifier, 2.0)
    with torch.no_grad():
        x = pf.integrate(pf.solvers.Euler(), guided, X, pf.times.uniform(7, 0, 0.9), label=LABEL)
    assert field.calls == classifier.calls == 7
    assert not x.requires_grad


def test_other_conditions_reach_the_field_and_the_label_does_not():
    seen = []

    class Field:
        path = pf.CondOT()

        def __call__(self, x, t, want="velocity", **cond):
            seen.append(cond)
            return x

    classifier = ExactClassifier(LAW, pf.CondOT())
    ClassifierGuidance(Field(), classifier, 1.0)(X, 0.5, label=LABEL, text=X)
    ClassifierGuidance(Field(), classifier, 1.0, conditional=True)(X, 0.5, label=LABEL, text=X)
    assert [sorted(cond) for cond in seen] == [["text"], ["label", "text"]]


@pytest.mark.parametrize("path", THREE_PATHS)
def test_a_classifier_of_another_path_is_asked_at_equal_log_snr(path):
    for own in (pf.Cosine(), pf.VE(0.01, 50.0)):
        guided = ClassifierGuidance(LAW.field(path), ExactClassifier(LAW, own, own=True), 1.0)
        truth = LAW.field(path)(X, T, label=LABEL)
        assert relative(guided(X, T, label=LABEL), truth) < 1e-7


def test_derivatives_of_a_guided_field_are_those_of_the_whole():
    path = pf.CondOT()
    guided = ClassifierGuidance(LAW.field(path), ExactClassifier(LAW, path), 1.0)
    label = torch.tensor([0, 1, 2])
    x = LAW.sample(3, seed=2)
    _, div = pf.likelihood.divergence(guided, x, 0.4, label=label)
    assert torch.allclose(div, LAW.field(path).divergence(x, 0.4, label), rtol=1e-7)
    inner = torch.tensor([0.02, 0.98], dtype=torch.float64)
    field = LAW.field(path)
    got = pf.log_prob(
        guided, x, grid=inner, source=lambda x0: field.log_prob(x0, 0.02, label),
        solver=pf.solvers.DormandPrince(1e-5, 1e-5), label=label,
    )  # fmt: skip
    assert torch.allclose(got, field.log_prob(x, 0.98, label), atol=1e-3)


def test_images_are_guided_as_vectors_are():
    flat = mixture(4, 3, labels=[0, 1, 1])
    image = pf.GaussianMixture(
        flat.components.means.reshape(3, 1, 2, 2),
        flat.components.eigenvalues.mean(1),
        labels=[0, 1, 1],
    )
    path, x, label = pf.CondOT(), randn(4, 1, 2, 2, seed=3), torch.tensor([0, 1, 0, 1])
    guided = ClassifierGuidance(image.field(path), ExactClassifier(image, path), 1.0)
    t = torch.tensor([0.1, 0.4, 0.7, 0.9]).double()
    assert relative(guided(x, t, label=label), image.field(path)(x, t, label=label)) < 1e-8


def test_what_makes_no_sense_is_an_error():
    path = pf.CondOT()
    classifier = ExactClassifier(LAW, path)
    with pytest.raises(pf.InputError, match="interval"):
        ClassifierGuidance(LAW.field(path), classifier, 1.0, (0.6, 0.4))
    with pytest.raises(pf.InputError, match="margin"):
        ClassifierGuidance(LAW.field(path), classifier, 1.0, margin=0.0)
    with pytest.raises(pf.UndefinedError, match="Gaussian"):
        ClassifierGuidance(LAW.field(pf.CondOT(gaussian_source=False)), classifier, 1.0)
    with pytest.raises(pf.InputError, match="label 3"):
        ClassifierGuidance(LAW.field(path), classifier, 1.0)(X, T, label=LABEL + 1)
    with pytest.raises(pf.InputError, match="tell apart"):
        NoisyClassifier(MLPClassifier(2, 1), path, classes=1)
    with pytest.raises(pf.UndefinedError, match="noisy classifier"):
        Classification(
            NoisyClassifier(MLPClassifier(2, 3), pf.CondOT(gaussian_source=False), classes=3)
        )


# Training.


def classifier(seed: int = 0, **extra) -> NoisyClassifier:
    torch.manual_seed(seed)
    return NoisyClassifier(MLPClassifier(2, 3, 32, 2), pf.CondOT(), classes=3, shape=(2,), **extra)


def test_the_loss_is_the_cross_entropy_at_the_noisy_state():
    model = classifier()
    with torch.no_grad():
        model.net.conv_out.weight.normal_()
    x1, label = randn(6, 2, seed=1).float(), torch.tensor([0, 1, 2, 0, -1, 1])
    noise = pf.Noise.batch(6, 4, 2)
    loss = Classification(model)(pf.Batch(x1, {"label": label}), noise)["loss"]
    t = pf.times.Uniform()(noise)
    x0 = noise.normal((2,))
    logits = model((t[:, None] * x1 + (1 - t)[:, None] * x0).float(), t)
    for i, k in enumerate(label.tolist()):
        p = logits[i].exp() / logits[i].exp().sum()
        truth = 0.0 if k < 0 else -math.log(p[k].item())
        assert loss[i].item() == pytest.approx(truth, rel=1e-4, abs=1e-6)
    part = Classification(model)(pf.Batch(x1[2:4], {"label": label[2:4]}), noise[2:4])["loss"]
    assert torch.allclose(part, loss[2:4], atol=1e-6)


def test_its_minimiser_is_the_posterior_of_the_classes():
    # At the exact posterior the derivative of the mean loss in any direction of the logits is 0.
    path = pf.CondOT()

    class Tilted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.exact, self.by = (
                ExactClassifier(LAW, path),
                nn.Parameter(torch.zeros(3, 3).double()),
            )

        def forward(self, x, t):
            features = torch.stack((torch.ones_like(t), x[:, 0], x[:, 1] * t), 1)
            return self.exact(x, t) + features @ self.by

    model = NoisyClassifier(Tilted(), path, classes=3)
    n = 4000
    noise = pf.Noise.batch(n, seed=3)
    x1 = LAW.draw(noise)
    logits = model(x1, torch.ones(n).double())
    label = torch.distributions.Categorical(logits=logits.detach())
    torch.manual_seed(0)
    batch = pf.Batch(x1, {"label": label.sample()})
    loss = Classification(model)(batch, noise)["loss"]
    each = torch.stack(
        [
            torch.autograd.grad(part.mean(), model.net.by, retain_graph=True)[0]
            for part in loss.split(100)
        ]
    )
    error = each.std(0) / math.sqrt(len(each))
    assert (each.mean(0).abs() < 4.5 * error).all()
    assert float(error.max()) < 0.05


def test_a_trained_classifier_guides_a_law_to_its_classes():
    law = pf.GaussianMixture([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]], 0.3, labels=[0, 1, 2])
    model = classifier()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    objective = Classification(model, pf.times.Uniform(low_discrepancy=True))
    for step in range(150):
        noise = pf.Noise.batch(256, step=step)
        label = noise.ids % 3
        loss = objective(pf.Batch(law.draw(noise, label).float(), {"label": label}), noise)["loss"]
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    noise = pf.Noise.batch(600, seed=9)
    label = noise.ids % 3
    x1 = law.draw(noise, label).float()
    found = [noisy_accuracy(model, x1, label, t, seed=5) for t in (0.0, 0.5, 0.9)]
    assert abs(found[0] - 1 / 3) < 4.5 * math.sqrt(2 / 9 / 600)
    assert found[2] > 0.97
    assert found[0] < found[1] < found[2]
    guided = ClassifierGuidance(law.field(pf.CondOT()), model, 1.0)
    x = pf.generate(guided, 600, label=label, nfe=40)
    asked = ExactClassifier(law, pf.CondOT())(x, torch.ones(600).double()).argmax(1) == label
    assert float(asked.double().mean()) > 0.95


def test_a_classifier_is_saved_and_loaded_and_is_no_model(tmp_path):
    model = classifier(provenance=Provenance(recipe="noted"))
    with torch.no_grad():
        model.net.conv_out.weight.normal_()
    pf.save(model, tmp_path / "classifier")
    again = load_classifier(tmp_path / "classifier")
    x = randn(4, 2).float()
    assert torch.equal(again(x, 0.3), model.eval()(x, 0.3))
    assert (again.path, again.classes, again.shape) == (model.path, 3, (2,))
    assert again.provenance.recipe == "noted"
    with pytest.raises(pf.CheckpointError, match="holds a classifier"):
        pf.load(tmp_path / "classifier")
    pf.save(pf.Model(MLP(2, 8, 1), pf.CondOT()), tmp_path / "model")
    with pytest.raises(pf.CheckpointError, match="no classifier"):
        load_classifier(tmp_path / "model")


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        pytest.param(lambda: MLPClassifier(3, 4, 16, 2), (3,), id="MLPClassifier"),
        pytest.param(lambda: ImageClassifier(2, 4, 8, (1, 2), 2), (2, 7, 5), id="ImageClassifier"),
    ],
)
def test_classifiers_keep_samples_apart_start_undecided_and_feel_everything(make, shape):
    torch.manual_seed(0)
    net = make()
    x, t = randn(3, *shape, seed=1).float(), torch.tensor([0.1, 0.5, 0.9])
    assert torch.equal(net(x, t), torch.zeros(3, 4))
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    net.eval()
    whole = net(x, t)
    assert whole.shape == (3, 4)
    for i in range(3):
        assert torch.allclose(net(x[i : i + 1], t[i : i + 1]), whole[i : i + 1], atol=1e-5)
    assert ((net(x, t / 2) - whole).abs().amax(1) > 1e-5).all()
    assert ((net(x + 0.5, t) - whole).abs().amax(1) > 1e-5).all()
    other = type(net)(**net.config)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.eval()(x, t), whole)
    net.train()
    (net(x, t) * torch.tensor([1.0, 2.0, -1.0, 0.5])).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name
    with pytest.raises(pf.InputError, match="takes"):
        net(torch.zeros(3, *shape, 2), t)
