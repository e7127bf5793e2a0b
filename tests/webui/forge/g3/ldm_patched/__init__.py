"""The names that this generation of hosts has for its parts."""
