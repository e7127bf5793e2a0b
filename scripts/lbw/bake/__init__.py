"""LoRA tags become a new LoRA file. Imports ``engine``, ``plan``, ``files`` and ``tags``; no host."""
