"""Every supported kind of image gives the right pixels; all other files give an error with the cause."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.pictures import encoded, picture, png
from support.programs import python_environment

from retrain.config.frame import Frame
from retrain.data import images
from retrain.data.content import difference_hash, examine_decoded, examine_image
from retrain.data.images import decode_image
from retrain.errors import DropError


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_formats_give_identical_pixels(kind: str) -> None:
    data = encoded(Image.fromarray(picture(1)), kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(decode_image(data, 8), picture(1).transpose(2, 0, 1))


def test_jpeg_is_decoded() -> None:
    flat = Image.new("RGB", (8, 8), (200, 100, 50))
    assert np.abs(decode_image(encoded(flat, "JPEG"), 8)[:, 4, 4] - np.array([200, 100, 50])).max() <= 2


def test_image_of_another_size_is_resized_and_center_cropped() -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 255
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(wide)), 8), np.full((3, 8, 8), 255))
    image = Image.fromarray(picture(2, 40))
    np.testing.assert_array_equal(
        decode_image(encoded(image), 16), np.asarray(ImageOps.fit(image, (16, 16))).transpose(2, 0, 1)
    )


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [16, 40])
def test_large_jpeg_is_decoded_smaller_and_looks_the_same(size: int, mode: str) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    large = Image.fromarray(colours).resize((401, 299), Image.Resampling.BICUBIC).convert(mode)
    data = encoded(large, "JPEG", quality=95)
    whole = ImageOps.fit(Image.open(io.BytesIO(data)).convert("RGB"), (size, size))
    difference = np.abs(decode_image(data, size).transpose(1, 2, 0).astype(int) - np.asarray(whole))
    assert difference.any()
    assert difference.mean() < 1
    assert difference.max() <= 6


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("factor", [1, 8])
def test_image_is_turned_upright_by_its_exif(kind: str, factor: int) -> None:
    lying = Image.new("RGB", (32 * factor, 32 * factor))
    lying.paste((255, 255, 255), (0, 0, 16 * factor, 32 * factor))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise: the left side goes to the top
    pixels = decode_image(encoded(lying, kind, exif=exif), 32)
    assert pixels[:, 4, 28].min() > 240
    assert pixels[:, 28, 4].max() < 15


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    deep = np.array([[0, 255, 256], [32768, 65279, 65535], [1, 2, 3]], np.uint16)
    expected = np.array([[0, 0, 1], [128, 254, 255], [0, 0, 0]], np.uint8)
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(deep)), 3), np.stack([expected] * 3))


def test_gray_one_bit_and_transparent_images_become_rgb() -> None:
    gray = picture(3)[:, :, 0]
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(gray)), 8), np.stack([gray] * 3))
    bits = Image.fromarray(gray).convert("1")
    np.testing.assert_array_equal(decode_image(encoded(bits), 8)[0], np.asarray(bits) * np.uint8(255))
    transparent = np.concatenate([picture(4), gray[:, :, None]], axis=2)
    data = encoded(Image.fromarray(transparent))
    np.testing.assert_array_equal(decode_image(data, Frame(8, 8, background="none")), picture(4).transpose(2, 0, 1))
    alpha = gray / 255
    for background, colour in (("white", 255), ("black", 0)):
        expected = picture(4).transpose(2, 0, 1) * alpha + colour * (1 - alpha)
        pixels = decode_image(data, Frame(8, 8, background=background)).astype(int)
        assert np.abs(pixels - expected).max() <= 1
    assert decode_image(encoded(Image.new("RGBA", (8, 8))), 8).min() == 255


def test_palette_with_transparency_is_put_on_white() -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    data = encoded(palette, transparency=bytes([0, 128]))
    np.testing.assert_array_equal(decode_image(data, 4)[:, 0, 0], [132, 137, 142])
    np.testing.assert_array_equal(decode_image(data, Frame(4, 4, background="none"))[:, 0, 0], [10, 20, 30])


def test_cmyk_becomes_rgb() -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    red, green, blue = decode_image(encoded(cyan, "JPEG"), 8)[:, 4, 4]
    assert red < 20
    assert min(green, blue) > 235


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animation_is_read_as_its_first_frame(kind: str) -> None:
    frames = [Image.fromarray(picture(number)) for number in (5, 6)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(decode_image(data, 8), picture(5).transpose(2, 0, 1))


def bomb(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header declares width x height pixels."""
    chunk = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + b"IHDR" + chunk + struct.pack(">I", zlib.crc32(b"IHDR" + chunk))
    return b"\x89PNG\r\n\x1a\n" + header + png(1)[33:]


@pytest.mark.parametrize(
    ("width", "why"), [(8_000, "at most 50,000,000 are allowed"), (10_000, "bomb"), (60_000, "bomb")]
)
def test_image_above_pixel_limit_is_refused_before_decoding(width: int, why: str) -> None:
    with pytest.raises(DropError, match=why):
        decode_image(bomb(width, width), 8)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda: b"",
        lambda: b"not an image",
        lambda: png(1)[:-60],
        lambda: png(1)[:20],
        lambda: png(1)[:45] + b"\0\0\0\0" + png(1)[49:],
        lambda: encoded(Image.fromarray(picture(1, 64)), "JPEG")[:-500],
        lambda: encoded(Image.fromarray(picture(1)), "PPM"),
    ],
)
def test_undecodable_image_is_refused_with_its_cause(spoil: Callable[[], bytes]) -> None:
    with pytest.raises(DropError, match=r"cannot be decoded: .+") as raised:
        decode_image(spoil(), 8)
    assert raised.value.__cause__ is not None


