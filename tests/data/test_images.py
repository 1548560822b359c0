"""Laws of images: what a file becomes, that it is decoded once, and that it matters to no batch where it is kept."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import beside
import made_up_pictures as made
import numpy as np
import pytest
import torch
from PIL import Image

from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError
from dlrun.data.audit.preprocessing_preview import build_preprocessing_examples
from dlrun.data.audit.run import audit
from dlrun.data.cache import fingerprint
from dlrun.data.datasets.cats_dogs import cats_dogs
from dlrun.data.display import describe_raw_row
from dlrun.data.images import decode_workers, decoded_cache, image_column
from dlrun.data.images.archives import FileList
from dlrun.data.images.decode import (
    MAX_PIXELS,
    ImageDecodeError,
    Reading,
    decode_image,
    parse_image_options,
)
from dlrun.data.loading.images import ImageColumn, LazyImageColumn
from dlrun.data.preprocessing.pipeline import prepare, transform_rows
from dlrun.evaluation.protocols.two_stages import make_protocol
from dlrun.models.closed_form import build_matrix

COLOR, GREY = Reading((8, 12), 3, "stretch"), Reading((8, 12), 1, "stretch")
REAL = Path(os.environ.get("DLRUN_DATA", "none"), "dogs_vs_cats", "train.zip")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dlrun" / "pictures"


@pytest.fixture
def poison(monkeypatch):
    """From its call on no image can be decoded, and no file be read for its digest."""

    def spread():
        monkeypatch.setattr(
            decode_workers, "decode_image", lambda *_: pytest.fail("an image was decoded")
        )
        monkeypatch.setattr(
            decoded_cache, "read_bytes", lambda *_: pytest.fail("an image was read")
        )

    return spread


def files(folder, count=10, **options):
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"{number:03}.png").write_bytes(
            made.encoded(made.pixels(number, kind=number % 2), **options)
        )
    return FileList(folder, tuple(f"{number:03}.png" for number in range(count)))


def raw_of(found, keep=True, **more):
    column = image_column.load_image_column(found, COLOR, keep=keep, skip=False)
    dev = {"image": column, "kind": np.arange(len(found)) % 2}
    return Dataset(
        dev, {"image": "image"}, {"kind": "binary"}, {}, labels={"kind": ("cat", "dog")}, **more
    )


# --- one file ---------------------------------------------------------------------------------------------------------


def same(values, mode="RGB", size=(8, 12), **options):
    """What a lossless file of pixels of exactly the wanted size becomes."""
    stream = io.BytesIO()
    Image.fromarray(values, **({"mode": mode} if mode == "CMYK" else {})).save(
        stream, "TIFF" if mode == "CMYK" else "PNG", **options
    )
    return decode_image(stream.getvalue(), Reading(size, 3, "stretch"))


def test_pixels_of_the_right_size_come_through_as_they_are():
    values = made.pixels(1, 8, 12)
    assert np.array_equal(same(values), values.transpose(2, 0, 1))
    assert decode_image(made.encoded(values), COLOR).dtype == np.uint8


def test_grey_becomes_three_equal_channels_and_color_one():
    values = made.pixels(1, 8, 12)
    grey = np.asarray(Image.fromarray(values).convert("L"))
    assert np.array_equal(decode_image(made.encoded(values), GREY), grey[None])
    assert np.array_equal(same(grey), np.stack([grey] * 3))


def test_what_is_transparent_is_put_on_white():
    clear = np.zeros((8, 12, 4), np.uint8)
    clear[:, 6:, 3] = 255
    found = same(clear)
    assert (found[:, :, :6] == 255).all() and (found[:, :, 6:] == 0).all()
    half = np.dstack([np.zeros((8, 12, 3), np.uint8), np.full((8, 12), 128, np.uint8)])
    assert np.abs(same(half).astype(int) - 127).max() <= 1
    assert (same(np.dstack([np.zeros((8, 12), np.uint8)] * 2)) == 255).all()  # gray and transparent
    palette = Image.fromarray(made.pixels(1, 8, 12)).convert("P")
    stream = io.BytesIO()
    palette.save(stream, "PNG", transparency=bytes(256))
    assert (decode_image(stream.getvalue(), COLOR) == 255).all()


def test_palettes_16_bits_and_cmyk():
    values = made.pixels(1, 8, 12)
    palette = Image.fromarray(values).convert("P")
    stream = io.BytesIO()
    palette.save(stream, "GIF")
    assert np.array_equal(
        decode_image(stream.getvalue(), COLOR),
        np.asarray(palette.convert("RGB")).transpose(2, 0, 1),
    )
    deep = values[:, :, 0].astype(np.uint16) * 257
    assert np.array_equal(decode_image(made.encoded(deep), GREY)[0], values[:, :, 0])
    ink = np.zeros((8, 12, 4), np.uint8)
    ink[:, :, 0] = 255
    assert (same(ink, "CMYK").mean((1, 2)).round() == (0, 255, 255)).all()
    with pytest.raises(ImageDecodeError, match="fractions"):
        decode_image(made.encoded(values[:, :, 0].astype(np.float32), "tif"), GREY)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(orientation):
    upright = made.pixels(5, 24, 36)
    lay = {1: lambda v: v, 2: np.fliplr, 3: lambda v: np.rot90(v, 2), 4: np.flipud}
    lay |= {
        5: lambda v: v.transpose(1, 0, 2),
        6: np.rot90,
        7: lambda v: np.rot90(v, 2).transpose(1, 0, 2),
    }
    lay |= {8: lambda v: np.rot90(v, -1)}
    exif = Image.Exif()
    exif[274] = orientation
    content = made.encoded(np.ascontiguousarray(lay[orientation](upright)), "png", exif=exif)
    assert np.array_equal(
        decode_image(content, Reading((24, 36), 3, "stretch")), upright.transpose(2, 0, 1)
    )


def test_fits_fill_the_size_each_in_its_way():
    values = np.full((40, 80, 3), 200, np.uint8)
    values[:, :20] = values[:, 60:] = 0  # 20 black, 40 bright, 20 black
    content = made.encoded(values)
    stretch, crop, pad = (
        decode_image(content, Reading((20, 20), 3, fit)) for fit in ("stretch", "crop", "pad")
    )
    assert stretch.shape == crop.shape == pad.shape == (3, 20, 20)
    assert (stretch[0, :, 6:14] == 200).all() and (stretch[0, :, :4] == 0).all()
    assert (crop[0, :, 1:19] == 200).all()
    assert (
        (pad[0, :5] == 0).all() and (pad[0, 15:] == 0).all() and (pad[0, 6:14, 7:13] == 200).all()
    )
    thin = made.encoded(np.full((1, 3000, 3), 9, np.uint8))
    assert all(
        decode_image(thin, Reading((20, 20), 3, fit)).max() == 9
        for fit in ("stretch", "crop", "pad")
    )


def test_shrinking_averages_instead_of_dropping_pixels():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    found = decode_image(made.encoded(stripes), Reading((8, 8), 3, "stretch"))
    assert np.abs(found.astype(int) - 127).max() < 16


ENDINGS = {
    "jpg": {},
    "png": {},
    "gif": {},
    "bmp": {},
    "webp": {},
    "tif": {"compression": "tiff_lzw"},
    "ppm": {},
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_cut_off_anywhere_is_refused_and_never_filled_up(ending):
    content = made.encoded(made.pixels(1, 100, 120), ending, **ENDINGS[ending])
    assert decode_image(content, COLOR).shape == (3, 8, 12)
    for share in (0.9, 0.5, 0.2, 0.02):
        with pytest.raises(ImageDecodeError, match="cut off|damaged"):
            decode_image(content[: int(share * len(content))], COLOR)


def test_what_is_no_picture_is_refused_with_the_reason(tmp_path):
    with pytest.raises(ImageDecodeError, match="^empty: 0 bytes"):
        decode_image(b"", COLOR)
    with pytest.raises(ImageDecodeError, match="no image in a format that is known: JPEG"):
        decode_image(b"To be or not to be, that is the question", COLOR)
    with pytest.raises(ImageDecodeError, match="cannot be opened: No such file"):
        decode_image(tmp_path / "none.jpg", COLOR)
    broken = bytearray(made.encoded(made.pixels(1, 100, 120)))
    broken[len(broken) // 2] ^= 0xFF
    with pytest.raises(ImageDecodeError, match="damaged"):
        decode_image(bytes(broken), COLOR)
    (tmp_path / "wrong.gif").write_bytes(
        made.encoded(made.pixels(1), "jpg")
    )  # another ending is no fault
    assert decode_image(tmp_path / "wrong.gif", COLOR).shape == (3, 8, 12)


def bomb(width, height):
    """A PNG whose head announces so many pixels."""
    chunk = lambda kind, body: (  # noqa: E731
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    )
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("sides", [(20_000, 6_000), (100_000, 100_000)])
def test_a_bomb_is_refused_before_it_is_decoded(sides, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)  # what decodes
    with pytest.raises(
        ImageDecodeError,
        match=f"too large: {sides[0] * sides[1]:,} pixels.*{MAX_PIXELS:,} is the limit",
    ):
        decode_image(bomb(*sides), COLOR)


def test_a_size_is_a_height_and_a_width():
    assert parse_image_options([3, 4], 1, "pad") == Reading((3, 4), 1, "pad")
    with pytest.raises(UserError, match="a height and a width"):
        parse_image_options([150], 3, "crop")


# --- many files -------------------------------------------------------------------------------------------------------


def test_a_second_start_opens_no_picture(tmp_path, poison):
    found = files(tmp_path / "photos")
    first = raw_of(found)
    direct = np.stack([decode_image(found.root / name, COLOR) for name in found.names])
    assert np.array_equal(np.asarray(first.dev["image"]), direct)
    poison()
    again = raw_of(found)
    assert np.array_equal(np.asarray(again.dev["image"]), direct)
    assert fingerprint(again.dev) == fingerprint(first.dev)


def test_the_cache_is_known_by_content_and_by_nothing_else(tmp_path, cache):
    found = files(tmp_path / "photos")
    first = raw_of(found)
    moved = shutil.copytree(found.root, tmp_path / "elsewhere")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for name in found.names:
            archive.write(found.root / name, f"deep/{name}")
    packed = FileList(tmp_path / "packed.zip", tuple(f"deep/{name}" for name in found.names))
    for other in (FileList(moved, found.names), packed):
        raw = raw_of(other)
        assert fingerprint(raw.dev) == fingerprint(first.dev)
        assert np.array_equal(np.asarray(raw.dev["image"]), np.asarray(first.dev["image"]))
    assert len(list(cache.glob("*.npy"))) == 1
    (moved / "003.png").write_bytes(made.encoded(made.pixels(99)))
    other = raw_of(FileList(moved, found.names))
    assert fingerprint(other.dev) != fingerprint(first.dev) and len(list(cache.glob("*.npy"))) == 2
    assert not np.array_equal(other.dev["image"][3], first.dev["image"][3])
    assert fingerprint(raw_of(found.take(range(9, -1, -1))).dev) != fingerprint(first.dev)
    grey = image_column.load_image_column(found, GREY, keep=True, skip=False)
    assert grey.shape == (10, 1, 8, 12) and grey.digest != first.dev["image"].digest


def test_a_damaged_cache_is_made_anew(tmp_path, cache):
    found = files(tmp_path / "photos")
    expected = np.asarray(raw_of(found).dev["image"])
    (kept,) = cache.glob("*.npy")
    kept.write_bytes(kept.read_bytes()[:-100])
    assert np.array_equal(np.asarray(raw_of(found).dev["image"]), expected)
    next(iter(cache.glob("*.json"))).write_text("{")
    assert np.array_equal(np.asarray(raw_of(found).dev["image"]), expected)


@pytest.mark.parametrize("packed", [False, True])
def test_threads_give_what_one_gives_in_the_same_order(tmp_path, monkeypatch, packed):
    found = files(tmp_path / "photos", 40)
    if packed:  # all threads read the same archive
        with zipfile.ZipFile(tmp_path / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name in found.names:
                archive.write(found.root / name, name)
        found = replace(found, root=tmp_path / "photos.zip")
    monkeypatch.setattr(decode_workers, "available_cpus", lambda: 1)
    alone = np.stack(list(decode_workers.iter_images(found, COLOR)))
    monkeypatch.setattr(decode_workers, "available_cpus", lambda: 8)
    assert np.array_equal(np.stack(list(decode_workers.iter_images(found, COLOR))), alone)


def batches_of(raw, **more):
    data = prepare(raw, np.arange(30), np.arange(30, 40))
    return [list(source.batches(7, **more)) for source in (data.train, data.val)]


def equal(one, other):
    return len(one) == len(other) and all(
        torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a
    )


def test_batches_are_the_same_from_the_cache_and_decoded_as_they_go(tmp_path, monkeypatch):
    monkeypatch.setattr(decode_workers, "available_cpus", lambda: 2)
    found = files(tmp_path / "photos", 40)
    kept, streamed = raw_of(found), raw_of(found, keep=False)
    assert isinstance(
        prepare(streamed, np.arange(40), None).train.columns["image"], LazyImageColumn
    )
    assert fingerprint(kept.dev) == fingerprint(streamed.dev)
    for how in ({}, {"seed": 3}, {"seed": 3, "epoch": 2}, {"seed": 3, "epoch": 2, "start": 2}):
        both = batches_of(kept, **how), batches_of(streamed, **how)
        assert all(equal(one, other) for one, other in zip(*both, strict=True))
        assert both[1][0][0]["image"].dtype == torch.float32 and both[1][0][0]["image"].max() <= 1
    whole, late = batches_of(streamed, seed=3)[0], batches_of(streamed, seed=3, start=3)[0]
    assert equal(whole[3:], late) and not equal(whole, batches_of(streamed, seed=3, epoch=1)[0])


def test_an_epoch_broken_off_disturbs_no_other_and_leaves_no_thread(tmp_path, monkeypatch):
    monkeypatch.setattr(decode_workers, "available_cpus", lambda: 2)
    data = prepare(
        raw_of(files(tmp_path / "photos", 40), keep=False), np.arange(30), np.arange(30, 40)
    )
    expected = list(data.train.batches(5, seed=1))
    before = threading.active_count()
    broken, other = data.train.batches(5, seed=1), data.val.batches(5)
    assert equal([next(broken)], expected[:1]) and len(next(other)["image"]) == 5
    broken.close()
    assert equal(list(data.train.batches(5, seed=1)), expected)
    other.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("trouble", ["unwritable", "full"])
def test_where_nothing_can_be_kept_it_is_said_and_pictures_are_decoded_as_they_go(
    tmp_path, monkeypatch, caplog, trouble
):
    found = files(tmp_path / "photos")
    if trouble == "unwritable":
        (tmp_path / "file").write_text("no folder")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    else:
        monkeypatch.setattr(decoded_cache, "MIN_FREE_BYTES", 1 << 60)
    raw = raw_of(found)
    assert "decoded as they go" in caplog.text and raw.dev["image"].image_store.pixels is None
    direct = np.stack([decode_image(found.root / name, COLOR) for name in found.names])
    assert np.array_equal(np.asarray(raw.dev["image"]), direct) and np.array_equal(
        raw.dev["image"][4], direct[4]
    )


ONE_RUN = """
import sys
import threading
from dataclasses import replace
from pathlib import Path
from dlrun.data.images.archives import FileList as Files
from dlrun.data.images.decode import Reading
from dlrun.data.images.image_column import load_image_column as images

