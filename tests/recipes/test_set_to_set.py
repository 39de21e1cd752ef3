"""From one set of data to another: cells to cells, coarse images to fine ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import flowio
import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.cli import main
from pushforward.core.errors import DataError, InputError
from pushforward.core.noise import Noise
from pushforward.data.images.coarse import coarsen
from pushforward.recipes import Cells, SuperResolution
from pushforward.recipes.experiment import PICTURE_SEED
from pushforward.recipes.run import train
from pushforward.recipes.set_to_set import CellMapping, Refinement

CHANNELS = ("Time", "V2-A", "B1-A", "B1-W")


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 cells before and after a treatment that turns and stretches their cloud."""
    folder = tmp_path_factory.mktemp("plate")
    rng = np.random.default_rng(0)
    for name, mean, matrix in (
        ("before_1", (300, 100), ((80, 0), (0, 30))),
        ("before_2", (300, 100), ((80, 0), (0, 30))),
        ("after", (100, 900), ((40, 60), (90, -70))),
    ):
        n = 400 if name == "after" else 200
        values = np.empty((n, 4))
        values[:, 1:3] = rng.normal(size=(n, 2)) @ np.array(matrix).T + mean
        values[:, 0], values[:, 3] = np.arange(n), rng.normal(size=n)
        with (folder / f"{name}.fcs").open("wb") as file:
            flowio.create_fcs(file, values.flatten().tolist(), list(CHANNELS)).close()
    return folder


def recipe(plate: Path, **options: object) -> Cells:
    given = {
        "data": plate,
        "source": "before",
        "target": "after",
        "device": "cpu",
        "width": 32,
        "depth": 2,
    }
    return Cells.of(**given | options)  # type: ignore[arg-type]


def rows(x: torch.Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in x.tolist()}


