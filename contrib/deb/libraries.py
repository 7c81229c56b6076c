"""Run with the package's Python: print its libraries, each with its version and licence, as the end of the copyright
file."""

from importlib.metadata import Distribution, distributions


def licence(library: Distribution) -> str:
    """Its licence as it names it itself: an expression, a word, or what its classifier says."""
    metadata = library.metadata
    for field in ("License-Expression", "License"):
        if field in metadata and "\n" not in metadata[field]:
            return metadata[field]
    classified = [value for value in metadata.get_all("Classifier") or () if value.startswith("License ::")]
    return classified[0].rpartition(" :: ")[2] if classified else "see its licence file"


if __name__ == "__main__":
    for library in sorted(distributions(), key=lambda each: each.name.lower()):
        if library.name != "fleet":
            print(f" {library.name} {library.version}: {licence(library)}")
