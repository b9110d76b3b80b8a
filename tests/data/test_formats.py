"""One map or mask from one file: what is read, and what is refused."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from maps import write_domain
from PIL import Image
from spoil import MAP, MARKED, chunk, npy, palette, picture, png, tiff

from hdmap_mlflow.config import DataConfig
from hdmap_mlflow.data import formats, layout
from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule
from hdmap_mlflow.errors import BadInput

GREY = np.arange(1, 13, dtype=np.uint8).reshape(3, 4)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_equal_channels_are_one_map_whatever_the_transparency(tmp_path, channels):
    pixels = np.stack([GREY] * channels, axis=-1)
    pixels[..., 3:] = 9
    np.save(tmp_path / "a.npy", pixels)
    np.testing.assert_array_equal(formats.read_map(tmp_path / "a.npy"), GREY)


REFUSED = {
    "two channels": np.stack([GREY, GREY], axis=-1),
    "one line": GREY[0],
    "a stack": np.stack([GREY] * 5),
    "empty": GREY[:, :0],
    "words": np.array([["a", "b"]]),
    "yes and no": GREY > 3,
    "objects": np.array([[{}]]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_map_of_numbers_is_refused_by_name(tmp_path, what):
    np.save(tmp_path / "a.npy", REFUSED[what], allow_pickle=True)
    with pytest.raises(BadInput, match="a.npy"):
        formats.read_map(tmp_path / "a.npy")


class Trap:
    """Runs when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_no_code_of_a_file_is_run(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[Trap(tmp_path / "ran")]]), allow_pickle=True)
    with pytest.raises(BadInput, match="a.npy cannot be read as a map"):
        formats.read_map(tmp_path / "a.npy")
    assert not (tmp_path / "ran").exists()


def test_a_picture_that_is_not_whole_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    with pytest.raises(BadInput, match=r"a.png cannot be read as a map \(not a whole PNG\); replace or remove it"):
        formats.read_map(tmp_path / "a.png")


@pytest.mark.parametrize("last", [0, 1, 2])
def test_channels_that_differ_are_no_map(tmp_path, last):
    pixels = np.stack([GREY] * 3, axis=-1)
    pixels[2, 3, last] += 1
    np.save(tmp_path / "a.npy", pixels)
    with pytest.raises(BadInput, match="a.npy has 3 different channels"):
        formats.read_map(tmp_path / "a.npy")


@pytest.mark.parametrize("kind", [bool, np.uint8, np.uint16, np.float32])
def test_a_mask_marks_what_is_not_zero_whatever_its_numbers(tmp_path, kind):
    np.save(tmp_path / "a.npy", (GREY % 3).astype(kind))
    np.testing.assert_array_equal(formats.read_mask(tmp_path / "a.npy"), GREY % 3 > 0)


def test_one_row_of_the_table_is_a_format_of_maps_and_masks_everywhere(tmp_path, monkeypatch):
    folder = write_domain(tmp_path, "domain_A", train=2, good=1, fault=1)
    marked = np.zeros((31, 95))
    marked[3, 4] = 1
    (folder / "test/masks").mkdir()
    np.savetxt(folder / "test/masks/000000.csv", marked, delimiter=",")
    for file in folder.rglob("*.tiff"):
        np.savetxt(file.with_suffix(".CSV"), formats.read_map(file), delimiter=",")
        file.unlink()
    with pytest.raises(BadInput, match=r"holds no map \(\.tiff, \.tif, \.png, \.npy\)"):
        layout.read_domain(tmp_path, "domain_A")
    monkeypatch.setitem(formats.READERS, ".csv", formats.Reader(lambda path: np.loadtxt(path, delimiter=",")))
    domain = layout.read_domain(tmp_path, "domain_A")
    assert domain.size == (31, 95) and len(domain.table) == 4
    found, problems = layout.check(tmp_path)
    assert found["maps"].tolist() == [2, 1, 1] and found["masks"].tolist() == [0, 0, 1] and problems == []
    module = MultiDomainHDMAPDataModule([domain, domain], DataConfig(validation="source_test"))
    masks = [item.gt_mask for item in module.scoring_dataloader("domain_A", "test").dataset]
    assert sum(int(mask.sum()) for mask in masks) == 1 and any(bool(mask[3, 4]) for mask in masks)


