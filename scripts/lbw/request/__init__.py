"""What a request says, and how it is answered: arguments, checks, infotext, routes. Imports ``pictures`` and what
is below it."""
