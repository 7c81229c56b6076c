"""`python -m tests.reference [ROW…]`: all statements about CoreOS fleet and promises, and the tests that cover them."""

import sys

from tests.reference.coverage import find_covers
from tests.reference.test_contract import PROMISE_ROWS, ROWS


def main() -> int:
    covers = find_covers()
    for row in (*ROWS, *PROMISE_ROWS):
        if not sys.argv[1:] or row.number in sys.argv[1:]:
            print(f"{row.number}  {row.status}{': ' if row.reason else ''}{row.reason}  {row.statement}")
            print("".join(f"    {test}\n" for test in covers.get(row.number, ())), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
