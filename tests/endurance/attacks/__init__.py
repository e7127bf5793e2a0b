"""What the parts of :mod:`tests.endurance.hostile` send, and what they expect of the program then."""
