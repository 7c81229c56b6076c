"""`python -m contrib.fuzz NAME --seconds N`: feed bytes to one target of targets.py, led by what code they reach.

Needs the package's extra `fuzz` (atheris, which is libFuzzer for Python). Begins with the corpus that is kept in
corpus/NAME and with what earlier runs found in build/fuzz/NAME. Ends with 0 when the time is up; a crasher ends it at
once, and is left in build/fuzz/crashers: once mended, it belongs into corpus/NAME, where the tests try it ever after.
"""

import argparse
import sys
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
BUILD = Path("build/fuzz")
MAX_BYTES = 4096
SLOW_S = 5  # a single input that takes longer is a crasher too


def main() -> None:
    try:
        import atheris
    except ImportError:
        sys.exit("contrib.fuzz needs atheris: pip install '.[fuzz]'")
    atheris.enabled_hooks.add("str")
    with atheris.instrument_imports(include=["fleetd"]):
        from contrib.fuzz.targets import TARGETS
    parser = argparse.ArgumentParser(prog="python -m contrib.fuzz", description="Fuzz what reads bytes from outside.")
    parser.add_argument("target", choices=list(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="how long (default: 60)")
    arguments = parser.parse_args()
    found, crashers = BUILD / arguments.target, BUILD / "crashers"
    for folder in (found, crashers):
        folder.mkdir(parents=True, exist_ok=True)
    options = {
        "max_total_time": arguments.seconds,
        "max_len": MAX_BYTES,
        "timeout": SLOW_S,
        "artifact_prefix": f"{crashers}/{arguments.target}-",
        "print_final_stats": 1,
    }
    folders = [str(found), str(CORPUS / arguments.target)]
    flags = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *flags, *folders], TARGETS[arguments.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
