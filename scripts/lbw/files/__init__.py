"""What a network's file says of itself: its head, what it was made for, and what trainers call layers and tensors.

Imports ``tags``; no torch, no host.
"""
