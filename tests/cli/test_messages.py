"""What the command line says when it cannot do what was asked: one message, no traceback, nothing written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pushforward.cli import main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run in the plane, `plane`, one by class, `digits`, and what is neither."""
    place = tmp_path_factory.mktemp("place")
    tiny = [
        "--device",
        "cpu",
        "--width",
        "8",
        "--batch-size",
        "8",
        "--steps",
        "2",
        "--sample-every",
        "0",
        "--out",
    ]
    assert main(["train", "toy2d", "--depth", "1", *tiny, str(place / "plane")]) == 0
    assert main(["train", "digits", *tiny, str(place / "digits")]) == 0
    (place / "empty").mkdir()
    (place / "other").mkdir()
    (place / "other" / "notes.txt").write_text("mine")
    (place / "file").write_text("a file")
    (place / "broken").mkdir()
    (place / "broken" / "model.json").write_text("{")
    (place / "broken" / "model.safetensors").write_bytes(b"")
    (place / "bad.npz").write_bytes(b"PK\x03\x04 not a zip file")
    (place / "bad.tar").write_bytes(b"not a tar archive" * 100)
    (place / "pictures").mkdir()
    (place / "pictures" / "cut.png").write_bytes(b"\x89PNG")
    np.save(place / "vectors.npy", np.zeros((4, 3), np.float32))
    Image.new("L", (8, 8)).save(place / "pictures" / "good.png")
    return place


def snapshot(place: Path) -> dict[str, tuple[int, bytes | None]]:
    return {
        str(p): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else None)
        for p in sorted(place.rglob("*"))
    }


