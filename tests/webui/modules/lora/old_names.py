"""What the built-in extensions' module `lora` has: names from before LyCORIS networks came, of the very lists of
`networks`."""
from __future__ import annotations

import networks

list_available_loras = networks.list_available_networks
available_loras = networks.available_networks
available_lora_aliases = networks.available_network_aliases
available_lora_hash_lookup = networks.available_network_hash_lookup
forbidden_lora_aliases = networks.forbidden_network_aliases
loaded_loras = networks.loaded_networks