def test_cells_of_both_populations_are_kept_apart_from_training(plate: Path) -> None:
    experiment = recipe(plate, batch_size=320).build()
    assert isinstance(experiment, CellMapping)
    assert experiment.channels == ("V2-A", "B1-A")
    batch = experiment.stream.at(0)  # an epoch of both
    assert batch.x0 is not None
    assert experiment.held_out is not None
    source, _, target = experiment.carry(400, nfe=1)
    assert [len(rows(x)) for x in (batch.x0, batch.x1, source, target)] == [320, 320, 80, 80]
    assert not rows(batch.x0) & rows(source)
    assert not rows(batch.x1) & rows(target)
    seen = torch.cat((batch.x0, batch.x1)).double()
    torch.testing.assert_close(seen.mean(0), torch.zeros(2).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(seen.var(0, correction=0), torch.ones(2).double(), rtol=1e-5, atol=0)
    # What was measured comes back from the scale kept with the model, for all cells and no others.
    scale = pf.data.Asinh.from_json(experiment.model.spec.scale)
    back = scale.inverse(torch.cat((batch.x0, source)))
    measured = pf.data.load_cells("before", plate, ("V2-A", "B1-A")).values
    order = [np.lexsort(x.T[::-1]) for x in (back.numpy(), measured)]
    np.testing.assert_allclose(back.numpy()[order[0]], measured[order[1]], rtol=1e-4, atol=1e-2)


def test_the_pairs_of_a_batch_are_those_of_least_cost(plate: Path) -> None:
    """Among the pairings of a batch, none that swaps two of them is cheaper; independent ones are."""

    def gain(coupling: str) -> float:
        batch = recipe(plate, batch_size=40, coupling=coupling).build().stream.at(3)
        cost = torch.cdist(batch.x0, batch.x1).double() ** 2  # type: ignore[arg-type]
        own = cost.diag()
        return float((own[:, None] + own[None, :] - cost - cost.mT).max())

    assert gain("ot") < 1e-5
    assert gain("independent") > 1


def test_cells_arrive_at_their_target(plate: Path, tmp_path: Path) -> None:
    options = recipe(plate, out=tmp_path / "run", steps=400, lr=5e-3, ema=0.98, batch_size=128)
    folder, _ = train(options, quiet=True)
    experiment = replace(options.build(), model=pf.load(folder))
    figures, mapped, _ = experiment.judge(400, nfe=10)
    assert figures["energy"] < 0.05 * figures["energy_before"]
    assert len(mapped) == 80
    # The model takes a user's cells through the scale, and does not start from noise by mistake.
    with pytest.raises(InputError, match="start from cells: before"):
        pf.generate(experiment.model, 3)
    assert experiment.figure(400, {}, nfe=2)[:4] == b"\x89PNG"
    # In training and by the command line: three panels of cells, and one for each channel.
    page = experiment.picture(mapped, None, "")
    assert [a.get_title() for a in page.axes[:3]] == [
        "source: before",
        "before mapped",
        "target: after",
    ]
    assert main(["evaluate", str(folder), "--num", "80", "--nfe", "2"]) == 0
    assert (folder / "evaluation.png").is_file()


def test_populations_that_cannot_be_joined_are_refused(plate: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="both of before_1"):
        recipe(plate, target="before_1").build()
    with pytest.raises(DataError, match="begins with 'later'"):
        recipe(plate, target="later").build()
    with pytest.raises(DataError, match="no channel FITC"):
        recipe(plate, channels=("FITC",)).build()
    for name, channels in (("a", ["FSC-A", "V2-A"]), ("b", ["FSC-A", "B1-A"])):
        with (tmp_path / f"{name}.fcs").open("wb") as file:
            flowio.create_fcs(file, list(range(80)), channels).close()
    with pytest.raises(DataError, match=r"a and b .*not in both: V2-A, B1-A"):
        recipe(tmp_path, source="a", target="b").build()
    assert recipe(tmp_path, source="a", target="b", channels=("FSC-A",)).build().model.shape == (1,)


def test_a_coarse_image_and_its_fine_one_go_together() -> None:
    experiment = SuperResolution.of(blur=0.0, device="cpu", batch_size=64).build()
    assert isinstance(experiment, Refinement)
    batch = experiment.stream.at(5)
    assert batch.cond == {}
    assert torch.equal(batch.x0, coarsen(batch.x1, 2))  # type: ignore[arg-type]
    noisy = SuperResolution.of(blur=0.3, device="cpu", batch_size=64).build().stream.at(5)
    assert torch.equal(noisy.x1, batch.x1)
    z = (noisy.x0 - batch.x0) / 0.3  # type: ignore[operator]
    assert abs(float(z.var()) - 1) < 5 * (2 / z.numel()) ** 0.5
    coarse, fine, truth = experiment.carry(9, nfe=1)
    assert torch.equal(coarse, coarsen(truth, 2))
    assert fine.shape == truth.shape == (9, 1, 8, 8)
    assert not rows(truth.flatten(1)) & rows(
        torch.cat([experiment.stream.at(k).x1 for k in range(23)]).flatten(1)
    )


def test_unpaired_images_are_those_of_two_halves() -> None:
    experiment = SuperResolution.of(
        coupling="independent", blur=0.0, device="cpu", batch_size=719
    ).build()
    batch = experiment.stream.at(0)
    assert batch.x0 is not None
    assert torch.equal(coarsen(batch.x0, 2), batch.x0)
    same = rows(batch.x0.flatten(1)) & rows(coarsen(batch.x1, 2).flatten(1))
    assert len(same) < 5  # digits that look alike when coarse
    coupled = SuperResolution.of(coupling="ot", device="cpu", batch_size=32).build()

    def cost(stream: object) -> float:
        batch = stream.at(1)  # type: ignore[attr-defined]
        return float(((batch.x0 - batch.x1) ** 2).sum())

    free = SuperResolution.of(coupling="independent", device="cpu", batch_size=32).build()
    assert cost(coupled.stream) < 0.8 * cost(free.stream)


def test_images_that_cannot_be_made_coarse_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="multiples of 3"):
        SuperResolution.of(factor=3, device="cpu").build()
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 3, 12, 12)))
    experiment = SuperResolution.of(data=tmp_path / "x.npy", factor=3, device="cpu").build()
    assert experiment.model.shape == (3, 12, 12)


def test_pictures_of_refined_images_stand_between_what_they_were_made_of_and_the_truth(
    tmp_path: Path,
) -> None:
    recipe = SuperResolution.of(
        steps=1, batch_size=8, warmup=0, sample_every=0, device="cpu", out=tmp_path / "fine"
    )
    folder, _ = train(recipe, quiet=True)
    experiment = replace(recipe.build(), model=pf.load(folder))
    source = experiment.source
    samples = pf.generate(experiment.model, 5, source=source, nfe=2)
    drawn = [text.get_text() for text in experiment.picture(samples, None, "").texts]
    assert {"coarse", "sample", "truth"} <= set(drawn)
    # What is shown as the coarse image is what the sample began with, but for its noise.
    x0, truth = source.pair(Noise.batch(5, PICTURE_SEED))
    assert torch.equal(x0, source.draw(Noise.batch(5, PICTURE_SEED)))
    assert float((x0 - coarsen(truth, source.factor)).square().mean()) < 2 * source.std**2
    assert main(["evaluate", str(folder), "--num", "100", "--nfe", "2"]) == 0
    assert (folder / "evaluation.png").is_file()
