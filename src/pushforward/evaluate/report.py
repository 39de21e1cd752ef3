"""The figures by which a trained model is judged, as one dictionary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.fields import Model
from pushforward.core.oracle import Law
from pushforward.data.arrays import Dataset
from pushforward.evaluate.agreement import everything, train_classifier
from pushforward.evaluate.energy import energy_distance
from pushforward.evaluate.frechet import frechet_distance
from pushforward.sampling import generate

# Eigenvalues of a covariance of more dimensions than this take minutes.
MAX_DIMENSIONS = 4096


def balanced_labels(num: int, classes: int) -> Tensor:
    """0, 1, ..., classes - 1, 0, 1, ...: (num,)."""
    return torch.arange(num) % classes


def judge_dataset(
    model: Model, train: Dataset, held_out: Dataset, num: int = 5000, **sampling: Any
) -> tuple[dict[str, float], Tensor, Tensor | None]:
    """Figures of `num` samples, labels in equal shares, against the two parts of the data.

    classifier_accuracy:      of a classifier fitted on `train`, scored on `held_out`.
    agreement:                the share of samples in which it finds the class that was asked for.
    frechet:                  Frechet distance on the values themselves, samples to `held_out`.
    frechet_train:            the same for `train` to `held_out`.
    frechet_ratio:            the first over the second.
    frechet_ratio_equal:      the same with as many samples as there are in `train`. Two finite sets of one law are some
                              way apart, the more the fewer they are; here both distances are so to the same degree.

    Returns the figures, the samples and their labels (None without classes).
    """
    label = None if model.classes is None else balanced_labels(num, model.classes)
    samples = generate(model, num, label=label, **sampling)
    figures: dict[str, float] = {}
    if label is not None:
        classifier = train_classifier(train, held_out)
        figures["classifier_accuracy"] = classifier.accuracy
        figures["agreement"] = classifier.agreement(samples, label)
    if samples[0].numel() <= MAX_DIMENSIONS:
        real, seen = everything(held_out, 10_000)[0], everything(train, 10_000)[0]
        baseline = frechet_distance(seen, real)
        figures["frechet"] = frechet_distance(samples, real)
        figures["frechet_train"] = baseline
        figures["frechet_ratio"] = figures["frechet"] / baseline
        if len(seen) <= num:
            equal = frechet_distance(samples[: len(seen)], real)
            figures["frechet_ratio_equal"] = equal / baseline
    return figures, samples, label


def judge_law(
    model: Model, law: Law, num: int = 4000, **sampling: Any
) -> tuple[dict[str, float], Tensor, None]:
    """Figures of `num` samples against a law that can be drawn from.

    energy:          energy distance between samples and fresh draws.
    energy_law:      the same between two sets of draws, which is 0 but for chance.
    log_density:     mean log density of the samples under the law, in nats.
    log_density_law: the same for draws, minus the entropy of the law. Samples off its support are left out of both.
    outside:         share of samples where the law has no density at all.
    """
    seed = int(sampling.get("seed", 0))
    samples = generate(model, num, **sampling)
    # Seeds apart from the samples' own and from each other.
    real, other = (law.sample(num, seed=(seed + k) % 2**64).to(samples) for k in (1, 2))
    if real.shape[1:] != samples.shape[1:]:
        raise InputError(
            f"the law has samples {tuple(real.shape[1:])}, the model {tuple(samples.shape[1:])}"
        )
    there, here = law.log_prob(real.double()), law.log_prob(samples.double())
    return (
        {
            "energy": energy_distance(samples, real),
            "energy_law": energy_distance(other, real),
            "log_density": float(here[here.isfinite()].mean()),
            "log_density_law": float(there[there.isfinite()].mean()),
            "outside": float((~here.isfinite()).double().mean()),
        },
        samples,
        None,
    )
