"""One's own images: what is found in folders, archives and tables, and each thing that can be wrong with them."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import unicodedata
import zipfile

import made_up_pictures as made
import numpy as np
import pytest
from laboratory import node
from PIL import Image

from dlrun.cli.main import main
from dlrun.config.instantiate import build_part
from dlrun.core.errors import UserError
from dlrun.data.images import archives, decoded_cache


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dlrun" / "pictures"


def images(path, **changes):
    """The dataset as its YAML says, with small images."""
    return build_part(node("data", "images", path=str(path), **{"size": [8, 12], **changes}))


def names(rows):
    return [rows["image"].file_name(row) for row in range(len(rows["image"]))]


def photos(tmp_path, **classes):
    return made.folder(tmp_path / "photos", classes or {"cat": 10, "dog": 10})


# --- folders ----------------------------------------------------------------------------------------------------------


def test_two_folders_are_a_binary_question_and_three_are_classes(tmp_path):
    raw = images(photos(tmp_path))
    assert raw.targets == {"label": "binary"} and raw.labels["label"] == ("cat", "dog")
    for rows, count in ((raw.dev, 16), (raw.test(), 4)):
        assert len(rows["label"]) == count and rows["label"].sum() == count / 2
        assert [name.split("/")[0] for name in names(rows)] == [
            ("cat", "dog")[label] for label in rows["label"]
        ]
        direct = [np.asarray(Image.open(tmp_path / "photos" / name)).mean() for name in names(rows)]
        assert np.abs(np.asarray(rows["image"]).mean((1, 2, 3)) - direct).max() < 3
    assert not set(names(raw.dev)) & set(names(raw.test()))
    assert images(tmp_path / "photos", test=0.0).test is None
    made.folder(tmp_path / "photos", {"ant": 4})
    raw = images(tmp_path / "photos")
    assert raw.targets == {"label": "category"} and raw.labels["label"] == ("ant", "cat", "dog")


def test_test_pictures_are_not_opened_before_they_are_asked_for(tmp_path, monkeypatch):
    seen = set()
    whole = archives.read_bytes
    for module in ("dlrun.data.images.decoded_cache", "dlrun.data.images.decode_workers"):
        monkeypatch.setattr(
            f"{module}.read_bytes", lambda place, name: seen.add(name) or whole(place, name)
        )
    raw = images(photos(tmp_path))
    assert seen == set(names(raw.dev))
    assert seen == set(names(raw.dev)) | set(names(raw.test()))


def test_folders_in_a_class_are_read_and_what_is_no_picture_is_told(tmp_path, caplog):
    place = photos(tmp_path)
    made.folder(place / "cat", {"indoors": 2})
    made.folder(place / "cat" / "indoors", {"on the sofa": 2})
    for name in (".DS_Store", "Thumbs.db", ".hidden.png"):
        (place / "cat" / name).write_bytes(b"x")
    (place / ".git").mkdir()
    (place / ".git" / "a.png").write_bytes(b"x")
    (place / "notes.txt").write_text("x")
    (place / "stray.png").write_bytes(made.encoded(made.pixels(1)))
    (place / "empty").mkdir()
    raw = images(place, test=0.0)
    assert (
        len(raw) == 24
        and (raw.dev["label"] == 0).sum() == 14
        and raw.labels["label"] == ("cat", "dog")
    )
    assert "cat/indoors/on the sofa/001.png" in names(raw.dev)
    assert (
        "notes.txt" in caplog.text and "stray.png" in caplog.text and "DS_Store" not in caplog.text
    )


def test_names_in_any_script_and_either_way_to_write_an_accent(tmp_path):
    composed = unicodedata.normalize("NFC", "café")
    apart = unicodedata.normalize("NFD", "café")
    place = made.folder(tmp_path / "фото", {composed: 5, "猫": 5})
    (place / composed / f"{apart}.png").write_bytes(made.encoded(made.pixels(1)))
    raw = images(place, test=0.0)
    assert (
        raw.labels["label"] == (composed, "猫")
        and len(raw) == 11
        and f"{composed}/{apart}.png" in names(raw.dev)
    )
    (tmp_path / "l.csv").write_text(
        f"file,label\n{apart}/000.png,a\n猫/001.png,b\n猫/002.png,b\n", encoding="utf-8"
    )
    assert names(images(place, labels=str(tmp_path / "l.csv"), test=0.0).dev) == [
        f"{composed}/000.png", "猫/001.png", "猫/002.png"
    ]  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_text_is_read_and_can_be_written(tmp_path):
    place = photos(tmp_path)
    os.rename(os.fsencode(place / "cat"), os.path.join(os.fsencode(place), b"ca\xff"))
    raw = images(place)
    assert raw.labels["label"] == ("ca\ufffd", "dog") and raw.labels["label"][0].encode()
    assert len(raw.dev["image"]) == 16


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_files_whose_names_are_no_text_go_through_a_run_and_predict(tmp_path, capsys):
    place = made.folder(tmp_path / "photos", {"cat": 40, "dog": 40})
    for path in [*place.rglob("*.png")]:
        os.rename(path, os.path.join(os.fsencode(path.parent), b"caf\xe9" + os.fsencode(path.name)))
    with open(os.path.join(os.fsencode(place), b"cat/bad\xe9.png"), "wb") as file:
        file.write(b"no image")
    code, results = run(tmp_path / "out", f"data.path={place}", "data.unreadable=skip")
    (folder,) = (path.parent for path in (tmp_path / "out").rglob("results.jsonl"))
    assert (
        code == 0
        and results
        and "bad\ufffd.png" in (folder / "log.txt").read_text(encoding="utf-8")
    )
    assert main(["predict", str(folder), str(place / "cat"), f"to={tmp_path / 'answers.csv'}"]) == 0
    written = (tmp_path / "answers.csv").read_text(encoding="utf-8")
    assert "caf\ufffd000.png" in written and "bad" not in written
    assert "bad\ufffd.png" in capsys.readouterr().out


def test_validation_rows_are_counted_without_those_set_aside_for_the_test(tmp_path):
    for part, count in (("train", 10), ("validation", 10)):
        made.folder(tmp_path / "photos" / part, {"cat": count, "dog": count})
    raw = images(tmp_path / "photos", test=0.25)
    count = sum(name.startswith("validation/") for name in names(raw.dev))
    assert 0 < count < 20 and raw.num_validation_rows == count


def test_train_validation_and_test_folders(tmp_path, caplog):
    caplog.set_level("INFO", "dlrun")
    for part, count in (("Train", 6), ("val", 3), ("test", 2)):
        made.folder(tmp_path / "photos" / part, {"cat": count, "dog": count})
    raw = images(tmp_path / "photos")
    assert (
        names(raw.dev)[0] == "Train/cat/000.png"
        and [n.split("/")[0] for n in names(raw.dev)[12:]] == ["val"] * 6
    )
    assert raw.num_validation_rows == 6
    assert not images(tmp_path / "photos", validation="mixed").num_validation_rows
    assert "protocol=last_rows protocol.validation=6" in caplog.text
    assert names(raw.test()) == [
        f"test/{animal}/00{number}.png" for animal in ("cat", "dog") for number in (0, 1)
    ]
    made.folder(tmp_path / "photos" / "test", {"cow": 1})
    raw = images(tmp_path / "photos")
    assert raw.labels["label"] == ("cat", "cow", "dog") and len(raw.test()["label"]) == 5


def test_links_that_lead_out_are_not_followed(tmp_path, caplog):
    place = photos(tmp_path)
    made.folder(tmp_path / "outside", {"secret": 3})
    try:
        (place / "cat" / "out.png").symlink_to(tmp_path / "outside" / "secret" / "000.png")
    except OSError:
        pytest.skip("this system makes no links")
    (place / "cow").symlink_to(tmp_path / "outside" / "secret")
    (place / "dog" / "again.png").symlink_to(place / "dog" / "000.png")
    raw = images(place, test=0.0)
    assert (
        len(raw) == 21
        and raw.labels["label"] == ("cat", "dog")
        and "dog/again.png" in names(raw.dev)
    )
    assert "cat/out.png" in caplog.text and "cow" in caplog.text


def test_what_is_wrong_with_a_folder_is_said(tmp_path):
    with pytest.raises(UserError, match="data.path=FOLDER"):
        build_part(node("data", "images"))
    with pytest.raises(UserError, match="does not exist"):
        images(tmp_path / "none")
    (tmp_path / "file.txt").write_text("x" * 999)
    with pytest.raises(UserError, match="is no zip or tar archive"):
        images(tmp_path / "file.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image: no file there ends in .jpg"):
        images(tmp_path / "empty")
    with pytest.raises(UserError, match="one class only, 'cat': .*data.labels=FILE.csv"):
        images(photos(tmp_path, cat=3))
    with pytest.raises(UserError, match=r"no folder for each class \(3 images lie in none\)"):
        images(tmp_path / "photos" / "cat")
    with pytest.raises(UserError, match="a height and a width"):
        images(photos(tmp_path), size=[8])


BROKEN = {
    "empty.jpg": b"",
    "text.jpg": b"my cat",
    "cut.png": made.encoded(made.pixels(3, 90, 90))[:-400],
}


def test_broken_files_are_refused_by_name_or_left_out_and_counted(tmp_path, caplog):
    place = photos(tmp_path)
    for name, content in BROKEN.items():
        (place / "dog" / name).write_bytes(content)
    with pytest.raises(UserError) as refused:
        images(place, test=0.0)
    for part in (
        "3 of 23 files",
        "'dog/empty.jpg' (empty: 0 bytes)",
        "'dog/text.jpg' (no image",
        "'dog/cut.png' (cut off",
    ):
        assert part in str(refused.value)
    assert "data.unreadable=skip" in str(refused.value)
    raw = images(place, test=0.0, unreadable="skip")
    assert (
        len(raw) == 20
        and raw.dev["label"].tolist() == [0] * 10 + [1] * 10
        and "3 of 23" in caplog.text
    )
    assert all("dog/" in name for name in names(raw.dev)[10:]) and not set(BROKEN) & set(
        names(raw.dev)
    )
    sealed = images(place, test=0.5, unreadable="skip")
    assert len(sealed.dev["image"]) + len(sealed.test()["image"]) == 20


# --- tables -----------------------------------------------------------------------------------------------------------


def table(tmp_path, lines, name="labels.csv"):
    place = tmp_path / "flat"
    place.mkdir(exist_ok=True)
    for number in range(12):
        (place / f"{number}.png").write_bytes(made.encoded(made.pixels(number)))
    (place / name).write_text("\n".join(["file,label", *lines]) + "\n", encoding="utf-8")
    return place


def test_a_table_names_files_and_classes(tmp_path, caplog):
    place = table(tmp_path, [f"{number}.png,{'ab'[number % 2]}" for number in range(10)])
    raw = images(place, labels="labels.csv", test=0.0)
    assert raw.targets == {"label": "binary"} and raw.labels["label"] == ("a", "b")
    assert (
        names(raw.dev) == [f"{number}.png" for number in range(10)]
        and raw.dev["label"].tolist() == [0, 1] * 5
    )
    assert "2 images have no line" in caplog.text
    table(tmp_path, [f"{number}.png,{number % 3 * 5}" for number in range(12)])
    raw = images(place, labels=str(place / "labels.csv"))
    assert raw.targets == {"label": "category"} and raw.labels["label"] == ("0", "5", "10")
    assert len(raw) + len(raw.test()["label"]) == 12


def test_several_labels_a_picture(tmp_path):
    place = table(
        tmp_path,
        [
            f"{number}.png,{['sea | sky', 'sky', '', 'sea|sand'][number % 4]}"
            for number in range(12)
        ],
    )
    raw = images(place, labels="labels.csv", separator="|", test=0.25)
    assert raw.targets == {"labels": "multilabel"} and raw.labels["labels"] == (
        "sand",
        "sea",
        "sky",
    )
    whole = images(place, labels="labels.csv", separator="|", test=0.0).dev["labels"]
    assert whole[:4].tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 0], [1, 1, 0]]
    assert len(raw) == 9 and raw.test()["labels"].shape == (3, 3)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["0.png,a", "../secret.png,b"], r"files outside .* are not read: 1 row \(line 3\)"),
        (["0.png,a", "/etc/secret.png,b"], "files outside"),
        (["0.png,a", "99.png,b"], r"1 row \(line 3\) name no image in .*: 99.png"),
        (
            ["0.png,a", "1.png,b", "0.png,b"],
            r"1 row \(line 4\) name a file that an earlier line has",
        ),
        (["0.png,a", "1.png,", "2.png,b"], r"the label is missing in 1 row \(line 3\)"),
        (["0.png,a", "1.png,a"], "target 'label' is 'a' in all 2 rows"),
        (["0.png,a,b"], "line 2: 3 cells"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_with_the_line(tmp_path, lines, message):
    with pytest.raises(UserError, match=message):
        images(table(tmp_path, lines), labels="labels.csv")


def test_other_faults_of_a_table(tmp_path):
    place = table(tmp_path, ["0.png,a", "1.png,a"])
    with pytest.raises(UserError, match="1 different labels"):
        images(place, labels="labels.csv", separator="|")
    (place / "other.csv").write_text("name,label\n0.png,a\n")
    with pytest.raises(
        UserError,
        match="'file' is not a column of .*other.csv; available: name, label; .*data.columns=",
    ):
        images(place, labels="other.csv")
    with pytest.raises(UserError, match="none.csv does not exist"):
        images(place, labels="none.csv")


# --- archives ---------------------------------------------------------------------------------------------------------


def packed(tmp_path, kind, place):
    path = tmp_path / f"photos.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(place.rglob("*.*")):
                archive.write(file, f"photos/{file.relative_to(place)}")
    else:
        with tarfile.open(path, "w:gz" if kind == "tgz" else "w") as archive:
            archive.add(place, "photos" if kind == "tgz" else ".")
    return path


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_an_archive_is_read_like_the_folder_and_nothing_is_unpacked(tmp_path, kind, cache):
    place = photos(tmp_path)
    path = packed(tmp_path, kind, place)
    raw, plain = images(path), images(place)
    assert raw.dev["image"].digest == plain.dev["image"].digest and raw.labels == plain.labels
    assert np.array_equal(raw.dev["label"], plain.dev["label"])
    assert [name.removeprefix("photos/") for name in names(raw.test())] == names(plain.test())
    assert (
        not list(cache.rglob("*.png")) and len(list(cache.glob("*.npy"))) == 2
    )  # development and test rows
    assert len(list(cache.glob("*.zip"))) == (kind != "zip")


def evil_zip(path, name, body=b"x", mode=0, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr, info.compress_type = mode << 16, method
        archive.writestr(info, body)


@pytest.mark.parametrize(
    "name", ["../../evil.png", "/etc/evil.png", "C:/evil.png", "a/..\\evil.png", "\\evil.png"]
)
def test_an_archive_whose_names_lead_out_is_refused(tmp_path, name):
    evil_zip(tmp_path / "evil.zip", name)
    with pytest.raises(UserError, match="leads out of the archive"):
        images(tmp_path / "evil.zip")
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(UserError, match="leads out of the archive"):
        images(tmp_path / "evil.tar")


def test_links_in_an_archive_are_refused(tmp_path):
    evil_zip(tmp_path / "evil.zip", "a/link.png", b"/etc/passwd", mode=0o120777)
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        member = tarfile.TarInfo("a/link.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    for kind in ("zip", "tar"):
        with pytest.raises(UserError, match="is a link"):
            images(tmp_path / f"evil.{kind}")


def test_decompression_bombs_are_refused_before_they_go_off(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(archives, "MIN_CHECKED_BYTES", 100_000)
    zeros = bytes(500_000)
    evil_zip(tmp_path / "one.zip", "a/one.bmp", zeros, method=zipfile.ZIP_DEFLATED)
    with pytest.raises(
        UserError, match="'a/one.bmp' would have 500,000 bytes, packed in .* decompression bomb"
    ):
        images(tmp_path / "one.zip")
    with tarfile.open(tmp_path / "many.tgz", "w:gz") as archive:
        for number in range(5):
            member = tarfile.TarInfo(f"a/{number}.bmp")
            member.size = len(zeros)
            archive.addfile(member, io.BytesIO(zeros))
    with pytest.raises(UserError, match="would unpack to .* decompression bomb"):
        images(tmp_path / "many.tgz")
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 1000)
    evil_zip(tmp_path / "large.zip", "a/large.png", bytes(1001))
    with pytest.raises(UserError, match="decompression bomb"):
        images(tmp_path / "large.zip")
    assert not [path for path in cache.rglob("*") if path.suffix in (".zip", ".new")]


def test_damaged_archives_are_refused_and_damaged_members_named(tmp_path):
    path = packed(tmp_path, "zip", photos(tmp_path))
    content = bytearray(path.read_bytes())
    (tmp_path / "half.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="is no zip or tar archive"):
        images(tmp_path / "half.zip")
    first = content.index(b"photos/cat/003.png") + 200
    content[first] ^= 0xFF
    (tmp_path / "hurt.zip").write_bytes(content)
    with pytest.raises(
        UserError, match=r"1 of 20 files .*'photos/cat/003.png' \(damaged in hurt.zip"
    ):
        images(tmp_path / "hurt.zip", test=0.0)
    whole = packed(tmp_path, "tgz", tmp_path / "photos").read_bytes()
    (tmp_path / "half.tgz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="no whole zip or tar archive|could not be repacked"):
        images(tmp_path / "half.tgz")
    for entry in (content,):
        entry[content.rindex(b"PK\x01\x02") + 8] |= 1  # says that the last file is encrypted
    (tmp_path / "locked.zip").write_bytes(content)
    with pytest.raises(UserError, match="is encrypted"):
        images(tmp_path / "locked.zip")


def test_archives_damaged_in_any_way_are_refused_and_never_read_in_part(tmp_path):
    place = photos(tmp_path)
    for path in place.rglob("*.png"):  # so that there is something to damage
        path.write_bytes(path.read_bytes() + np.random.default_rng(0).bytes(3000))
    whole = packed(tmp_path, "tgz", place).read_bytes()
    for number, content in enumerate(
        [whole[:12], whole[:40], whole[:-5], zeroed(whole, len(whole) // 2)]
    ):
        (tmp_path / f"{number}.tgz").write_bytes(content)
        with pytest.raises(UserError, match="no whole zip or tar archive|could not be repacked"):
            images(tmp_path / f"{number}.tgz")
    with tarfile.open(tmp_path / "plain.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(place, "photos")
    content = (tmp_path / "plain.tar").read_bytes()
    (tmp_path / "plain.tar").write_bytes(
        zeroed(content, content.index(b"photos/dog/003.png") + 100)
    )
    with pytest.raises(UserError, match="damaged in the middle"):
        images(tmp_path / "plain.tar")
    with zipfile.ZipFile(tmp_path / "lzma.zip", "w", zipfile.ZIP_LZMA) as archive:
        for path in sorted(place.rglob("*.png")):
            archive.write(path, f"{path.parent.name}/{path.name}")
    (tmp_path / "lzma.zip").write_bytes(zeroed((tmp_path / "lzma.zip").read_bytes(), 300, b"\xff"))
    with pytest.raises(UserError, match=r"damaged in lzma.zip"):
        images(tmp_path / "lzma.zip", test=0.0)


def zeroed(content, place, value=b"\0"):
    """The same with 40 bytes changed."""
    return content[:place] + 40 * value + content[place + 40 :]


def test_a_name_that_an_archive_has_twice_is_one_picture(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        for name in ("a/1.png", "a/1.png", "b/1.png"):
            archive.writestr(name, made.encoded(made.pixels(0)))
    assert names(images(tmp_path / "twice.zip", test=0.0).dev) == ["a/1.png", "b/1.png"]


def test_no_config_can_have_an_archive_written(tmp_path):
    with pytest.raises(UserError, match="is not allowed"):
        build_part(
            {
                "_target_": "dlrun.data.images.archives._write_zip",
                "path": str(tmp_path / "a.zip"),
                "bodies": [["a", "b"]],
            }
        )


# --- runs -------------------------------------------------------------------------------------------------------------


RUN = [
    "task=images",
    "preset=smoke",
    "callback=[keep_best]",
    "data.size=[48,48]",
    "model.filters=[4,8]",
    "model.dense=[8]",
    "model.pool=4",
]


def run(folder, *words):
    code = main([*RUN, *words, f"output={folder}"])
    lines = [
        line for path in folder.rglob("results.jsonl") for line in path.read_text().splitlines()
    ]
    return code, [json.loads(line) for line in lines]


def test_a_run_from_folder_to_report_and_again_streamed(tmp_path, capsys):
    place = made.folder(tmp_path / "photos", {"cat": 40, "dog": 40})
    (place / "cat" / "broken.jpg").write_bytes(b"")
    words = [f"data.path={place}", "data.unreadable=skip", "test=true", "reason=a test"]
    code, results = run(tmp_path / "kept", *words)
    assert code == 0 and [result["split"] for result in results] == ["val", "test"]
    (folder,) = (path.parent for path in (tmp_path / "kept").rglob("results.jsonl"))
    worst = json.loads((folder / "errors" / "fit-val.json").read_text())
    assert worst[0]["shown"]["file"].endswith(".png") and worst[0]["truth"] in ("cat", "dog")
    assert worst[0]["shown"]["file"] in (folder / "report.html").read_text()
    code, streamed = run(tmp_path / "streamed", *words, "data.cache=false")
    assert code == 0 and [r["scores"] for r in streamed] == [r["scores"] for r in results]
    capsys.readouterr()


def test_labels_and_classes_run_too(tmp_path, capsys):
    place = table(
        tmp_path, [f"{number}.png,{['sea|sky', 'sky', 'sand'][number % 3]}" for number in range(12)]
    )
    words = [f"data.path={place}", "data.labels=labels.csv", "data.test=0", "protocol.validation=4"]
    code, results = run(
        tmp_path / "many", *words, "data.separator='|'", "data.channels=1", "data.fit=pad"
    )
    assert (
        code == 0
        and "exact_match" in results[0]["scores"]
        or results[0]["scores"]["loss"]["n"] == 4
    )
    code, results = run(tmp_path / "one", *words)
    assert code == 0 and results[0]["scores"]["accuracy"]["n"] == 4
    capsys.readouterr()


def test_without_a_path_the_message_is_one_clear_line(tmp_path, capsys):
    assert main(["task=images", f"output={tmp_path / 'out'}"]) == 2
    said = capsys.readouterr().err.strip()
    assert "data.path=FOLDER" in said and "Traceback" not in said and len(said.splitlines()) == 1
    assert not list((tmp_path / "out").rglob("config.yaml"))
    assert (
        main(
            [
                "task=images",
                "data.path=x",
                "data.fit=squeeze",
                "data.channels=2",
                f"output={tmp_path / 'out'}",
            ]
        )
        == 2
    )
    said = capsys.readouterr().err
    assert "stretch, crop, pad" in said and "one of 1, 3" in said


def test_the_cache_is_told_of_once(tmp_path, caplog):
    caplog.set_level("INFO", "dlrun")
    images(photos(tmp_path))
    assert caplog.text.count("decoding 16 images, once") == 1
    caplog.clear()
    images(tmp_path / "photos")
    assert "decoding" not in caplog.text and decoded_cache.CACHE_VERSION


def test_random_weights_in_the_place_of_published_ones_are_said_beside_the_result(tmp_path, capsys):
    words = [
        "task=images",
        f"data.path={photos(tmp_path)}",
        "model=pretrained",
        "data.size=[32,32]",
        "preset=smoke",
    ]
    assert main([*words, f"output={tmp_path / 'out'}"]) == 0
    (results,) = (tmp_path / "out").rglob("results.jsonl")
    result = json.loads(results.read_text())
    assert "SYNTHETIC weights" in result["note"] and "SYNTHETIC weights" in result["synthetic"]
    assert (
        "SYNTHETIC weights"
        in (results.parent / "report.html").read_text() + capsys.readouterr().out
    )
