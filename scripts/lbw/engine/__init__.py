"""From coefficients to weights. Imports ``plan`` and ``tags``, and no host."""
