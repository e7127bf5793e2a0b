"""The host's own package; extensions import everything they need from here."""
