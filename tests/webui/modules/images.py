"""Grids, resizing, and files: an image is written with its infotext, as PNG text or EXIF comment."""

from __future__ import annotations

import datetime
import math
import os
import re

from PIL import Image, ImageColor, ImageDraw, ImageFont, PngImagePlugin

from modules import paths, script_callbacks
from modules.shared import opts

LANCZOS = Image.Resampling.LANCZOS
_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286
_NOT_IN_FILE_NAMES = re.compile(r'[#<>:"/\\|?*\n\r\t]')


def image_grid(imgs: list[Image.Image], batch_size: int = 1, rows: int | None = None) -> Image.Image:
    """Put images side by side; the setting `n_rows` decides how many rows there are, unless given."""
    if rows is None:
        rows = opts.n_rows if opts.n_rows > 0 else batch_size if opts.n_rows == 0 else _square_rows(len(imgs))
    rows = min(rows, len(imgs))
    params = script_callbacks.ImageGridLoopParams(imgs, math.ceil(len(imgs) / rows), rows)
    script_callbacks.image_grid_callback(params)
    width, height = max(img.width for img in imgs), max(img.height for img in imgs)
    background = ImageColor.getcolor(opts.grid_background_color, "RGB")
    grid = Image.new("RGB", (params.cols * width, params.rows * height), background)
    for i, img in enumerate(params.imgs):
        left, top = i % params.cols * width, i // params.cols * height
        grid.paste(img, (left + (width - img.width) // 2, top + (height - img.height) // 2))
    return grid


def _square_rows(count: int) -> int:
    if not opts.grid_prevent_empty_spots:
        return round(math.sqrt(count))
    return next(rows for rows in range(math.isqrt(count), 0, -1) if count % rows == 0)


class GridAnnotation:
    """A text beside a row or a column of a grid; one that is not active is crossed out."""

    def __init__(self, text: str = "", is_active: bool = True):
        self.text = text
        self.is_active = is_active
        self.size: tuple[int, int] | None = None


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def draw_grid_annotations(im, width: int, height: int, hor_texts, ver_texts, margin: int = 0) -> Image.Image:
    """A grid of cells of one size, with texts above its columns and beside its rows: one list of them for each."""
    columns, rows = im.width // width, im.height // height
    assert (columns, rows) == (len(hor_texts), len(ver_texts)), f"texts do not fit a grid of {columns} x {rows} cells"
    size = (width + height) // 25
    font = ImageFont.load_default(size)
    left = width * 3 // 4 if any(text.text for texts in ver_texts for text in texts) else 0
    above = ["\n".join(_wrapped(text.text, font, width) for text in texts) for texts in hor_texts]
    beside = ["\n".join(_wrapped(text.text, font, left) for text in texts) for texts in ver_texts]
    lines = max(text.count("\n") + 1 if text else 0 for text in above)
    top = lines * (size + size // 2) + size // 2 if lines else 0
    result = Image.new(
        "RGB", (im.width + left + margin * (columns - 1), im.height + top + margin * (rows - 1)),
        ImageColor.getcolor(opts.grid_background_color, "RGB"))
    draw = ImageDraw.Draw(result)
    colour = ImageColor.getcolor(opts.grid_text_active_color, "RGB")

    def write(x: float, y: float, text: str, room: int) -> None:
        fitting = font
        while text and draw.multiline_textbbox((0, 0), text, font=fitting)[2] > room and fitting.size > 1:
            fitting = ImageFont.load_default(fitting.size - 1)
        draw.multiline_text((x, y), text, colour, fitting, anchor="mm", align="center")

    for row in range(rows):
        for column in range(columns):
            box = (width * column, height * row, width * (column + 1), height * (row + 1))
            result.paste(im.crop(box), (left + (width + margin) * column, top + (height + margin) * row))
    for column, text in enumerate(above):
        write(left + (width + margin) * column + width / 2, top / 2, text, width)
    for row, text in enumerate(beside):
        write(left / 2, top + (height + margin) * row + height / 2, text, left)
    return result


def resize_image(resize_mode: int, im: Image.Image, width: int, height: int, upscaler_name=None) -> Image.Image:
    """Bring an image to a size. Mode 0 stretches it, 1 covers the size and crops, 2 fits in and repeats the edges."""
    if resize_mode == 0:
        return im.resize((width, height), LANCZOS)
    wider = im.width / im.height > width / height
    by_height = wider if resize_mode == 1 else not wider
    inner = (im.width * height // im.height, height) if by_height else (width, im.height * width // im.width)
    resized = im.resize(inner, LANCZOS)
    left, top = width // 2 - inner[0] // 2, height // 2 - inner[1] // 2
    result = Image.new("RGB", (width, height))
    if resize_mode == 2 and top > 0:
        result.paste(resized.resize((width, top), box=(0, 0, inner[0], 1)), (0, 0))
        result.paste(resized.resize((width, height - top), box=(0, inner[1] - 1, *inner)), (0, top))
    elif resize_mode == 2 and left > 0:
        result.paste(resized.resize((left, height), box=(0, 0, 1, inner[1])), (0, 0))
        result.paste(resized.resize((width - left, height), box=(inner[0] - 1, 0, *inner)), (left, 0))
    result.paste(resized, (left, top))
    return result


def flatten(img: Image.Image, bgcolor: str) -> Image.Image:
    """Lay an image with transparency over a colour."""
    if img.mode == "RGBA":
        background = Image.new("RGBA", img.size, bgcolor)
        background.alpha_composite(img)
        img = background
    return img.convert("RGB")


def read(source) -> Image.Image:
    """Open an image file, all of it."""
    image = Image.open(source)
    image.load()
    return image


def sanitize_filename_part(text: str, replace_spaces: bool = True) -> str:
    text = _NOT_IN_FILE_NAMES.sub("_", text.replace(" ", "_") if replace_spaces else text)
    return text.lstrip(" ")[:128].rstrip(". ")


def apply_filename_pattern(pattern: str, p=None, seed=None, prompt: str | None = None) -> str:
    """Replace [seed], [prompt], [prompt_spaces], [date], [sampler], [steps], [cfg], [width], [height], [model_name]."""
    values = {
        "seed": seed,
        "prompt": None if prompt is None else sanitize_filename_part(prompt),
        "prompt_spaces": None if prompt is None else sanitize_filename_part(prompt, replace_spaces=False),
        "date": datetime.date.today().isoformat(),
        "sampler": getattr(p, "sampler_name", None),
        "steps": getattr(p, "steps", None),
        "cfg": getattr(p, "cfg_scale", None),
        "width": getattr(p, "width", None),
        "height": getattr(p, "height", None),
        "model_name": getattr(p, "sd_model_name", None),
    }
    return re.sub(r"\[(\w+)\]", lambda m: str(values.get(m.group(1)) or m.group(0)), pattern)


def get_next_sequence_number(path: str, basename: str) -> int:
    """One more than the highest number that a file `[basename-]number...` in the folder has; 0 for the first."""
    prefix = f"{basename}-" if basename else ""
    numbers = re.compile(re.escape(prefix) + r"(\d+)")
    found = [int(match.group(1)) for match in map(numbers.match, os.listdir(path)) if match]
    return max(found, default=-1) + 1


def save_image_with_geninfo(
    image: Image.Image, geninfo: str | None, filename: str, extension: str | None = None, existing_pnginfo=None,
    pnginfo_section_name: str = "parameters",
) -> None:
    """Write an image file with its infotext in it."""
    extension = (extension or os.path.splitext(filename)[1]).lower()
    file_format = Image.registered_extensions()[extension]
    keep_info = opts.enable_pnginfo and geninfo is not None
    if extension == ".png":
        texts = PngImagePlugin.PngInfo()
        own = {pnginfo_section_name: geninfo} if keep_info else {}
        for key, value in {**(existing_pnginfo or {}), **own}.items():
            if opts.enable_pnginfo:
                texts.add_text(key, str(value))
        image.save(filename, format=file_format, pnginfo=texts)
        return
    exif = Image.Exif()
    if keep_info:
        exif[_EXIF_IFD] = {_USER_COMMENT: b"UNICODE\0" + geninfo.encode("utf_16_be")}
    image.convert("RGB").save(
        filename, format=file_format, quality=opts.jpeg_quality, lossless=opts.webp_lossless, exif=exif)


def read_info_from_image(image: Image.Image) -> tuple[str | None, dict]:
    """The infotext of an image, and its other texts."""
    items = dict(image.info or {})
    geninfo = items.pop("parameters", None)
    comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT)
    if isinstance(comment, bytes) and comment.startswith(b"UNICODE\0"):
        geninfo = comment[8:].decode("utf_16_be", errors="ignore")
    items.pop("exif", None)
    return geninfo, items


def _file_path(path, basename, extension, seed, prompt, short_filename, forced_filename, suffix, p) -> str:
    if forced_filename is not None:
        return os.path.join(path, f"{forced_filename}.{extension}")
    decoration = suffix
    if not short_filename and seed is not None:
        default = "[seed]" if opts.save_to_dirs else "[seed]-[prompt_spaces]"
        decoration = apply_filename_pattern(opts.samples_filename_pattern or default, p, seed, prompt) + suffix
    if decoration and not opts.save_images_add_number:
        return os.path.join(path, f"{decoration}.{extension}")
    number = get_next_sequence_number(path, basename)
    name = f"{basename}-{number:04}" if basename else f"{number:05}"
    return os.path.join(path, "-".join(part for part in (name, decoration) if part) + f".{extension}")


def save_image(
    image, path, basename, seed=None, prompt=None, extension="png", info=None, short_filename=False, no_prompt=False,
    grid=False, pnginfo_section_name="parameters", p=None, existing_info=None, forced_filename=None, suffix="",
    save_to_dirs=None,
) -> tuple[str, str | None]:
    """Save an image, numbered, in a folder; relative folders are in the data folder.

    Returns:
        The path of the image, and that of the text file beside it or None.
    """
    if save_to_dirs is None:
        save_to_dirs = opts.grid_save_to_dirs if grid else opts.save_to_dirs and not no_prompt
    path = os.path.join(paths.data_path, path)
    if save_to_dirs:
        pattern = opts.directories_filename_pattern or "[date]"
        path = os.path.join(path, apply_filename_pattern(pattern, p, seed, prompt))
    os.makedirs(path, exist_ok=True)
    filename = _file_path(path, basename, extension, seed, prompt, short_filename, forced_filename, suffix, p)
    pnginfo = dict(existing_info or {})
    if info is not None:
        pnginfo[pnginfo_section_name] = info
    params = script_callbacks.ImageSaveParams(image, p, filename, pnginfo)
    script_callbacks.before_image_saved_callback(params)
    info = params.pnginfo.get(pnginfo_section_name)
    stem, extension = os.path.splitext(params.filename)
    # Written beside and moved, so that nobody who watches the folder sees half an image.
    save_image_with_geninfo(
        params.image, info, stem + ".tmp", extension, params.pnginfo, pnginfo_section_name=pnginfo_section_name)
    os.replace(stem + ".tmp", params.filename)
    params.image.already_saved_as = params.filename
    text_filename = None
    if opts.save_txt and info is not None:
        text_filename = stem + ".txt"
        with open(text_filename, "w", encoding="utf8") as file:
            file.write(info + "\n")
    script_callbacks.image_saved_callback(params)
    return params.filename, text_filename