@pytest.fixture
def call(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command line that fails; returns its exit code and what it wrote on stderr."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "200")

    def call(line: str) -> tuple[int, str]:
        before = snapshot(place)
        capsys.readouterr()
        try:
            code = main(line.split())
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        # At most the line with which a command opens, and nothing by options that are not understood.
        assert len(said.out.splitlines()) <= (0 if code == 2 else 1)
        assert snapshot(place) == before
        return code, said.err

    return call


# Errors of the library: exit code 1, exactly one line.
ERRORS = {
    "sample digits --nfe 4 --label 11": "label 11: this model knows the classes 0 to 9, and -1 for none",
    "sample digits --nfe 4 --label 3 11 -2": "label 11: this model knows the classes 0 to 9, and -1 for none",
    "sample plane --label 3": "--label needs a model with classes, and this one has none",
    "sample plane --guidance 2":
    "guidance needs a model with classes or other conditions that may be dropped, and this one has none",
    "evaluate plane --guidance 2":
    "guidance needs a model with classes or other conditions that may be dropped, and this one has none",
    "sample plane --nfe 1 --solver heun":
    "Heun calls the network 2 times in a step: nfe must be at least that, not 1",
    "evaluate plane --nfe 3 --solver rk4":
    "RK4 calls the network 4 times in a step: nfe must be at least that, not 3",
    "sample plane --nfe 9 --solver dopri5":
    "DormandPrince makes as many calls as its tolerance takes: it has no nfe to choose",
    "sample plane --grid karras --solver dopri5": "DormandPrince chooses its own times: it takes no grid",
    "evaluate plane --compare --nfes 8 0": "--nfes must be positive, got 0",
    "evaluate plane --compare --solvers heun dopri5":
    "dopri5 makes as many calls as it takes: it cannot be compared by them",
    "evaluate plane --compare --solvers heun ddpm":
    "ddpm draws noise of its own, so that its samples have no error: add --distance, or omit it",
    "evaluate empty --compare":
    "empty holds no model: model.json is missing. A run writes it with its first checkpoint",
    "tune plane": "for how many network calls? Give --nfe, as in --nfe 6 10",
    "tune plane --nfe 6 2": "--nfe is 2; a fitted sampler takes at least 3 calls",
    "tune plane --nfe 6 --guidance 2":
    "guidance needs a model with classes or other conditions that may be dropped, and this one has none",
    "tune empty --nfe 6": "empty holds no model: model.json is missing. A run writes it with its first checkpoint",
    "sample plane --nfe 4 --out file": "cannot write into file: file is no folder",
    "sample nowhere": "there is no folder nowhere; models that come with pushforward: scenes",
    "sample file": "file is a file, and a model is a folder: that of a run, or what pf.save wrote",
    "evaluate empty": "empty holds no model: model.json is missing. A run writes it with its first checkpoint",
    "info nowhere": "there is no folder nowhere; models that come with pushforward: scenes",
    "info broken": "cannot read broken/model.json: "
    "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
    "train toy2d --out plane": "plane already holds a run: continue it with --resume, replace it with --overwrite, or "
    "choose another --out",
    "train toy2d --out other": "other already holds files that are not a run: choose another --out",
    "train toy2d --out file": "file cannot be a run folder: Not a directory; choose another --out",
    "train toy2d --out file/run": "cannot create the run folder file/run: Not a directory",
    "train toy2d --out nowhere --resume": "nowhere is not a run folder: it has no config.toml",
    "train toy2d --out empty --resume": "empty is not a run folder: it has no config.toml",
    "train toy2d --out file --resume": "file is not a run folder: it has no config.toml",
    "train digits --out plane --resume": "plane holds a run of the recipe toy2d, not digits",
    "train toy2d --out plane --resume --lr 0.5 --target moons":
    "--resume continues with the options of plane, and these differ: --lr 0.5 (the run has 0.002), "
    "--target moons (the run has 8gaussians). Omit them, or start another run in another --out, --from plane if it "
    "should begin with these weights",
    "train images --data nowhere --out new": "there is no folder nowhere",
    "train images --data nowhere.npz --out new": "there is no file nowhere.npz",
    "train images --data file --out new": "file is none of the data that are read: *",
    "train images --data empty --out new": "empty has no images (png, jpg, jpeg, webp, bmp, gif); it holds no files",
    "train images --data other --out new": "other has no images (png, jpg, jpeg, webp, bmp, gif); it holds 1 x .txt",
    "train images --data bad.npz --out new": "bad.npz cannot be read as a NumPy file, it is damaged: "
    "File is not a zip file; save it again",
    "train images --data vectors.npy --out new":
    "vectors.npy holds samples of shape (3,); this recipe takes images (C, H, W): pushforward train array "
    "takes anything else",
    "train images --data vectors.npy --size 8 --out new": "--size is for images, and the data are 4 vectors, 3",
    "train images --data vectors.npy --crop --out new":
    'crop="random" is for image files; an array holds what was cut already',
    "train images --data pictures --crop --lazy no --out new":
    "--crop cuts anew from the files at each step, which --lazy no rules out",
    "train images --data nowhere.tar --out new": "there is no archive nowhere.tar",
    "train images --data bad.tar --out new": "bad.tar is no tar archive: at byte 0 is no header (*",
    "pack nowhere --out new": "there is no folder nowhere",
    "pack file --out new": "file is not a folder; load a .npy or .npz file with load_array",
    "pack empty --out new": "empty has no images (png, jpg, jpeg, webp, bmp, gif); it holds no files",
    "pack pictures --out new": "pictures/cut.png is none of PNG, JPEG, WEBP, BMP, GIF. Mend or remove it, *",
    "pack pictures --out other": "other is there already: name a folder that is new or empty",
    "pack pictures --out file": "file is there already: name a folder that is new or empty",
    "train toy2d --device nowhere --out new": "device 'nowhere' cannot be used: *",
    "train toy2d --device meta --out new": "device 'meta' cannot be used: *",
    "sample plane --device nowhere": "device 'nowhere' cannot be used: *",
    "train images --data pictures --out new": "pictures: 1 file that cannot be used*",
}  # fmt: skip


@pytest.mark.parametrize("line", ERRORS)
def test_what_cannot_be_done_is_one_line_and_exit_code_1(call, line: str) -> None:
    code, said = call(line)
    want = ERRORS[line]
    assert code == 1
    assert "Traceback" not in said
    if line == "train images --data pictures --out new":  # A list of the files.
        assert "pictures" in said
        assert "cut.png" in said
        return
    assert said.count("\n") == 1
    if want.endswith("*"):
        assert said.startswith(f"pushforward: {want[:-1]}")
    else:
        assert said == f"pushforward: {want}\n"


# Command lines that cannot be understood: exit code 2, one line as well.
MISUSE = {
    "": "which command? One of train, sample, edit, caption, evaluate, likelihood, *",
    "fly": "there is no command 'fly'; it is one of train, *",
    "smaple": "there is no command 'smaple'; did you mean sample? It is one of train, *",
    "train": "which recipe? One of toy2d, *",
    "train digit": "there is no recipe 'digit'; did you mean digits? *",
    "train toy2d --lrr 3": "there is no option --lrr; did you mean --lr?",
    "train toy2d --lr": "--lr lacks a value",
    "train toy2d --lr fast": "--lr: 'fast' is no number",
    "train toy2d --lr -1": "--lr -1.0: must be greater than 0",
    "train toy2d --lr nan": "--lr nan: must be greater than 0",
    "train toy2d --steps 0": "--steps 0: must be greater than or equal to 1",
    "train toy2d --steps 1.5": "--steps: '1.5' is no whole number",
    "train toy2d --seed -1": "--seed -1: must be greater than or equal to 0",
    "train toy2d --seed 18446744073709551616": "--seed 18446744073709551616: must be less than 18446744073709551616",
    "train toy2d --ema 1": "--ema 1.0: must be less than 1",
    "train toy2d --width 7": "--width 7: must be a multiple of 2",
    "train digits --condition-dropout 1.5": "--condition-dropout 1.5: must be less than or equal to 1",
    "train toy2d --path nothing": "--path: there is no 'nothing'; it is one of condot, cosine, vp, subvp, ve, edm, *",
    "train toy2d --path cosin": "--path: there is no 'cosin'; did you mean cosine? *",
    "train toy2d --prediction nothing": "--prediction: there is no 'nothing'; it is one of velocity, data, *",
    "train toy2d --target moon": "--target: there is no 'moon'; did you mean moons? It is one of 8gaussians, *",
    "train toy2d --std 1": "--std is an option of --path tube or of --path smooth-bridge",
    "train toy2d --objective sf2m --path condot": "--path: there is no 'condot'; it is one of brownian",
    "train toy2d more": "'more' is one argument too many",
    "train images --out new": "--data is missing: Folder of images, .tar archives, .npy or .npz file.",
    "train bridge --out new": "--source-data is missing: What samples start from: *",
    "train images --channels 2": "--channels: there is no '2'; it is one of 1, 3",
    "pack pictures": "--out is missing: The folder of archives, which must be new or empty.",
    "pack pictures --out new --per-shard 0": "--per-shard 0: must be greater than or equal to 1",
    "sample": "--folder is missing: *",
    "sample plane --solver huen": "--solver: there is no 'huen'; did you mean heun*",
    "sample plane --grid nothing": "--grid: there is no 'nothing'; it is one of auto, learned, angle, *",
    "tune plane --nfe 6 --method magic": "--method: there is no 'magic'; it is one of gradient, least-squares",
    "tune plane --nfe x": "--nfe: *",
    "tune plane --nfe 6 --num 7": "--num 7: must be greater than or equal to 8",
    "sample plane --nfe 0": "--nfe 0: must be greater than or equal to 1",
    "sample plane again": "'again' is one argument too many",
    "evaluate plane --num 1": "--num 1: must be greater than or equal to 2",
    "evaluate plane --grids karras": "there is no option --grids; did you mean --grid?",
    "evaluate plane --distance": "there is no option --distance*",
    "evaluate plane --compare --solver heun": "there is no option --solver; did you mean --solvers?",
    "evaluate plane --compare --nfe 8": "there is no option --nfe; did you mean --nfes?",
    "evaluate plane --compare --nfes": "--nfes is empty: give at least one",
    "info": "--folder is missing: Run folder, or any folder with a model; scenes, which is shipped; or hub:OWNER/NAME.",
}  # fmt: skip


@pytest.mark.parametrize("line", MISUSE)
def test_a_command_line_that_cannot_be_understood_is_one_line_and_exit_code_2(
    call, line: str
) -> None:
    code, said = call(line)
    want = MISUSE[line]
    assert code == 2
    assert said.count("\n") == 1
    if want.endswith("*"):
        assert said.startswith(f"pushforward: {want[:-1]}")
    else:
        assert said == f"pushforward: {want}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["train", "toy2d", "--objective", "dsbm", "--help"],
        ["train", "toy2d", "--objective", "dsbn"],
        ["sample", "--help"],
        ["tune", "--help"],
        ["--version-that-is-not-there"],
    ],
)
def test_help_and_misuse_need_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from pushforward.cli import main\n"
        f"try: code = main({arguments!r})\n"
        "except SystemExit as stop: code = stop.code\n"
        "print('code', code)\n"
        "heavy = {'torch', 'numpy', 'sklearn', 'scipy', 'PIL', 'safetensors'}\n"
        "print('heavy', sorted(heavy & {name.split('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith(f"code {0 if '--help' in arguments else 2}\nheavy []\n")