# ------------------------------------------------------------------------------------------- maps as files have them
SAME = {
    "big-endian npy": (".npy", npy(MAP.astype(">f4"))),
    "big-endian TIFF": (".tiff", tiff(MAP.astype(">f4"), byteorder=">")),
    "columns first": (".npy", npy(np.asfortranarray(MAP))),
    "float64": (".npy", npy(MAP.astype(float))),
    "one channel": (".npy", npy(MAP[..., None])),
    "a TIFF of strips": (".tiff", tiff(MAP, rowsperstrip=4)),
    "a compressed TIFF": (".tiff", tiff(MAP, compression="zlib")),
}


@pytest.mark.parametrize("how", SAME)
def test_the_same_numbers_are_the_same_map_however_they_are_stored(tmp_path, how):
    suffix, content = SAME[how]
    (tmp_path / f"a{suffix}").write_bytes(content)
    read = formats.read_map(tmp_path / f"a{suffix}")
    assert read.dtype == np.float32 and formats.digest(read) == formats.digest(MAP)
    np.testing.assert_array_equal(read, MAP)


@pytest.mark.parametrize("kind", ["u1", "i1", ">u2", "<i4", "i8", "f2"])
def test_numbers_of_every_real_type_are_read_as_they_are(tmp_path, kind):
    np.save(tmp_path / "a.npy", GREY.astype(kind))
    np.testing.assert_array_equal(formats.read_map(tmp_path / "a.npy"), GREY)


@pytest.mark.parametrize("kind", ["c8", "m8[s]", "M8[s]", "f4,i4", "S3"])
def test_what_is_no_real_number_is_no_map_and_its_type_is_said(tmp_path, kind):
    np.save(tmp_path / "a.npy", np.ones(GREY.shape).astype(kind))
    with pytest.raises(BadInput, match=r"a.npy holds .* of shape \(3, 4\); a map is real numbers, height x width"):
        formats.read_map(tmp_path / "a.npy")


