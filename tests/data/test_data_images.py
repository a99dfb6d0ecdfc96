import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mma_jax.data.images import open_image

DATA = Path(os.environ.get("MMA_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


def noise(size=(64, 48)):
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def encoded(image, kind):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG that claims a size and holds nothing: what a decompression bomb shows first."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def put(folder, name, content):
    (folder / name).write_bytes(content)
    return str(folder / name)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_good_images_open_as_rgb(tmp_path, kind):
    image, reason = open_image(put(tmp_path, "x", encoded(noise(), kind)))
    assert (image.mode, image.size, reason) == ("RGB", (64, 48), "")
    if kind == "PNG":
        np.testing.assert_array_equal(np.asarray(image), np.asarray(noise()))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "1"])
def test_other_modes_become_rgb(tmp_path, mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    image, _ = open_image(put(tmp_path, "x", encoded(noise().convert(mode), kind)))
    assert image.mode == "RGB"


def test_transparent_pixels_become_white(tmp_path):
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    clear.putpixel((1, 0), (255, 0, 0, 255))
    image, _ = open_image(put(tmp_path, "x.png", encoded(clear, "PNG")))
    assert np.asarray(image).tolist() == [[[255, 255, 255], [255, 0, 0]]]


def bad_images(folder):
    jpeg, png, webp = (encoded(noise(), kind) for kind in ("JPEG", "PNG", "WEBP"))
    damaged = bytearray(png)
    damaged[len(png) // 2] ^= 0xFF
    return {
        put(folder, "empty.jpg", b""): "empty file",
        put(folder, "text.jpg", b"<html>404</html>"): "not an image",
        put(folder, "short.jpg", jpeg[: len(jpeg) // 2]): "truncated or corrupt",
        put(folder, "short.png", png[: len(png) // 2]): "truncated or corrupt",
        put(folder, "damaged.png", bytes(damaged)): "truncated or corrupt",
        put(folder, "hollow.png", png_header(20, 20)): "truncated or corrupt",
        put(folder, "scan.jpg", encoded(noise(), "TIFF")): "not an image",
        put(folder, "head.webp", webp[:20]): "not an image",
        put(folder, "flat.png", png_header(0, 10)): "not an image",
        put(folder, "large.png", png_header(8_000, 8_000)): "oversized",
        put(folder, "warned.png", png_header(10_000, 10_000)): "oversized",
        put(folder, "bomb.png", png_header(60_000, 60_000)): "oversized",
        str(folder / "absent.jpg"): "unreadable file",
        str(folder): "unreadable file",
    }


@pytest.mark.filterwarnings("ignore")
def test_bad_images_give_their_reason_and_never_raise(tmp_path):
    for path, expected in bad_images(tmp_path).items():
        image, reason = open_image(path)
        assert image is None
        assert reason == expected, path


@pytest.mark.filterwarnings("ignore")
def test_fuzzed_bytes_never_raise(tmp_path):
    rng = np.random.default_rng(0)
    sources = [encoded(noise((16, 16)), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP")]
    for i in range(600):
        content = np.frombuffer(sources[i % len(sources)], np.uint8).copy()
        content[rng.integers(0, min(len(content), 200), 4)] = rng.integers(0, 256, 4)
        image, reason = open_image(put(tmp_path, "x", content.tobytes()))
        assert (image is None) == bool(reason)


def test_size_limit_is_a_limit_of_pixels(tmp_path):
    path = put(tmp_path, "x.png", encoded(noise((10, 10)), "PNG"))
    assert open_image(path, max_pixels=100)[1] == ""
    assert open_image(path, max_pixels=99)[1] == "oversized"


@pytest.mark.skipif(not (DATA / "ml-100k" / "images").is_dir(), reason="no ml-100k posters")
def test_all_posters_open():
    assert {open_image(str(path))[1] for path in (DATA / "ml-100k" / "images").iterdir()} == {""}
