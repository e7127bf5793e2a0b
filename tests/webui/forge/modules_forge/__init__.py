"""What the stand-in does as a host of the Forge family, as far as its generations (g1, g2, g3) agree on it.

They differ in how they keep book of the patches that LoRAs are to them: each has a folder beside this package, whose
`forge_books` names its parts. The names of modules and attributes are the hosts', because extensions go by them.
"""
