"""The man pages: `python -m contrib.man [DIRECTORY]` renders docs/man/*.md with Sphinx, by default into this folder.

The rendered pages are committed, so that to build or install the package takes neither Sphinx nor a network.
"""
