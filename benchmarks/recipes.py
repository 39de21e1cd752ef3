"""A short run of every recipe, to compare two trees by: see benchmarks/against.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

STEPS = 50
# Gaps between log lines and losses on held-out data; no pictures, which are not compared.
COMMON = (
    "--steps", str(STEPS), "--log-every", "5", "--sample-every", "0", "--validate-every", "25",
    "--device", "cpu",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A run: arguments of the command line, and those of `sample`; a run without samples has None.

    DATA in an argument is the folder of the example data, and RUNS that of the runs of the same tree.
    """

    train: tuple[str, ...]
    samples: Mapping[str, tuple[str, ...]] | None = field(default_factory=lambda: {"default": ()})
    common: tuple[str, ...] = COMMON


def _toy2d() -> Iterator[tuple[str, Case]]:
    small = ("--batch-size", "128", "--width", "64")
    between = ("--source", "moons")
    objectives: dict[str, tuple[str, ...]] = {
        "matching": (),
        "denoising": (),
        "implicit": (),
        "sliced": (),
        "variational": (),
        "hybrid": (),
        "sf2m": (*between, "--coupling", "sinkhorn"),
        "dsbm": (*between, "--phase", "20", "--simulation-steps", "6"),
        "dsb": (*between, "--phase", "20", "--simulation-steps", "6"),
        "diffflow": ("--simulation-steps", "4"),
        "maximum-likelihood": ("--simulation-steps", "3"),
        "meanflow": (),
        "consistency": (),
        "continuous-consistency": (),
        "shortcut": (),
    }
    for name, more in objectives.items():
        yield f"toy2d-{name}", Case(("train", "toy2d", "--objective", name, *more, *small))
    others: dict[str, tuple[str, ...]] = {
        "ot": (*between, "--coupling", "ot"),
        "tube": (*between, "--coupling", "ot", "--path", "tube"),
        "smooth-bridge": (*between, "--path", "smooth-bridge"),
        "vp-noise-min-snr": ("--path", "vp", "--prediction", "noise", "--weight", "min-snr"),
        "cosine-v-sigmoid": ("--path", "cosine", "--prediction", "v", "--weight", "sigmoid"),
        "edm": ("--path", "edm", "--prediction", "edm", "--weight", "edm", "--times", "edm"),
        "subvp-data": ("--path", "subvp", "--prediction", "data", "--times", "mode"),
        "ddpm-cosine-noise": ("--path", "ddpm-cosine", "--prediction", "noise"),
        "logit-normal": ("--times", "logit-normal", "--no-low-discrepancy", "--decay", "trapezoid"),
    }
    for name, more in others.items():
        yield f"toy2d-{name}", Case(("train", "toy2d", *more, *small))


SAMPLERS = {
    "default": (),
    "guided": ("--guidance", "2", "--nfe", "20"),
    "ddim": ("--solver", "ddim", "--nfe", "20"),
    "dpm++2m": ("--solver", "dpm++2m", "--grid", "karras", "--nfe", "20"),
    "euler-maruyama": ("--solver", "euler-maruyama", "--nfe", "20"),
}

CASES: dict[str, Case] = {
    **dict(_toy2d()),
    "digits": Case(("train", "digits", "--batch-size", "64"), SAMPLERS),
    "digits-noise": Case(
        ("train", "digits", "--batch-size", "64", "--path", "vp", "--prediction", "noise"), SAMPLERS
    ),
    "digits-hybrid": Case(
        ("train", "digits", "--batch-size", "32", "--objective", "hybrid"),
        {"default": (), "ddpm": ("--solver", "ddpm", "--nfe", "20")},
    ),
    "digits-conditional-ot": Case(
        ("train", "digits", "--batch-size", "32", "--coupling", "conditional-ot")
    ),
    "digits-meanflow": Case(
        ("train", "digits", "--batch-size", "32", "--objective", "meanflow", "--guidance", "2")
    ),
    "digits-dropout-parts": Case(
        (
            "train", "digits", "--batch-size", "32", "--dropout", "0.2", "--accumulate", "2",
            "--checkpointing", "--more-emas", "0.9", "--weight-decay", "0.1",
        )
    ),
    "digits-classifier": Case(("train", "digits-classifier", "--batch-size", "32"), None),
    "digits-by-classifier": Case(
        ("train", "digits", "--batch-size", "32", "--condition-dropout", "1"),
        {
            "classifier": (
                "--classifier", "RUNS/digits-classifier", "--classifier-scale", "2",
                "--label", "3", "--nfe", "10",
            ),
        },
    ),
    "images-folder": Case(
        (
            "train", "images", "--data", "DATA/folder", "--size", "16", "--batch-size", "8",
            "--width", "16", "--multipliers", "1", "2", "--blocks", "1", "--flip", "--shift", "1",
        )
    ),
    "images-npy": Case(
        (
            "train", "images", "--data", "DATA/images.npy", "--batch-size", "8",
            "--network", "dit-nano", "--patch", "4",
        )
    ),
    "fashion": Case(
        ("train", "fashion", "--batch-size", "8", "--width", "16"), {"default": ("--nfe", "5")}
    ),
    "bridge": Case(
        (
            "train", "bridge", "--source-data", "DATA/a.npy", "--data", "DATA/b.npy",
            "--batch-size", "64",
        )
    ),
    "cells": Case(("train", "cells", "--batch-size", "64")),
    "superresolution": Case(("train", "superresolution", "--batch-size", "32")),
    "superresolution-unpaired": Case(
        ("train", "superresolution", "--batch-size", "32", "--coupling", "ot")
    ),
    "classifier": Case(
        (
            "train", "classifier", "--data", "DATA/folder", "--size", "16", "--batch-size", "16",
            "--multipliers", "1", "2",
        ),
        None,
    ),
    "reflow": Case(
        ("reflow", "RUNS/toy2d-ot", "--pairs", "500", "--num", "64", "--batch-size", "128"),
        {"one call": ("--nfe", "1"), "default": ()},
    ),
    "reflow-digits": Case(
        (
            "reflow", "RUNS/digits", "--pairs", "64", "--num", "32", "--batch-size", "32",
            "--validate-every", "0",
        ),
        {"one call": ("--nfe", "1")},
    ),
    **{
        f"distill-{method}": Case(
            (
                "distill", "RUNS/digits", "--method", method, "--batch-size", "16",
                *(() if method == "reflow" else ("--guidance", "1.5")),
                *(("--from-steps", "4", "--student-steps", "2") if method == "progressive" else ()),
                *(("--pairs", "64") if method == "reflow" else ()),
            ),
            {"default": ()} if method == "progressive" else {"one call": ("--nfe", "1")},
        )
        for method in (
            "consistency", "continuous-consistency", "meanflow", "progressive", "shortcut", "reflow"
        )
    },
}  # fmt: skip
