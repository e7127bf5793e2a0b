"""G1, as Forge of 2025 and Forge Neo of that year: patches by file, merged when a model comes onto the device."""
