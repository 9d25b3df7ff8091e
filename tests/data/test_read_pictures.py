"""One picture file → pixels: every kind of file that people have, with values worked by hand."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from components.data.pictures import Fit, normalised, read_inputs, read_picture
from components.errors import DataError


def saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def one_pixel(content: bytes, channels: int = 3) -> list[int]:
    """The colour of the picture's one pixel."""
    return read_picture(content, channels=channels, size=[1, 1], fit="crop").flatten().tolist()


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "rgb", "grey"),
    [
        ("RGB", (255, 0, 0), "PNG", [255, 0, 0], 76),  # ITU-R 601: 0.299 of red
        ("L", 100, "PNG", [100] * 3, 100),
        ("1", 1, "PNG", [255] * 3, 255),
        ("RGBA", (255, 0, 0, 255), "PNG", [255, 0, 0], 76),
        ("RGBA", (255, 0, 0, 0), "PNG", [255, 255, 255], 255),  # nothing to see is white
        ("LA", (0, 0), "PNG", [255] * 3, 255),
        ("LA", (0, 255), "PNG", [0] * 3, 0),
        ("CMYK", (0, 255, 255, 0), "TIFF", [255, 0, 0], 76),
        ("I;16", 32896, "PNG", [128] * 3, 128),  # 32896 / 257
        ("I;16", 65535, "TIFF", [255] * 3, 255),
        ("I", 32896, "TIFF", [128] * 3, 128),
        ("F", 0.5, "TIFF", [128] * 3, 128),
        ("F", 200.0, "TIFF", [200] * 3, 200),
        ("YCbCr", (100, 128, 128), "TIFF", [100] * 3, 100),
    ],
)
def test_modes(mode: str, colour: object, kind: str, rgb: list[int], grey: int) -> None:
    content = saved(Image.new(mode, (1, 1), colour), kind)  # type: ignore[arg-type]
    assert one_pixel(content) == rgb
    assert one_pixel(content, channels=1) == [grey]


def test_palettes_with_and_without_transparency() -> None:
    picture = Image.new("P", (1, 1), 1)
    picture.putpalette([0, 0, 0, 10, 20, 30])
    assert one_pixel(saved(picture)) == [10, 20, 30]
    assert one_pixel(saved(picture, "GIF")) == [10, 20, 30]
    assert one_pixel(saved(picture, transparency=1)) == [255, 255, 255]
    assert one_pixel(saved(picture, transparency=b"\xff\x00")) == [255, 255, 255]


def test_the_first_frame_counts() -> None:
    frames = [Image.new("L", (2, 2), value) for value in (10, 200)]
    content = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_picture(content, channels=1, size=[2, 2], fit="crop").unique().tolist() == [10]


def test_exif_rotation_is_applied() -> None:
    """A camera on its side: stored 2 wide and 1 high, orientation 6 says turn right by 90°, so left becomes top."""
    stored = Image.fromarray(np.array([[10, 200]], dtype=np.uint8))
    exif = Image.Exif()
    exif[274] = 6
    content = saved(stored, "PNG", exif=exif)
    assert read_picture(content, channels=1, size=[2, 1], fit="crop").tolist() == [[[10], [200]]]


@pytest.mark.parametrize(
    ("fit", "expected"),
    [("crop", [[80, 120]] * 2), ("pad", [[0] * 2, [100] * 2]), ("stretch", [[60, 140]] * 2)],
)
def test_fit(fit: Fit, expected: list[list[int]]) -> None:
    """A strip of 4×2 with columns 40, 80, 120, 160 into 2×2."""
    strip = Image.fromarray(np.array([[40, 80, 120, 160]] * 2, dtype=np.uint8))
    pixels = read_picture(saved(strip), channels=1, size=[2, 2], fit=fit)
    assert pixels.shape == (1, 2, 2) and pixels.dtype == torch.uint8
    if fit == "pad":  # half the height is black bars
        assert pixels.min() == 0 and pixels.max() > 90
    else:
        assert (pixels[0].int() - torch.tensor(expected)).abs().max() <= 12


def test_channels_stay_channels() -> None:
    picture = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    pixels = read_picture(saved(picture), channels=3, size=[2, 4], fit="crop")
    assert pixels.tolist() == np.arange(24).reshape(2, 4, 3).transpose(2, 0, 1).tolist()


def test_what_is_no_picture() -> None:
    whole = saved(Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)))
    for content, reason in (
        (b"", "not a picture"),
        (b"hello", "not a picture"),
        (whole[:-400], "cannot be decoded"),
        (whole[:60] + b"\x00" * 900 + whole[960:], "cannot be decoded"),
    ):
        with pytest.raises(DataError, match=reason):
            read_picture(content, channels=3, size=[8, 8], fit="crop")


def test_normalised_by_hand() -> None:
    pixels = torch.tensor([[[[0, 255]], [[51, 102]]]]).byte()
    expected = torch.tensor([[[[-2.0, 2.0]], [[0.0, 2.0]]]])
    torch.testing.assert_close(normalised(pixels, [0.5, 0.2], [0.25, 0.1]), expected)


def test_a_file_as_a_models_input(tmp_path: Path) -> None:
    facts = {"input_shape": [1, 2, 3], "mean": [0.5], "std": [0.5], "fit": "stretch"}
    (tmp_path / "white.png").write_bytes(saved(Image.new("RGB", (9, 9), "white")))
    assert read_inputs(tmp_path / "white.png", facts).tolist() == [[[[1.0] * 3] * 2]]
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(DataError, match=r"text\.png: not a picture"):
        read_inputs(tmp_path / "text.png", facts)
    with pytest.raises(DataError, match=r"absent\.png: No such file"):
        read_inputs(tmp_path / "absent.png", facts)
