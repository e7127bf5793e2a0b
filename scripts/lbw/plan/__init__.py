"""From requests, presets and layers to one coefficient for each network, layer and step. Imports ``tags``."""
