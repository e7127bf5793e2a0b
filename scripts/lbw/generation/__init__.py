"""One generation, from its tags to the weights of each step, and what it tells. Imports ``request``, ``engine`` and
what is below them."""
