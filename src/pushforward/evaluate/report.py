"""The figures by which a trained model is judged, as one dictionary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.data.arrays import Dataset
from pushforward.evaluate.features import Features, features_of_data, features_of_images
from pushforward.evaluate.features.cache import Write
from pushforward.evaluate.labels import balanced_labels
from pushforward.evaluate.metrics.agreement import Judge, everything, train_classifier
from pushforward.evaluate.metrics.coverage import coverage
from pushforward.evaluate.metrics.energy import energy_distance
from pushforward.evaluate.metrics.frechet import MAX_DIMENSIONS, frechet_distance
from pushforward.evaluate.metrics.kid import kernel_distance
from pushforward.evaluate.metrics.neighbours import Memorisation, pixels
from pushforward.evaluate.metrics.neighbours import memorisation as memorised
from pushforward.laws.law import Law
from pushforward.models.model import Model
from pushforward.runtime.processes import Processes
from pushforward.sampling.generate import generate_together

# Data that samples are compared with.
LIMIT = 10_000


def judge_dataset(
    model: Model,
    train: Dataset,
    held_out: Dataset,
    num: int = 5000,
    *,
    features: Features | None = None,
    classifier: Judge | None = None,
    memorisation: bool = False,
    write: Write | None = None,
    **sampling: Any,
) -> tuple[dict[str, float], Tensor, Tensor | None]:
    """Figures of `num` samples, labels in equal shares, against the two parts of the data.

    classifier_accuracy:      of a classifier fitted on `train`, or of the one given, scored on `held_out`.
    agreement:                the share of samples in which it finds the class that was asked for.
    frechet:                  Frechet distance on the values themselves, samples to `held_out`.
    frechet_train:            the same for `train` to `held_out`.
    frechet_ratio:            the first over the second.
    frechet_ratio_equal:      the same with as many samples as there are in `train`. Two finite sets of one law are some
                              way apart, the more the fewer they are; here both distances are so to the same degree.

    features, memorisation, write: what `judge_features` finds comes with it.

    Returns the figures, the samples and their labels (None without classes). Of several processes each draws its share
    of the samples, and the first one judges them: the others have no figures.
    """
    label = None if model.classes is None else balanced_labels(num, model.classes)
    samples = generate_together(model, num, label=label, **sampling)
    figures: dict[str, float] = {}
    if not Processes.current().lead:
        return figures, samples, label
    if label is not None:
        judge = train_classifier(train, held_out) if classifier is None else classifier
        figures["classifier_accuracy"] = judge.accuracy
        figures["agreement"] = judge.agreement(samples, label)
    if samples[0].numel() <= MAX_DIMENSIONS:
        real, seen = everything(held_out, LIMIT)[0], everything(train, LIMIT)[0]
        baseline = frechet_distance(seen, real)
        figures["frechet"] = frechet_distance(samples, real)
        figures["frechet_train"] = baseline
        figures["frechet_ratio"] = figures["frechet"] / baseline
        if len(seen) <= num:
            equal = frechet_distance(samples[: len(seen)], real)
            figures["frechet_ratio_equal"] = equal / baseline
    if features is not None or memorisation:
        seed = int(sampling.get("seed", 0))
        more = judge_features(samples, train, held_out, features, memorisation, seed, write)
        figures |= more.figures
    return figures, samples, label


@dataclass(frozen=True)
class Judgement:
    """Figures by features. nearest: the training data nearest to the samples, if asked for. space: by what."""

    figures: dict[str, float]
    nearest: Memorisation | None = None
    space: str = "pixels"


def judge_features(
    samples: Tensor,
    train: Dataset,
    held_out: Dataset,
    features: Features | None = None,
    memorisation: bool = False,
    seed: int = 0,
    write: Write | None = None,
) -> Judgement:
    """Figures of samples (N, C, H, W) by the features of images, FEATURES being their name.

    frechet_FEATURES:         Frechet distance of samples to `held_out`; frechet_train_FEATURES: of `train` to it.
    kid_FEATURES:             kernel distance of samples to `held_out`; kid_FEATURES_error: its standard error.
    precision_FEATURES, recall_FEATURES, density_FEATURES, coverage_FEATURES: see `evaluate.coverage`, at k = 5, of as
                              many samples as held-out data.

    With memorisation, for pixels and for the features:

    nearest_ratio_FEATURES, copied_FEATURES: see `evaluate.neighbours.Memorisation`.

    Of the two parts of the data the first 10 000 are taken, but all of `train` for memorisation.
    seed: of the subsets of the kernel distance. write: with it the features of the data go through the cache.
    """
    figures: dict[str, float] = {}
    nearest, space = None, "pixels"
    if memorisation:
        real = everything(held_out, LIMIT)[0].flatten(1)
        nearest = memorised(samples.flatten(1).cpu(), real, pixels(train), min(5, len(train)))
        figures |= nearest.figures(space)
    if features is None:
        return Judgement(figures, nearest, space)
    name = features.name
    fake = features_of_images(features, samples, train.value_range)
    real = features_of_data(features, held_out, LIMIT, write)
    seen = features_of_data(features, train, None if memorisation else LIMIT, write)
    if features.dim <= MAX_DIMENSIONS:
        figures[f"frechet_{name}"] = frechet_distance(fake, real)
        figures[f"frechet_train_{name}"] = frechet_distance(seen[:LIMIT], real)
    kid = kernel_distance(fake, real, seed=seed)
    figures |= {f"kid_{name}": kid.value, f"kid_{name}_error": kid.standard_error}
    equal = min(len(fake), len(real))
    for key, value in coverage(real[:equal], fake[:equal])._asdict().items():
        figures[f"{key}_{name}"] = value
    if memorisation and name != space:
        nearest, space = memorised(fake, real, seen, min(5, len(seen))), f"{name} features"
        figures |= nearest.figures(name)
    return Judgement(figures, nearest, space)


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
    samples = generate_together(model, num, **sampling)
    if not Processes.current().lead:
        return {}, samples, None
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
