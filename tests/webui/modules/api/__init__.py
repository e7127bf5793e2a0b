"""The host as an HTTP service."""
