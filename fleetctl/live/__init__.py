"""The live view, `fleetctl top`.

What it shows is decided by pure modules: `rows` (units and machines as rows), `pane` (filter, order, groups, cursor),
`changes` (what has happened between two reads), `state` (all of these together), `detail` (one unit in full). `feed`
reads the API in threads. `row_list` and `app` draw, and alone import Textual.
"""