def test_numbers_beyond_float32_are_infinite_without_a_word(tmp_path):
    np.save(tmp_path / "a.npy", GREY * 1e300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isinf(formats.read_map(tmp_path / "a.npy")).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_palette_of_greys_gives_the_greys_and_not_their_places(tmp_path, kind):
    shown = [9, 9, 9, 200, 200, 200]
    (tmp_path / f"a.{kind}").write_bytes(picture(palette(shown), kind))
    top = 255 if kind == "PNG" else 1 / 256  # a TIFF's palette has 16 bits
    expected = np.where(MARKED, 200, 9) / np.float32(top)
    np.testing.assert_allclose(formats.read_map(tmp_path / f"a.{kind}"), expected)


@pytest.mark.parametrize("pages", [0, 2, 3])
def test_a_tiff_has_one_page(tmp_path, pages):
    content = tiff(np.stack([MAP] * pages), photometric="minisblack") if pages else tiff(MAP)[:4] + bytes(4)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(BadInput, match=f"a.tif holds {pages} pages" if pages else "a.tif"):
        formats.read_map(tmp_path / "a.tif")


def test_a_small_picture_beside_the_one_page_of_a_tiff_is_passed_over(tmp_path):
    import tifffile

    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(MAP, subifds=1)
        file.write(MAP[::4, ::4], subfiletype=1)
    np.testing.assert_array_equal(formats.read_map(tmp_path / "a.tif"), MAP)


WHOLE = png(GREY)
FIRST_CHUNK = len(formats.PNG) + 25  # the head, of 13 bytes, with its length, kind and check sum
BROKEN_PNG = {
    "nothing": b"",
    "another format": picture(Image.fromarray(GREY), "JPEG"),
    "the signature alone": formats.PNG,
    "the head alone": WHOLE[:FIRST_CHUNK],
    "no end": WHOLE[:-12],
    "half an end": WHOLE[:-1],
    "a spoilt head": WHOLE[:20] + b"\x09" + WHOLE[21:],
    "spoilt pixels": WHOLE[:-20] + bytes([WHOLE[-20] ^ 1]) + WHOLE[-19:],
}


@pytest.mark.parametrize("how", BROKEN_PNG)
def test_a_png_that_is_not_whole_is_named_and_nothing_else_is_said(tmp_path, capfd, how):
    (tmp_path / "a.png").write_bytes(BROKEN_PNG[how])
    with pytest.raises(BadInput, match=r"a.png cannot be read as a map \(not a whole PNG\); replace or remove it"):
        formats.read_map(tmp_path / "a.png")
    assert capfd.readouterr() == ("", "")


def test_pixels_that_do_not_unpack_are_named(tmp_path):
    head = WHOLE[len(formats.PNG) : FIRST_CHUNK]
    (tmp_path / "a.png").write_bytes(formats.PNG + head + chunk(b"IDAT", b"no zlib") + chunk(b"IEND", b""))
    with pytest.raises(BadInput, match=r"a.png cannot be read as a map \(its pixels are damaged\); replace"):
        formats.read_map(tmp_path / "a.png")


def test_what_stands_behind_the_end_of_a_png_is_passed_over(tmp_path):
    (tmp_path / "a.png").write_bytes(WHOLE + b"and a note that is no chunk")
    np.testing.assert_allclose(formats.read_map(tmp_path / "a.png"), GREY / 255, rtol=1e-6)


def test_an_animation_is_no_map(tmp_path):
    (tmp_path / "a.png").write_bytes(WHOLE[:FIRST_CHUNK] + chunk(b"acTL", bytes(8)) + WHOLE[FIRST_CHUNK:])
    with pytest.raises(BadInput, match="a.png is animated; a map has one picture: save it alone"):
        formats.read_map(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.npy"])
def test_a_map_may_have_so_many_numbers_and_no_more(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes({".png": png, ".tiff": tiff, ".npy": npy}[Path(name).suffix](GREY))
    monkeypatch.setattr(formats, "LARGEST", 12)
    assert formats.read_map(tmp_path / name).shape == (3, 4)
    monkeypatch.setattr(formats, "LARGEST", 11)
    with pytest.raises(BadInput, match=f"{name} declares 3 x 4 numbers, a map has 11 at most; remove it"):
        formats.read_map(tmp_path / name)


def test_the_size_of_a_map_is_checked_before_its_memory_is_asked_for(tmp_path):
    import tracemalloc

    import tifffile

    tifffile.imwrite(tmp_path / "a.tiff", shape=(20_000, 20_000), dtype=np.float32)
    np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.float32, (20_000, 20_000))
    tracemalloc.start()
    try:
        for name in ("a.tiff", "a.npy"):
            with pytest.raises(BadInput, match="declares 20000 x 20000 numbers"):
                formats.read_map(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_an_archive_of_maps_is_no_map(tmp_path):
    np.savez(tmp_path / "a.npz", MAP)
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(BadInput, match=r"a.npy is an archive \(.npz\); save its map alone, as .npy"):
        formats.read_map(tmp_path / "a.npy")


@pytest.mark.parametrize("pixels", [GREY, GREY.astype(np.float32)], ids=["integers", "floats"])
def test_a_map_that_stores_white_as_zero_is_refused(tmp_path, pixels):
    (tmp_path / "a.tif").write_bytes(tiff(pixels, photometric="miniswhite"))
    with pytest.raises(BadInput, match="a.tif stores white as 0; save it with black as 0"):
        formats.read_map(tmp_path / "a.tif")


def test_what_a_decoder_logs_of_a_damaged_file_does_not_reach_the_console(tmp_path, capfd):
    (tmp_path / "a.tiff").write_bytes(tiff(MAP, description="words " * 99)[:300])
    with pytest.raises(BadInput, match="a.tiff cannot be read as a map"):
        formats.read_map(tmp_path / "a.tiff")
    assert capfd.readouterr() == ("", "")


# --------------------------------------------------------------------------------------------------------- masks
def layers(*parts):
    return np.dstack([np.broadcast_to(np.asarray(part, np.uint8), MARKED.shape) for part in parts])


BLACK_AND_WHITE = MARKED * np.uint8(255)
BLACK = Image.fromarray(BLACK_AND_WHITE * 0)
ELSEWHERE = np.roll(MARKED, 9, axis=0)
MASKS = {
    "bool npy": (".npy", npy(MARKED)),
    "0 and 1": (".npy", npy(MARKED * np.uint8(1))),
    "below 0": (".npy", npy(MARKED * np.int8(-1))),
    "shares": (".npy", npy(MARKED * 0.25)),
    "16 bits": (".png", png(MARKED * np.uint16(256))),
    "8-bit PNG": (".png", png(BLACK_AND_WHITE)),
    "1-bit PNG": (".png", picture(Image.fromarray(MARKED))),
    "1-bit TIFF": (".tiff", picture(Image.fromarray(MARKED), "TIFF")),
    "1-bit TIFF of tifffile": (".tif", tiff(MARKED)),
    "1-bit TIFF of tifffile, black is 0": (".tif", tiff(MARKED, photometric="minisblack")),
    "palette PNG": (".png", picture(palette([0, 0, 0, 255, 0, 0]))),
    "palette PNG of which a colour is transparent": (".png", picture(palette([0, 0, 0, 9, 0, 0]), transparency=0)),
    "palette TIFF": (".tif", picture(palette([0, 0, 0, 0, 7, 0]), "TIFF")),
    "palette in another order": (".png", picture(palette([0, 90, 255, 0, 0, 0], ~MARKED))),
    "red on black": (".png", png(layers(0, 0, BLACK_AND_WHITE))),
    "a colour in the last channel alone": (".npy", npy(layers(0, 0, BLACK_AND_WHITE))),
    "colours that differ": (".tif", tiff(layers(BLACK_AND_WHITE, MARKED * np.arange(95) % 7, 0), photometric="rgb")),
    "white on black, opaque": (".png", png(layers(*[BLACK_AND_WHITE] * 3, 255))),
    "white on black, as transparent everywhere": (".png", png(layers(*[BLACK_AND_WHITE] * 3, 9))),
    "alpha on black": (".png", png(layers(0, 0, 0, BLACK_AND_WHITE))),
    "alpha on white": (".png", png(layers(255, 255, 255, BLACK_AND_WHITE))),
    "alpha on one colour": (".png", png(layers(9, 200, 7, BLACK_AND_WHITE))),
    "alpha and grey": (".png", picture(Image.merge("LA", [BLACK, Image.fromarray(BLACK_AND_WHITE)]))),
    "alpha and grey npy": (".npy", npy(layers(0, BLACK_AND_WHITE))),
    "red strokes on nothing": (".png", png(layers(0, 0, BLACK_AND_WHITE, BLACK_AND_WHITE))),
    "colours that are seen through": (
        ".png",
        png(layers(0, 0, (MARKED | ELSEWHERE) * np.uint8(255), ~ELSEWHERE * np.uint8(255))),
    ),
    "one channel": (".npy", npy(MARKED[..., None])),
}


@pytest.mark.parametrize("how", MASKS)
def test_a_mask_marks_the_same_in_every_encoding(tmp_path, how):
    suffix, content = MASKS[how]
    (tmp_path / f"a{suffix}").write_bytes(content)
    read = formats.read_mask(tmp_path / f"a{suffix}")
    assert read.dtype == bool
    np.testing.assert_array_equal(read, MARKED)


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (MARKED & False, "a.npy marks nothing; correct or remove it: a map without a mask is in no pixel metric"),
        (MARKED | True, "a.npy marks everything; correct"),
        (layers(0, 0, 0, 0), "a.npy marks nothing"),
        (layers(0, 0, 0, 255), "a.npy marks nothing"),
        (layers(5, 5, 5, 255), "a.npy marks everything"),
        (layers(ELSEWHERE, ELSEWHERE, ELSEWHERE, MARKED), "a.npy marks nothing"),
        (np.where(MARKED, np.nan, 0), "a.npy holds NaN or infinite values; a mask is 0 where nothing is marked"),
        (np.where(MARKED, np.inf, 0), "a.npy holds NaN or infinite"),
        (MARKED * 1j, "a.npy holds complex128 of shape"),
        (MARKED[0], "a.npy holds bool of shape"),
        (np.dstack([MARKED] * 5), "a.npy holds bool of shape"),
    ],
)
def test_a_mask_that_is_none_is_refused(tmp_path, pixels, says):
    np.save(tmp_path / "a.npy", pixels)
    with pytest.raises(BadInput, match=re.escape(says)):
        formats.read_mask(tmp_path / "a.npy")


def test_a_map_or_a_mask_that_has_changed_is_no_longer_the_same(tmp_path):
    np.save(tmp_path / "a.npy", MAP)
    np.save(tmp_path / "mask.npy", MARKED)
    of_map, of_both = formats.digest(MAP), formats.digest(MAP, MARKED)
    np.testing.assert_array_equal(formats.read_map(tmp_path / "a.npy", of_map), MAP)
    np.testing.assert_array_equal(formats.read_mask(tmp_path / "mask.npy", of_both, MAP), MARKED)
    assert len({of_map, of_both, formats.digest(MAP, ELSEWHERE)}) == 3
    np.save(tmp_path / "mask.npy", ELSEWHERE)
    with pytest.raises(BadInput, match="mask.npy has changed since this run read and checked it; start the run again"):
        formats.read_mask(tmp_path / "mask.npy", of_both, MAP)
    np.save(tmp_path / "a.npy", MAP + 1)
    with pytest.raises(BadInput, match="a.npy has changed"):
        formats.read_map(tmp_path / "a.npy", of_map)
