"""Masks of inpainting: the part of an image around a mask, and something to put under it."""

from __future__ import annotations

from PIL import Image, ImageFilter, ImageOps


def create_binary_mask(image: Image.Image, round: bool = True) -> Image.Image:
    """A mask from the alpha channel if the image has one in use, else from its brightness."""
    if image.mode == "RGBA" and image.getextrema()[-1] != (255, 255):
        alpha = image.getchannel("A")
        return alpha.point(lambda value: 255 if value > 128 else 0) if round else alpha
    return image.convert("L")


def get_crop_region(mask: Image.Image, pad: int = 0) -> tuple[int, int, int, int] | None:
    """The rectangle around what is masked, `pad` pixels wider on each side; None for an empty mask."""
    box = mask.getbbox()
    if box is None:
        return None
    return max(box[0] - pad, 0), max(box[1] - pad, 0), min(box[2] + pad, mask.width), min(box[3] + pad, mask.height)


def expand_crop_region(region: tuple, width: int, height: int, image_width: int, image_height: int) -> tuple:
    """Widen a region to the proportions of `width` x `height`, as far as the image goes."""
    left, top, right, bottom = region
    ratio = width / height
    wanted_width = min(max(right - left, round((bottom - top) * ratio)), image_width)
    wanted_height = min(max(bottom - top, round((right - left) / ratio)), image_height)
    left = min(max(left - (wanted_width - (right - left)) // 2, 0), image_width - wanted_width)
    top = min(max(top - (wanted_height - (bottom - top)) // 2, 0), image_height - wanted_height)
    return left, top, left + wanted_width, top + wanted_height


def fill(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Fill what is masked with the blurred colours around it, each radius over those of the wider ones."""
    rest = Image.new("RGBa", image.size)
    rest.paste(image.convert("RGBA").convert("RGBa"), mask=ImageOps.invert(mask.convert("L")))
    filled = Image.new("RGBA", image.size)
    for radius in (128, 32, 8, 2, 0):
        filled.alpha_composite(rest.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA"))
    return filled.convert("RGB")
