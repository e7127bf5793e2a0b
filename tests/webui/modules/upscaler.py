"""Upscalers of the hires pass and img2img that work on pixels: plain resizing, by several kernels."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image


@dataclass
class UpscalerData:
    """An upscaler in the list; `scaler` is the one that does the work, here itself."""

    name: str
    resample: Image.Resampling | None
    scale: float = 4
    data_path: str | None = None
    model_name: str | None = None

    @property
    def scaler(self) -> UpscalerData:
        return self

    def upscale(self, img: Image.Image, scale: float, selected_model: str | None = None) -> Image.Image:
        if self.resample is None:
            return img
        return img.resize((int(img.width * scale), int(img.height * scale)), self.resample)


upscalers = [
    UpscalerData("None", None, scale=1),
    UpscalerData("Lanczos", Image.Resampling.LANCZOS),
    UpscalerData("Nearest", Image.Resampling.NEAREST),
]
