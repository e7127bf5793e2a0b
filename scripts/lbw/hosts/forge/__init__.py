"""The adapter for the Forge family: Forge, reForge, Forge Classic, Forge Neo."""
