"""What a network's file says of itself: its head, and what it was made for. Imports ``tags``; no torch, no host."""