def corrupt_exif() -> bytes:
    """Return a JPEG whose EXIF declares 65,535 entries but has none. Pillow warns about it."""
    return encoded(Image.fromarray(picture(1)), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")


def exif_without_header() -> bytes:
    """Return a JPEG whose EXIF does not begin as a TIFF file does."""
    return encoded(Image.fromarray(picture(1)), "JPEG", exif=b"Exif\0\0XX*\0\x08\0\0\0")


def broken_mpo() -> bytes:
    """Return a JPEG whose list of further pictures (MPO) is damaged. Pillow warns, and reads the first picture."""
    frames = [Image.fromarray(picture(number)) for number in (1, 2)]
    whole = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    return whole.replace(b"MPF\0II*\0", b"MPF\0II*\1")


@pytest.mark.parametrize("image", [corrupt_exif, exif_without_header, broken_mpo])
def test_image_with_damaged_metadata_is_decoded(tmp_path: Path, image: Callable[[], bytes]) -> None:
    path = tmp_path / "warns.jpg"
    path.write_bytes(image())
    code = f"from retrain.data.images import decode_image; decode_image(open({str(path)!r}, 'rb').read(), 16)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "AVIF", "HEIF", "MPO"])
def test_other_image_formats_are_decoded(kind: str) -> None:
    flat = Image.new("RGB", (16, 16), (200, 100, 50))
    flat = flat.quantize() if kind == "GIF" else flat
    assert np.abs(decode_image(encoded(flat, kind), 8)[:, 4, 4].astype(int) - [200, 100, 50]).max() <= 8


def test_heic_without_its_decoder_names_the_package(tmp_path: Path) -> None:
    path = tmp_path / "photo.heic"
    path.write_bytes(encoded(Image.fromarray(picture(1)), "HEIF"))
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from retrain.data.content import examine_image\n"
        f"examine_image(open({str(path)!r}, 'rb').read(), 8)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'retrain-classifiers[heic]'" in process.stderr


def test_pixels_without_a_stated_range_are_refused() -> None:
    with pytest.raises(DropError, match="mode F"):
        decode_image(encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"), 8)


@pytest.mark.parametrize("orientation", [1, 6, 9])
@pytest.mark.parametrize(("kind", "most"), [("JPEG", 2), ("PNG", 0)])
def test_examine_image_and_examine_decoded_agree(kind: str, most: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    data = encoded(Image.fromarray(picture(3, 300)), kind, exif=exif)
    facts, pixels = examine_decoded(data, 16)
    alone = examine_image(data, 16)  # decodes a large JPEG to grey values
    assert (alone.content, alone.width, alone.height) == (facts.content, facts.width, facts.height)
    for name in ("parts", "thumbnail"):
        one, other = (np.frombuffer(getattr(each, name), np.uint8).astype(int) for each in (alone, facts))
        assert np.abs(one - other).max() <= most
    np.testing.assert_array_equal(pixels, decode_image(data, 16))


def test_damaged_jpeg_fails_alike_with_and_without_colours() -> None:
    data, random = encoded(Image.fromarray(picture(3, 300)), "JPEG"), np.random.default_rng(0)

    def error(examine: Callable[[bytes, int], object], damaged: bytes) -> str | None:
        try:
            examine(damaged, 64)
        except DropError as found:
            return str(found)
        return None

    cut = [data[:length] for length in random.integers(0, len(data), 50)]
    changed = [bytearray(data) for _ in range(100)]
    for each in changed:
        each[random.integers(700)] = random.integers(256)
    causes = {damaged: error(examine_image, damaged) for damaged in [*cut, *map(bytes, changed)]}
    assert causes == {damaged: error(examine_decoded, damaged) for damaged in causes}
    assert {cause is None for cause in causes.values()} == {True, False}


@pytest.mark.parametrize("shape", [(480, 480), (301, 900)])
def test_reducing_a_large_image_hardly_changes_its_hash(shape: tuple[int, int]) -> None:
    image = Image.fromarray(picture(3, 12)).resize(shape, Image.Resampling.BICUBIC)
    whole = np.frombuffer(image.convert("L").resize((9, 8), Image.Resampling.BOX).tobytes(), np.uint8)
    parts = np.frombuffer(examine_image(encoded(image, "JPEG"), 224).parts, np.uint8)
    assert np.abs(parts.astype(int) - whole).max() <= 6
    hashes = difference_hash(np.stack((parts, whole)).reshape(2, 8, 9))
    assert np.bitwise_count(hashes[0] ^ hashes[1]).sum() <= 2


def test_examining_an_image_does_not_resize_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Image.Image:
        raise AssertionError("resized")

    data = encoded(Image.fromarray(picture(3, 300)), "JPEG")
    monkeypatch.setattr(images, "_fit", refuse)
    assert examine_image(data, 16).width == 300
    with pytest.raises(DropError, match="resized"):
        examine_decoded(data, 16)


OUT_OF_MEMORY = """
import resource
import sys
from pathlib import Path
from retrain.data.images import decode_image
decode_image(Path(sys.argv[1]).read_bytes(), 8)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 50_000_000, resource.RLIM_INFINITY))
try:
    decode_image(Path(sys.argv[2]).read_bytes(), 8)
except MemoryError:
    print("out of memory")
"""


def test_missing_memory_is_no_error_of_the_image(tmp_path: Path) -> None:
    """A `DropError` would put a good drop into quarantine."""
    paths = (tmp_path / "small.png", tmp_path / "large.png")
    paths[0].write_bytes(png(1))
    paths[1].write_bytes(encoded(Image.new("RGB", (6000, 6000))))
    command = [sys.executable, "-c", OUT_OF_MEMORY, *map(str, paths)]
    ended = subprocess.run(command, env=python_environment(), capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("out of memory\n", "")
