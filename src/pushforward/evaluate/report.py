"""The figures by which a trained model is judged, as one dictionary."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.fields import find_inside
from pushforward.core.noise import Noise
from pushforward.core.progress import tell
from pushforward.core.spec import DataSpec
from pushforward.data.dataset import Dataset
from pushforward.data.match import match_labels
from pushforward.data.shares import SAMPLE_STEP, stratified
from pushforward.evaluate import kinds
from pushforward.evaluate.features import Features, features_of_data, features_of_images
from pushforward.evaluate.features.cache import Write
from pushforward.evaluate.labels import judged_labels, label_map, present, spec_of
from pushforward.evaluate.metrics.agreement import (
    Judge,
    check_labels,
    everything,
    train_classifier,
)
from pushforward.evaluate.metrics.coverage import coverage
from pushforward.evaluate.metrics.frechet import MAX_DIMENSIONS, frechet_distance
from pushforward.evaluate.metrics.kid import kernel_distance
from pushforward.evaluate.metrics.measured import Measured
from pushforward.evaluate.metrics.mmd import distance_kernel, mmd
from pushforward.evaluate.metrics.neighbours import Memorisation
from pushforward.evaluate.metrics.neighbours import memorisation as memorised
from pushforward.evaluate.metrics.transport import follow, transport_costs
from pushforward.evaluate.metrics.vectors import Vectors
from pushforward.evaluate.metrics.wasserstein import wasserstein
from pushforward.evaluate.samples import drawn
from pushforward.laws.law import Law
from pushforward.runtime.processes import Processes

# Data that samples are compared with.
LIMIT = 10_000
# The k of the k nearest neighbours in precision, recall, density and coverage.
NEAREST = 5


def judge_dataset(
    model: Any,
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
    """Figures of `num` samples, labels in the shares of the training data, against the two parts of the data.

    classifier_accuracy:      of a classifier fitted on `train`, or of the given one, on `held_out`.
    agreement:                the share of samples in which it finds the class that was asked for, in the mean over
                              classes, so that rare ones count as much as others.
    frechet:                  Frechet distance on the values themselves, samples to `held_out`.
    frechet_train:            the same for `train` to `held_out`.
    frechet_ratio:            the first over the second.
    frechet_ratio_equal:      the same with as many samples as there are in `train`. Two finite sets of one law are some
                              way apart, the more the fewer they are; here both distances are so to the same degree.

    Of either part of the data at most 10 000 are used, a stratified sample. Figures of classes need two classes with
    data, Frechet distances at most 4096 values.

    features, memorisation, write: the figures of `judge_features` are added. sampling: options of `generate`, such as a
    shape of its states by which samples have that of the data.

    Returns the figures, the samples, on the CPU, and their labels (None without classes). With several processes each
    draws its share of the samples, and the first one judges them: the others have no figures. Raises InputError, before
    any sample is drawn, if there is nothing to compute.
    """
    spec = spec_of(model)
    if sampling.get("shape") is not None:
        spec = spec.with_(shape=held_out.shape)
    train, held_out = match_labels(train, spec), match_labels(held_out, spec)
    classes = len(present(spec)) > 1 and _classes_with_data(spec, train) > 1
    small = math.prod(held_out.shape) <= MAX_DIMENSIONS
    _check(spec, train, held_out, num, features, memorisation, classes, small, classifier)
    seed = int(sampling.get("seed", 0))
    label = judged_labels(num, spec, train, seed)
    samples = drawn(model, num, label=label, **sampling)
    figures: dict[str, float] = {}
    if not Processes.current().lead:
        return figures, samples, label
    tell("figures", 0, 0)
    if classes and label is not None:
        judge = train_classifier(train, held_out) if classifier is None else classifier
        figures["classifier_accuracy"] = judge.accuracy
        theirs = label_map(_of_labels(spec, label), judge.spec)[label]
        figures["agreement"] = judge.agreement_by_class(samples, theirs)
    if small:
        real, seen = everything(held_out, LIMIT)[0], everything(train, LIMIT)[0]
        baseline = frechet_distance(seen, real)
        figures["frechet"] = frechet_distance(samples, real)
        figures["frechet_train"] = baseline
        figures["frechet_ratio"] = _ratio(figures["frechet"], baseline)
        if len(seen) <= num:
            equal = frechet_distance(samples[_rows(label, num, len(seen))], real)
            figures["frechet_ratio_equal"] = _ratio(equal, baseline)
    if features is not None or memorisation:
        more = judge_features(samples, train, held_out, features, memorisation, seed, write, label)
        figures |= more.figures
    tell("figures", 1, 1)
    return figures, samples, label


def _classes_with_data(spec: DataSpec, train: Dataset) -> int:
    """How many of a model's classes have training data."""
    counts = spec.class_counts if train.class_counts is None else train.class_counts
    return len(present(spec)) if counts is None else sum(count > 0 for count in counts)


