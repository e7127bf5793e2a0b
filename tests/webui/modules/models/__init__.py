"""Kinds of model, and the code of those that the host brings itself."""
from modules.diffusion import latent_diffusion
from modules.models.sd3.sd3_model import SD3Inferencer

MODEL_CLASSES = {**latent_diffusion.MODEL_CLASSES, "sd3": SD3Inferencer}
