"""Decode PNG and JPEG files of all kinds to 8-bit grey or RGB."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..common.dataset import MAX_SIDE
from ..common.errors import UserError
from ..params import Background

ORIENTATION = 0x0112  # the EXIF tag of how a camera was held


def decode(
    raw: bytes | bytearray, name: str, size: int | None = None, background: Background = "black"
) -> tuple[np.ndarray, list[str]]:
    """Decode an image: (H, W) or (H, W, 3) uint8, and a list of what was converted.

    With `size`, the middle square is resized to `size` pixels, antialiased (Lanczos). Transparent
    images are put on the `background`.

    Raises UserError, starting with `name`, for files of other formats, damaged and too large ones.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(raw), formats=["PNG", "JPEG"]) as image:
                if size is None:
                    check_side(name, *image.size)
                done = ["JPEG"] if image.format in ("JPEG", "MPO") else []
                if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
                    done.append("animated, first image taken")
                if image.format == "PNG":
                    _scale_transparency(image, bits=raw[24])
                    if raw[24] == 16:
                        done.append("16 bits, scaled to 8")
                plain = _plain(_upright(image, done), background, done)
                if size is not None and plain.size != (size, size):
                    done.append("resized")
                    plain = resized(plain, size)
                return np.array(plain), done
    except (UserError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise UserError(
            f"{name} is not a PNG or JPEG; save it again as one of them, or remove it"
        ) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(
            f"{name} has more than {Image.MAX_IMAGE_PIXELS:,} pixels; make the image smaller"
        ) from None
    except Exception as error:  # Pillow raises many types of errors for damaged files
        raise UserError(
            f"{name} is not a whole PNG or JPEG ({type(error).__name__}: {error}); save or fetch "
            f"it again, or remove it"
        ) from None


def resized(image: Image.Image, size: int) -> Image.Image:
    """The middle square of an image, resized to `size` pixels, antialiased."""
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)


def check_side(name: str, width: int, height: int) -> None:
    """Raises UserError, starting with `name`, for an image of more than MAX_SIDE pixels a side."""
    if max(width, height) > MAX_SIDE:
        raise UserError(
            f"{name} is {width}x{height}; at most {MAX_SIDE} pixels a side are accepted. "
            f"unpack.size makes images smaller"
        )


def _upright(image: Image.Image, done: list[str]) -> Image.Image:
    """The image as its camera was held. EXIF that cannot be read changes nothing."""
    try:
        turned = image.getexif().get(ORIENTATION, 1) in range(2, 9)
    except Exception:  # Pillow raises many types of errors for damaged EXIF
        return image
    if turned:
        done.append("turned upright, as its EXIF says")
    return ImageOps.exif_transpose(image) if turned else image


def _scale_transparency(image: Image.Image, bits: int) -> None:
    """Scale the transparent value of a PNG to 8 bits, as Pillow does with its pixels."""
    value = image.info.get("transparency")
    if image.mode == "L" and bits in (2, 4) and isinstance(value, int):
        image.info["transparency"] = value * 255 // (2**bits - 1)
    elif image.mode == "RGB" and bits == 16 and isinstance(value, tuple):
        image.info["transparency"] = tuple(part >> 8 for part in value)


def _plain(image: Image.Image, background: Background, done: list[str]) -> Image.Image:
    """The image in mode L or RGB. Appends to `done` what was converted."""
    if image.mode.startswith("I"):  # 16-bit grey
        return _from_16_bits(image, background, done)
    if image.mode == "1":
        done.append("1 bit")
        image = _with_transparency(image, image.convert("L"))
    elif image.mode == "P":
        done.append("palette")
    if "A" in image.mode or "transparency" in image.info:
        coloured = image.convert("RGBA")
        if coloured.getchannel("A").getextrema() == (255, 255):
            done.append("opaque, alpha dropped")
        else:
            done.append(f"transparent, put on {background}")
            coloured = Image.alpha_composite(Image.new("RGBA", image.size, background), coloured)
        return coloured.convert("RGB")
    if image.mode in ("L", "RGB"):
        return image
    done.append(f"{image.mode}, as RGB")
    return image.convert("RGB")


def _with_transparency(image: Image.Image, converted: Image.Image) -> Image.Image:
    """`converted`, with the transparency of `image`, which convert() may drop."""
    if "transparency" in image.info:
        converted.info["transparency"] = image.info["transparency"]
    return converted


def _from_16_bits(image: Image.Image, background: Background, done: list[str]) -> Image.Image:
    values = np.array(image).astype(np.int64)
    pixels = np.round(values.clip(0, 65_535) / 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        done.append(f"transparent, put on {background}")
        pixels[values == transparent] = 0 if background == "black" else 255
    return Image.fromarray(pixels)