def test_help_shows_every_command_and_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    for command in ("train", "sample", "evaluate", "likelihood", "tune", "pack", "info"):
        assert command in said


def test_python_m_pushforward_is_the_command_line(place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pushforward", "info", "nowhere"],
        capture_output=True,
        text=True,
        cwd=place,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"pushforward: {ERRORS['info nowhere']}\n"


def test_ctrl_c_is_130_and_no_traceback(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pushforward.saving.folder.load", interrupt)
    assert main(["info", str(place / "plane")]) == 130
    assert capsys.readouterr().err == "pushforward: stopped\n"


def test_info_of_a_log_whose_last_line_was_cut_shows_the_line_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = "--device cpu --width 8 --depth 1 --batch-size 8 --steps 4 --log-every 2 --sample-every 0 --out"
    assert main(["train", "toy2d", *options.split(), str(run)]) == 0
    first = json.loads((run / "log.jsonl").read_text().splitlines()[0])
    log = (run / "log.jsonl").read_bytes()
    (run / "log.jsonl").write_bytes(log[:-9])
    capsys.readouterr()
    assert main(["info", str(run)]) == 0
    assert f"{first['loss']:.5f}" in capsys.readouterr().out
    (run / "log.jsonl").write_bytes(b"\xff not json\n")
    assert main(["info", str(run)]) == 1
    assert capsys.readouterr().err.startswith(f"pushforward: cannot read {run / 'log.jsonl'}: ")
