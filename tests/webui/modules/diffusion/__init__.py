"""Our own small latent diffusion networks, with the topology and the module names of SD1 and SDXL."""
