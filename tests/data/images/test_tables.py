"""Captions of a folder: text files beside pictures and CSV tables, odd ones too. Nothing is dropped in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from pushforward.core.errors import DataError
from pushforward.data import Dataset, load_folder


def paint(folder: Path, *names: str) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(folder / name)


def red(data: Dataset) -> list[int]:
    """What tells the pictures apart."""
    x = data[torch.arange(len(data))].x1
    return ((x[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def test_text_files_beside_pictures_are_captions(tmp_path: Path) -> None:
    paint(tmp_path, "b.png", "a.jpg", "in/c.png", "v1.2.png")
    (tmp_path / "b.txt").write_text("a dog\nthat runs\n")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa caf\xc3\xa9\r\n")
    (tmp_path / "in" / "c.txt").write_text("")
    (tmp_path / "v1.2.txt").write_text("with a dot")
    data = load_folder(tmp_path)
    assert data.captions == ("a café", "a dog\nthat runs", "", "with a dot")
    assert not any("txt" in note for note in data.notes)


def test_folders_are_classes_beside_captions(tmp_path: Path) -> None:
    paint(tmp_path, "cat/1.png", "dog/1.png")
    for name in ("cat", "dog"):
        (tmp_path / name / "1.txt").write_text(f"a {name}")
    data = load_folder(tmp_path)
    assert data.captions == ("a cat", "a dog")
    assert data.class_names == ("cat", "dog")


def test_a_picture_without_a_caption_and_a_caption_without_a_picture_are_said(tmp_path) -> None:
    paint(tmp_path, "a.png", "b.png", "c.png", "d.png")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "d.txt").write_text("x" * ((1 << 20) + 1))
    (tmp_path / "z.txt").write_text("of nothing")
    (tmp_path / "classes.txt").write_text("dog")
    with pytest.raises(DataError) as caught:
        load_folder(tmp_path)
    words = str(caught.value)
    assert "has 3 problems" in words
    assert "b.png: has no caption: there is no b.txt, and others have one" in words
    assert "c.png: has no caption: c.txt cannot be read as UTF-8 text" in words
    assert "d.png: has no caption: d.txt" in words
    data = load_folder(tmp_path, on_bad="skip")
    assert data.captions == ("one",)
    assert red(data) == [0]
    assert any("z.txt" in note and "not read" in note for note in data.notes)
    assert not any("a.txt" in note for note in data.notes)


def test_text_files_that_belong_to_no_picture_are_no_captions(tmp_path: Path) -> None:
    paint(tmp_path, "a.png", "labels.png")
    (tmp_path / "README.txt").write_text("words")
    (tmp_path / "labels.txt").write_text("words")
    assert load_folder(tmp_path).captions is None


@pytest.mark.parametrize("name", ["metadata.csv", "captions.csv"])
def test_a_csv_file_has_captions_labels_and_numbers(tmp_path: Path, name: str) -> None:
    paint(tmp_path, "a.png", "b, c.png", "d.png")
    (tmp_path / name).write_bytes(
        b"\xef\xbb\xbffile_name,caption,label,age,other\r\n"
        b'd.png,"a dog, ""Rex"",\r\non two lines",dog,2.5,\r\n'
        b"\r\n"
        b'"b, c.png",,cat,,\r\n'
        b"a.png,plain,dog,-1e1,x\r\n"
    )
    data_problem = "b, c.png has no text, others have"
    with pytest.raises(DataError, match=data_problem) as caught:
        load_folder(tmp_path)
    assert f"{name}, line 5" in str(caught.value)
    data = load_folder(tmp_path, on_bad="skip", columns=["age"])
    assert data.captions == ("plain", 'a dog, "Rex",\non two lines')
    assert data.class_names == ("dog",)
    assert data.columns["age"].tolist() == [-10.0, 2.5]
    assert red(data) == [0, 40]
    assert any("not used: the fields 'other'" in note for note in data.notes)


@pytest.mark.parametrize(
    "head", ["file_name,text", "image,prompt", "filename,caption", "path,text"]
)
def test_columns_go_by_several_names(tmp_path: Path, head: str) -> None:
    paint(tmp_path, "a.png")
    (tmp_path / "captions.csv").write_text(f"{head}\na.png,hello\n")
    assert load_folder(tmp_path).captions == ("hello",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "it has nothing"),
        ("a,b\n1,2\n", "must name the columns, and one of them the images .file_name.*; it has 'a', 'b'"),
        ("file_name,text,text\n", "two of its columns have one name"),
        ('file_name,text\na.png,"never closed\n', "line 3 is not CSV|line 2 is not CSV"),
        ("file_name,text\na.png,one,two\n", "line 2: has 3 cells, and there are 2 columns"),
        ("file_name,text\na.png,one\na.png,two\n", "line 3: a.png was described before, in line 2"),
        ("file_name,text\na.png,one\ngone.png,two\n", "line 3: there is no file gone.png"),
        ("file_name,text\n,one\n", "line 2: has no file_name"),
        ("file_name,text\n../a.png,one\n", "leads out of the folder"),
    ],
)  # fmt: skip
def test_tables_that_are_wrong_are_said(tmp_path: Path, content: str, words: str) -> None:
    paint(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text(content)
    with pytest.raises(DataError, match=words):
        load_folder(tmp_path)


def test_bytes_that_are_no_text_and_numbers_that_are_none_are_said(tmp_path: Path) -> None:
    paint(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.csv").write_bytes(b"file_name,text\na.png,\xff\n")
    with pytest.raises(DataError, match="cannot be read as UTF-8 text"):
        load_folder(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,age\na.png,old\nb.png,3\n")
    with pytest.raises(DataError, match=r"line 2: has no number where one is needed.*'old'"):
        load_folder(tmp_path, columns=["age"])


def test_the_first_table_is_read_and_others_are_noted(tmp_path: Path) -> None:
    paint(tmp_path, "a.png")
    (tmp_path / "captions.csv").write_text("file_name,text\na.png,of captions.csv\n")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,of metadata.csv\n")
    (tmp_path / "a.txt").write_text("of a.txt")
    data = load_folder(tmp_path)
    assert data.captions == ("of metadata.csv",)
    assert any(
        "captions.csv is not read; labels and captions come from metadata.csv" in n
        for n in data.notes
    )
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": "of metadata.jsonl"}\n'
    )
    data = load_folder(tmp_path)
    assert data.captions == ("of metadata.jsonl",)
    assert sum("is not read" in note for note in data.notes) == 2
