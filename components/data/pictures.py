"""One picture file → numbers, the same way for a data set that is prepared and for a picture that somebody asks about later.

Whatever Pillow opens: the rotation that EXIF asks for is applied, transparency is laid on white, CMYK and palettes become RGB or
grey, 16 and 32 bits a sample become 8 over their full range, of several frames the first counts.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from components.errors import DataError

Fit = Literal["stretch", "crop", "pad"]
"""How a picture of other proportions gets the wanted size: squeezed, cut at the longer sides, or with black bars at the shorter."""

WIDE_MODES = {"I;16": 65535.0, "I;16B": 65535.0, "I;16L": 65535.0, "I;16N": 65535.0, "I": 65535.0}
"""Pillow's modes of more than 8 bits, and the value that is white; `I` is how it opens 16-bit grey in several formats."""


def read_picture(content: bytes, *, channels: int, size: Sequence[int], fit: Fit) -> Tensor:
    """A picture file's bytes as (C, H, W) uint8.

    Args:
        content: the file.
        channels: 1 for grey, 3 for RGB.
        size: [H, W] in pixels; bilinear with antialiasing.
        fit: what to do with other proportions.

    Raises:
        DataError: it cannot be read as a picture; says why.
    """
    picture = open_picture(content, "L" if channels == 1 else "RGB")
    height, width = size
    bilinear = Image.Resampling.BILINEAR
    if picture.size != (width, height):
        match fit:
            case "stretch":
                picture = picture.resize((width, height), bilinear)
            case "crop":
                picture = ImageOps.fit(picture, (width, height), bilinear)
            case "pad":
                picture = ImageOps.pad(picture, (width, height), bilinear)
    return torch.from_numpy(np.array(picture).reshape(height, width, channels)).permute(2, 0, 1).contiguous()


def open_picture(content: bytes, mode: Literal["L", "RGB"] = "RGB") -> Image.Image:
    """A picture file's bytes as grey or RGB of 8 bits, upright, in its own size.

    Raises:
        DataError: it cannot be read as a picture; says why.
    """
    try:
        opened = Image.open(io.BytesIO(content))
        opened.load()
        picture: Image.Image = ImageOps.exif_transpose(opened)
    except UnidentifiedImageError as error:
        raise DataError("not a picture in any known format") from error
    except Exception as error:  # decoders of some forty formats raise whatever they like at a damaged file
        raise DataError(f"cannot be decoded ({' '.join(str(error).split()) or type(error).__name__})") from error
    try:
        return _eight_bit(picture, mode)
    except ValueError as error:
        raise DataError(f"its colours cannot be converted ({error})") from error


def open_picture_file(path: Path) -> Image.Image:
    """A picture file as RGB; DataError naming the file when it cannot be read."""
    try:
        return open_picture(path.read_bytes())
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def read_inputs(path: Path, facts: Mapping[str, Any]) -> Tensor:
    """A picture file as a model's input (1, C, H, W) float32, by the facts of the data the model was trained on.

    Raises:
        DataError: the file cannot be read.
    """
    channels, *size = facts["input_shape"]
    try:
        pixels = read_picture(path.read_bytes(), channels=channels, size=size, fit=facts["fit"])
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    return normalised(pixels.unsqueeze(0), facts["mean"], facts["std"])


def normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(N, C, H, W) uint8 → float32 with the training data's mean 0 and deviation 1 a channel.

    Args:
        pixels: values 0..255.
        mean: a channel's mean, in units where 255 is 1.
        std: a channel's standard deviation, in the same units, > 0.
    """
    shape = (1, -1, 1, 1)
    scale = torch.tensor([1 / (255 * deviation) for deviation in std]).reshape(shape)
    shift = torch.tensor([average / deviation for average, deviation in zip(mean, std, strict=True)]).reshape(shape)
    return pixels.float().mul_(scale).sub_(shift)


def _eight_bit(picture: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    if picture.mode in WIDE_MODES or picture.mode == "F":
        values = np.nan_to_num(np.asarray(picture, dtype=np.float64))
        white = WIDE_MODES.get(picture.mode) or (1.0 if values.max() <= 1 else 255.0)
        picture = Image.fromarray((values / white * 255).clip(0, 255).round().astype(np.uint8))
    elif picture.has_transparency_data:
        seen = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return picture.convert("RGB").convert(mode) if picture.mode not in ("1", "L", "RGB") else picture.convert(mode)
