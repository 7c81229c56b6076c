"""The man pages, rendered from what the programs know of themselves: help texts, options, fields.

What only a page says, prose that no program prints, stands here in the module of its page. `python -m contrib.man
DIRECTORY` writes them all; hatch_build.py does so for the package.
"""