def _of_labels(spec: DataSpec, label: Tensor) -> DataSpec:
    """A model's classes, only those that were drawn counted as having data."""
    counts = torch.bincount(label, minlength=spec.classes or 0)
    return spec.with_(class_counts=tuple(counts.tolist()))


def _ratio(value: float, baseline: float) -> float:
    return value / baseline if baseline > 0 else math.inf if value > 0 else 1.0


def _rows(label: Tensor | None, num: int, k: int) -> Tensor:
    """k of `num` rows, in which each label has its share."""
    return stratified(label, num, min(k, num), Noise.batch(1, 0, SAMPLE_STEP))[0]


def _check(
    spec: DataSpec,
    train: Dataset,
    held_out: Dataset,
    num: int,
    features: Features | None,
    memorisation: bool,
    classes: bool,
    small: bool,
    classifier: Judge | None,
) -> None:
    """That figures can be computed, before samples are drawn."""
    noun = kinds.of(spec).noun
    if train.shape != held_out.shape or (spec.shape and tuple(spec.shape) != train.shape):
        raise InputError(
            f"the model draws {noun} {tuple(spec.shape)}, and the data are {train.shape} and {held_out.shape}"
        )
    if classes and classifier is None:
        check_labels(train, held_out)
    if small and min(num, len(train), len(held_out)) < 2:
        few = "to draw" if num < 2 else "to train on" if len(train) < 2 else "held out"
        raise InputError(
            f"there is 1 of the {noun} {few}, and a Frechet distance needs 2: use more data, a larger share of them "
            f"held out, or more samples"
        )
    least = min(num, len(held_out))
    if features is not None and least <= NEAREST:
        raise InputError(
            f"figures by features need more than {NEAREST} {noun} that are held out, and as many samples; there are "
            f"{len(held_out)} and {num}"
        )
    if not (small or classes or features is not None or memorisation):
        raise InputError(
            f"there is no figure for {noun} of more than {MAX_DIMENSIONS} values without two classes: "
            f"ask for features, such as efficientnet"
        )


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
    label: Tensor | None = None,
) -> Judgement:
    """Figures of samples (N, C, H, W) by the features of images, FEATURES being their name.

    frechet_FEATURES:         Frechet distance of samples to `held_out`; frechet_train_FEATURES: of `train` to it.
    kid_FEATURES:             kernel distance of samples to `held_out`; kid_FEATURES_error: its standard error.
    precision_FEATURES, recall_FEATURES, density_FEATURES, coverage_FEATURES: see `metrics.coverage`, at k = 5, of as
                              many samples as held-out data.

    With memorisation, for pixels (averaged to at most 4096 numbers) and for the features:

    nearest_ratio_FEATURES, copied_FEATURES: see `metrics.neighbours.Memorisation`.

    Of either part of the data a stratified sample of at most 10 000 is taken, but all of `train` for memorisation.
    seed: of the subsets of the kernel distance. write: with it the features of the data go through the cache.
    label: (N,) of the samples, so that a part of them has the same shares.
    """
    figures: dict[str, float] = {}
    nearest, space = None, "pixels"
    apart = held_out.sample(LIMIT)
    if memorisation:
        vectors = Vectors(held_out.shape, MAX_DIMENSIONS)
        nearest = memorised(
            vectors.of_samples(samples),
            vectors.of_data(apart),
            vectors.blocks(train),
            min(5, len(train)),
        )
        figures |= nearest.figures(space)
    if features is None:
        return Judgement(figures, nearest, space)
    name = features.name
    fake = features_of_images(features, samples, train.value_range)
    real = features_of_data(features, apart, write=write)
    seen = features_of_data(features, train, None if memorisation else LIMIT, write)
    if features.dim <= MAX_DIMENSIONS:
        some = _rows(train.labels, len(seen), LIMIT) if len(seen) > LIMIT else slice(None)
        figures[f"frechet_{name}"] = frechet_distance(fake, real)
        figures[f"frechet_train_{name}"] = frechet_distance(seen[some], real)
    kid = kernel_distance(fake, real, seed=seed)
    figures |= {f"kid_{name}": kid.value, f"kid_{name}_error": kid.standard_error}
    equal = min(len(fake), len(real))
    figures |= {
        f"{key}_{name}": value
        for key, value in coverage(
            real[_rows(apart.labels, len(real), equal)],
            fake[_rows(label, len(fake), equal)],
            NEAREST,
        )
        ._asdict()
        .items()
    }
    if memorisation and name != space:
        nearest, space = memorised(fake, real, seen, min(5, len(seen))), f"{name} features"
        figures |= nearest.figures(name)
    return Judgement(figures, nearest, space)


