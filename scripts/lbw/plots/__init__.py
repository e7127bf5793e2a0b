"""Plots: many images of one request that differ in what their tags say, and what is made of them."""
