"""A cluster as a file: what `export` prints, and what `import` and `simulate` read.

`file` is the format, `gather` reads a cluster through its API, `compare` says what an import would change, and
`carry_out` does that.
"""