def judge_law(
    model: Any, law: Law, num: int = 4000, **sampling: Any
) -> tuple[dict[str, float], Tensor, None]:
    """Figures of `num` samples against a law that can be drawn from.

    energy:          energy distance between samples and fresh draws; energy_error: its standard error.
    energy_law:      the same between two sets of draws, which is 0 but for chance.
    log_density:     mean log density of the samples under the law, in nats.
    log_density_law: the same for draws, minus the entropy of the law. Samples off its support are in neither.
    outside:         share of samples where the law has no density at all.
    """
    seed = int(sampling.get("seed", 0))
    if num < 2:
        raise InputError(f"{num} sample has no distance to a law: draw 2 or more")
    # Seeds apart from the samples' own and from each other.
    real, other = (law.sample(num, seed=(seed + k) % 2**64) for k in (1, 2))
    shape = spec_of(model).shape
    if shape and real.shape[1:] != shape:
        raise InputError(f"the law has samples {tuple(real.shape[1:])}, the model {tuple(shape)}")
    samples = drawn(model, num, **sampling)
    if not Processes.current().lead:
        return {}, samples, None
    real, other = real.to(samples), other.to(samples)
    if real.shape[1:] != samples.shape[1:]:
        raise InputError(
            f"the law has samples {tuple(real.shape[1:])}, the model {tuple(samples.shape[1:])}"
        )
    there, here = law.log_prob(real.double()), law.log_prob(samples.double())
    energy = mmd(samples, real, distance_kernel)
    return (
        {
            "energy": energy.value,
            "energy_error": energy.standard_error,
            "energy_law": mmd(other, real, distance_kernel).value,
            "log_density": float(here[here.isfinite()].mean()),
            "log_density_law": float(there[there.isfinite()].mean()),
            "outside": float((~here.isfinite()).double().mean()),
        },
        samples,
        None,
    )


def judge_transport(
    model: Any,
    data: Dataset | Law,
    held_out: Dataset | None,
    num: int,
    seed: int = 0,
    source: Law | None = None,
) -> dict[str, float]:
    """The probability flow as a transport of `num` samples, labels in the shares of the training data.

    w2:         2-Wasserstein distance of its ends to as many data; w2_before: of its starts.
    path_energy: normalised, |PE/w2_before^2 - 1|. straightness: over E |x1 - x0|^2. cost_l2, ...: costs of x1 - x0.
    Each with its standard error. data: a law, or the training data; held_out: the data to compare with then.
    """
    spec = spec_of(model)
    if find_inside(model, "codec") is not None:
        raise InputError(
            "this model transports noise to latents, and the data are pictures: there is no distance between them"
        )
    cond: dict[str, Any] = {}
    if isinstance(data, Dataset):
        if held_out is None:
            raise InputError("this run kept no data apart, so there is nothing to compare with")
        if len(held_out) < 2:
            raise InputError(
                "one sample is held out, and a distance with its error needs 2 or more"
            )
        target = everything(held_out, num)[0]
        label = judged_labels(num, spec, data, seed)
    else:
        target = data.sample(num, seed=(seed + 1) % 2**64)
        label = judged_labels(num, spec, None, seed)
    if label is not None:
        cond["label"] = label
    noise = Noise.batch(num, seed)
    x0 = (
        source.draw(noise)
        if source is not None
        else model.path.source_std * noise.normal(spec.shape)
    )
    flow = follow(model, x0, **cond)
    before = wasserstein(x0, target)
    measured: dict[str, Measured] = {
        "w2": wasserstein(flow.end, target),
        "w2_before": before,
        "path_energy": flow.normalised_path_energy(before),
        "straightness": flow.straightness(relative=True),
        **{
            f"cost_{name.replace(' ', '_')}": cost
            for name, cost in transport_costs(flow.start, flow.end).items()
        },
    }
    figures: dict[str, float] = {}
    for name, value in measured.items():
        figures |= {name: value.value, f"{name}_error": value.standard_error}
    return figures
