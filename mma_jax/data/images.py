"""Local images of a catalog: finding them, and opening them without trusting them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What is decoded, whatever a file is called: shops name GIFs .jpg, but nobody needs PostScript run on a download."""

MAX_PIXELS = 50_000_000
"""Larger images are not decoded: 50 megapixels of RGB are 150 MB of memory."""


def find_images(folder: Path, ids: Sequence[str]) -> tuple[tuple[tuple[str, ...], ...], list[str]]:
    """Per item the sorted paths of folder/ID.{jpg,jpeg,png,webp} and folder/ID/*, and the problems.

    The folder may be absent: no item has an image then. Images that belong to no item are counted.
    """
    found: dict[str, list[str]] = {}
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.is_dir():
            paths = [str(path) for path in sorted(entry.iterdir()) if path.suffix.lower() in EXTENSIONS]
            found.setdefault(entry.name, []).extend(paths)
        elif entry.suffix.lower() in EXTENSIONS:
            found.setdefault(entry.stem, []).append(str(entry))
    images = tuple(tuple(found.get(item, ())) for item in ids)
    strays = sum(map(len, found.values())) - sum(map(len, images))
    return images, [f"{strays:,} images in {folder.name}/ belong to no item"] if strays else []


def open_image(path: str, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image | None, str]:
    """The decoded RGB image and "", or None and the reason why there is none.

    Reasons: "unreadable file", "empty file", "not an image" (zero-sized ones included), "oversized" (more
    than `max_pixels`, judged by the header before anything is decoded), "truncated or corrupt".
    Transparent pixels become white. Of an animation, the first frame. Never raises.
    """
    try:
        if os.path.getsize(path) == 0:
            return None, "empty file"
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                return None, "oversized"
            return _decode(image)
    except UnidentifiedImageError:
        return None, "not an image"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None, "oversized"
    except OSError as error:  # without an errno it comes from a parser, not from the file system
        return None, "unreadable file" if error.errno else "not an image"
    except Exception:  # parsers of hostile headers raise whatever they trip over: struct, zlib, value, index errors
        return None, "not an image"


def _decode(image: Image.Image) -> tuple[Image.Image | None, str]:
    try:
        if not image.has_transparency_data:
            return image.convert("RGB"), ""
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB"), ""
    except Exception:  # decoders of hostile data raise as variously as header parsers do
        return None, "truncated or corrupt"
