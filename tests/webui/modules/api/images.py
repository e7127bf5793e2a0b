"""Images as base64 text, in and out of the API."""

from __future__ import annotations

import base64
import io
import ipaddress
import socket
from urllib.parse import urlparse

import requests
from fastapi.exceptions import HTTPException
from PIL import Image, PngImagePlugin

from modules.shared import opts


def verify_url(url: str) -> bool:
    """Whether every address of the URL's host is a public one."""
    try:
        _, _, addresses = socket.gethostbyname_ex(urlparse(url).netloc)
        return all(ipaddress.ip_address(address).is_global for address in addresses)
    except (OSError, ValueError):
        return False


def decode_base64_to_image(encoding: str) -> Image.Image:
    """Read an image from base64 text, a data URI, or, if the settings allow, an address.

    Raises:
        HTTPException: 500, as on the host, with what was wrong.
    """
    if encoding.startswith(("http://", "https://")):
        return _opened(io.BytesIO(_download(encoding)), "Invalid image url")
    if encoding.startswith("data:image/"):
        encoding = encoding.split(";", 1)[1].split(",", 1)[1]
    try:
        data = base64.b64decode(encoding)
    except ValueError as error:
        raise HTTPException(status_code=500, detail="Invalid encoded image") from error
    return _opened(io.BytesIO(data), "Invalid encoded image")


def _opened(file: io.BytesIO, complaint: str) -> Image.Image:
    try:
        image = Image.open(file)
        image.load()
    except (OSError, ValueError) as error:
        raise HTTPException(status_code=500, detail=complaint) from error
    return image


def _download(url: str) -> bytes:
    if not opts.api_enable_requests:
        raise HTTPException(status_code=500, detail="Requests not allowed")
    if opts.api_forbid_local_requests and not verify_url(url):
        raise HTTPException(status_code=500, detail="URLs of this machine are not allowed")
    headers = {"user-agent": opts.api_useragent} if opts.api_useragent else {}
    return requests.get(url, timeout=30, headers=headers).content


def encode_pil_to_base64(image: Image.Image | str) -> bytes | str:
    """The image in the format of the settings, with its parameters inside."""
    if isinstance(image, str):
        return image
    kind = opts.samples_format.lower()
    with io.BytesIO() as buffer:
        if kind == "png":
            image.save(buffer, format="PNG", pnginfo=_png_texts(image))
        elif kind in ("jpg", "jpeg", "webp"):
            flat = image.convert("RGB") if image.mode in ("RGBA", "P") else image
            exif = Image.Exif()
            exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + image.info.get("parameters", "").encode("utf-16-be")
            flat.save(buffer, format="WEBP" if kind == "webp" else "JPEG", exif=exif, quality=opts.jpeg_quality)
        else:
            raise HTTPException(status_code=500, detail="Invalid image format")
        return base64.b64encode(buffer.getvalue())


def _png_texts(image: Image.Image) -> PngImagePlugin.PngInfo | None:
    texts = {key: value for key, value in image.info.items() if isinstance(key, str) and isinstance(value, str)}
    if not texts:
        return None
    info = PngImagePlugin.PngInfo()
    for key, value in texts.items():
        info.add_text(key, value)
    return info