names = tuple(f"{number:03}.png" for number in range(30))
column = images(Files(Path(sys.argv[1]), names), Reading((8, 12), 3, "stretch"), keep=True, skip=False)
print(column.__array__().sum())
"""


def test_two_runs_at_once_share_an_empty_cache(tmp_path, cache):
    found = files(tmp_path / "photos", 30)
    command = [sys.executable, "-c", ONE_RUN, str(found.root)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    sums = {int(run.communicate(timeout=beside.LIMIT)[0]) for run in runs}
    assert sums == {int(np.asarray(raw_of(found).dev["image"]).sum())}
    assert not list(cache.rglob("*.new")) and len(list(cache.glob("*.npy"))) == 1


def test_files_that_give_no_picture_are_refused_or_left_out_and_counted(tmp_path, caplog, poison):
    found = files(tmp_path / "photos", 12)
    (found.root / "003.png").write_bytes(b"")
    (found.root / "007.png").write_bytes(b"no image at all")
    with pytest.raises(
        UserError,
        match=r"2 of 12 files .* give no image: '003.png' \(empty: 0 bytes\), '007.png' \(no image",
    ):
        image_column.load_image_column(found, COLOR, keep=True, skip=False)
    poison()  # what was found out is remembered
    column = image_column.load_image_column(found, COLOR, keep=True, skip=True)
    assert column.rows.tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11] and list(
        column.skipped_files
    ) == [
        "003.png",
        "007.png",
    ]
    assert column.file_name(3) == "004.png" and len(column) == 10 and "left out" in caplog.text
    raw = Dataset(
        {"image": column, "kind": np.arange(10) % 2}, {"image": "image"}, {"kind": "binary"}, {}
    )
    findings = {
        finding.what: finding.text for finding in audit(raw, np.arange(8), np.arange(8, 10), 0)
    }
    assert (
        "2 of 12 development files" in findings["unreadable images"]
        and "'003.png'" in findings["unreadable images"]
    )


def test_nothing_is_left_where_every_file_is_broken(tmp_path):
    found = files(tmp_path / "photos", 3)
    for name in found.names:
        (found.root / name).write_bytes(b"")
    with pytest.raises(UserError, match="3 of 3 files"):
        image_column.load_image_column(found, COLOR, keep=True, skip=True)


# --- the rest of dlrun ------------------------------------------------------------------------------------------------


def test_the_column_is_a_view_and_memory_holds_no_copy(tmp_path):
    raw = raw_of(files(tmp_path / "photos", 40))
    column = raw.dev["image"]
    assert (
        isinstance(column.image_store.pixels, np.memmap)
        and column[np.array([3, 1])].image_store is column.image_store
    )
    data = prepare(raw, np.arange(5, 30), np.arange(30, 40))
    for table in (data.train, data.val):
        kept = table.to(torch.device("cpu")).columns["image"]
        assert (
            isinstance(kept, ImageColumn)
            and kept.values.data_ptr() == column.image_store.pixels.ctypes.data
        )
    before = np.array(column.image_store.pixels)
    next(data.train.batches(5))["image"].zero_()
    assert np.array_equal(column.image_store.pixels, before)


def test_pixels_with_rows_are_pixels_of_those_rows():
    values, rows = (
        torch.randint(0, 256, (20, 3, 4, 5), dtype=torch.uint8),
        torch.tensor([3, 3, 19, 0, 7]),
    )
    some, plain = ImageColumn(values, rows), ImageColumn(values[rows])
    assert (
        len(some) == 5 and some.shape == (3, 4, 5) and torch.equal(some.materialize(), plain.values)
    )
    for which in (slice(1, 4), torch.tensor([4, 0, 2])):
        assert all(
            torch.equal(a, b)
            for a, b in zip(some.batches(which, 2), plain.batches(which, 2), strict=True)
        )


def test_images_that_do_not_fit_on_a_device_stay_and_their_batches_move(monkeypatch):
    values, there = torch.randint(0, 256, (20, 3, 4, 5), dtype=torch.uint8), torch.device("meta")
    assert ImageColumn(values, torch.arange(9)).to(there).values.shape == (
        9,
        3,
        4,
        5,
    )  # the rows alone are copied
    monkeypatch.setattr("dlrun.data.loading.images.has_device_memory", lambda device, size: False)
    kept = ImageColumn(values, torch.arange(9)).to(there)
    assert kept.values is values and kept.device == there and len(kept) == 9
    assert [part.device for part in kept.batches(slice(0, 6), 3)] == [there, there]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("keep", [True, False])
def test_batches_on_a_device_are_those_of_the_host(tmp_path, monkeypatch, keep, fits):
    monkeypatch.setattr("dlrun.data.loading.images.has_device_memory", lambda device, size: fits)
    table = prepare(raw_of(files(tmp_path / "photos", 40), keep=keep), np.arange(40), None).train
    for how in ({}, {"seed": 3, "start": 1}):
        moved = list(table.to(torch.device("cuda")).batches(7, **how))
        assert all(value.is_cuda for batch in moved for value in batch.values())
        assert equal(
            [{name: value.cpu() for name, value in batch.items()} for batch in moved],
            list(table.batches(7, **how)),
        )


def test_what_looks_at_raw_rows_can_look_at_pictures(tmp_path):
    raw = raw_of(files(tmp_path / "photos", 40))
    held = raw.dev["image"][np.arange(30, 40)]
    view = describe_raw_row(raw, {"image": held}, 3)
    assert view["kind"] == "image" and view["file"] == "033.png"
    assert np.array_equal(view["image"], held[3].transpose(1, 2, 0)) and view["image"].shape == (
        8,
        12,
        3,
    )
    data = prepare(raw, np.arange(30), None)
    table = build_preprocessing_examples(raw, data, raw.dev, np.arange(30))["tables"][0]
    assert table["columns"] == ["", "image", "kind"] and table["rows"][0][1].startswith(
        "3 × 8 × 12, "
    )
    flat = build_matrix(data.spec.inputs, data.train)
    assert flat.shape == (30, 288) and np.allclose(
        flat, np.asarray(raw.dev["image"])[:30].reshape(30, -1) / 255
    )
    assert (
        data.spec.inputs["image"].shape == (3, 8, 12)
        and len(transform_rows(raw, data, {"image": held})) == 10
    )


def test_the_audit_finds_copies_across_the_split_in_whatever_format(tmp_path):
    found = files(tmp_path / "photos", 40)
    for copy in (33, 35, 36, 38):  # more of ten rows than their interval is wide
        Image.open(found.root / f"{copy - 30:03}.png").save(
            found.root / f"{copy:03}.png", compress_level=1
        )
    assert (found.root / "033.png").read_bytes() != (found.root / "003.png").read_bytes()
    for keep in (True, False):
        raw = raw_of(found, keep=keep)
        leaks = [
            finding
            for finding in audit(raw, np.arange(30), np.arange(30, 40), 0)
            if finding.severity == "leak"
        ]
        assert [(leak.what, leak.count) for leak in leaks] == [("duplicates across splits", 4)]


def test_the_audit_names_grey_and_blank_pictures_and_looks_at_few(tmp_path, monkeypatch):
    found = files(tmp_path / "photos", 40)
    (found.root / "001.png").write_bytes(made.encoded(np.full((9, 9), 77, np.uint8)))
    (found.root / "002.png").write_bytes(made.encoded(made.pixels(2)[:, :, 0]))
    raw = raw_of(found)
    told = {
        finding.what: finding.count for finding in audit(raw, np.arange(30), np.arange(30, 40), 0)
    }
    assert told["gray images"] == 2 and told["blank images"] == 1
    monkeypatch.setattr("dlrun.data.audit.images.MAX_IMAGES", 5)
    text = {
        finding.what: finding.text for finding in audit(raw, np.array([1, 2]), np.arange(30, 40), 0)
    }
    assert "2 of 2" in text["gray images"] and "data.channels=1" in text["gray images"]


# --- cats and dogs ----------------------------------------------------------------------------------------------------


SMALL = {
    "development": 15,
    "test": 5,
    "size": [8, 12],
    "channels": 3,
    "fit": "stretch",
    "cache": True,
}


def kaggle(folder, count=20, prefix="train/"):
    (folder / "dogs_vs_cats").mkdir(parents=True)
    with zipfile.ZipFile(folder / "dogs_vs_cats" / "train.zip", "w") as archive:
        for kind, animal in enumerate(("cat", "dog")):
            for number in range(count):
                content = made.encoded(made.pixels(100 * kind + number, kind=kind), "jpg")
                archive.writestr(f"{prefix}{animal}.{number}.jpg", content)


@pytest.mark.parametrize("prefix", ["train/", ""])
def test_cats_and_dogs_lie_in_the_books_order_and_test_rows_stay_sealed(
    tmp_path, monkeypatch, poison, prefix
):
    monkeypatch.setenv("DLRUN_DATA", str(tmp_path / "data"))
    kaggle(tmp_path / "data", prefix=prefix)
    seen = []
    monkeypatch.setattr(
        decode_workers,
        "read_bytes",
        lambda place, name: seen.append(name) or zipfile.ZipFile(place).read(name),
    )
    raw = cats_dogs(source="official", **SMALL)
    names = [raw.dev["image"].file_name(row) for row in range(30)]
    assert names == [
        f"{prefix}{animal}.{number}.jpg" for number in range(15) for animal in ("cat", "dog")
    ]
    assert raw.dev["animal"].tolist() == [0, 1] * 15 and raw.labels["animal"] == ("cat", "dog")
    assert not [name for name in seen if int(name.split(".")[1]) >= 15]  # no test image was decoded
    rows = raw.test()
    assert [rows["image"].file_name(row) for row in (0, 9)] == [
        f"{prefix}cat.15.jpg",
        f"{prefix}dog.19.jpg",
    ]
    poison()
    assert len(cats_dogs(source="official", **SMALL).test()["image"]) == 10
    assert cats_dogs(source="official", **{**SMALL, "test": 0}).test is None
    with pytest.raises(UserError, match="lacks 10 of 50 files, as train/cat.20.jpg"):
        cats_dogs(source="official", **{**SMALL, "development": 20})


def test_without_kaggles_file_the_message_says_where_to_get_it_and_where_to_put_it(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("DLRUN_DATA", str(tmp_path / "data"))
    with pytest.raises(UserError) as refused:
        cats_dogs(source="official", **SMALL)
    for part in (
        str(tmp_path / "data" / "dogs_vs_cats" / "train.zip"),
        "kaggle.com",
        "account",
        "preset=smoke",
    ):
        assert part in str(refused.value)


def test_the_sample_is_synthetic_and_can_be_learnt():
    raw = cats_dogs(source="sample", **SMALL)
    assert (
        "SYNTHETIC" in raw.note
        and raw.dev["image"].shape == (120, 3, 8, 12)
        and len(raw.test()["animal"]) == 40
    )
    big = cats_dogs(source="sample", **{**SMALL, "size": [32, 32], "channels": 1}).dev["image"]
    bright = (big > big.mean((1, 2, 3), keepdims=True)).reshape(120, -1)
    assert 0.02 < bright.mean() < 0.5 and len(np.unique(big.reshape(120, -1), axis=0)) == 120


@pytest.mark.skipif(
    not REAL.exists(), reason="needs Kaggle's file: set DLRUN_DATA to a folder that has it"
)
def test_the_real_archive_gives_the_books_cut():
    raw = cats_dogs(
        source="official",
        **{**SMALL, "development": 1500, "test": 500, "size": [16, 16], "cache": False},
    )
    from laboratory import node

    from dlrun.core.types import FitJob

    train, val = make_protocol(node("protocol", "last_third")).split_rows(raw, FitJob(), 0)
    names = [raw.dev["image"].file_name(row) for row in range(3000)]
    numbers = lambda rows: sorted({int(names[row].split(".")[1]) for row in rows})  # noqa: E731
    assert numbers(train) == list(range(1000)) and numbers(val) == list(range(1000, 1500))
    assert raw.dev["animal"][train].sum() == 1000 and raw.dev["animal"][val].sum() == 500
    assert json.dumps(fingerprint(raw.dev))
