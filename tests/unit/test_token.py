"""model/token: printed and parsed, and refused where the store's history does not have it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.token import InvalidToken, OutdatedToken, parse_token, token_at


@given(st.text(), st.integers(0, 2**63 - 1))
def test_a_printed_token_is_parsed_as_it_was(epoch: str, revision: int) -> None:
    token = token_at(epoch, revision)
    assert parse_token(str(token)) == token


@given(st.text())
def test_a_token_of_any_epoch_is_fit_for_a_url_and_a_header(epoch: str) -> None:
    assert set(str(token_at(epoch, 7))) <= set("0123456789abcdef.")


@pytest.mark.parametrize(
    "text", ["", "0", "7", "ab.7", "0123456789abcdef", "0123456789abcdef.", "0123456789abcdef.-1", "0123456789ABCDEF.1"]
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidToken, match="is no token: take one from"):
        parse_token(text)


def test_a_revision_that_no_store_has_is_refused() -> None:
    with pytest.raises(InvalidToken):
        parse_token(f"0123456789abcdef.{2**63}")


def test_a_token_of_the_past_and_of_now_is_accepted() -> None:
    now = token_at("c", 9)
    token_at("c", 0).check(now)
    now.check(now)


def test_a_token_of_another_epoch_is_outdated() -> None:
    with pytest.raises(OutdatedToken, match="was restored or replaced since token"):
        token_at("c", 3).check(token_at("c/m-9-3-0", 9))


def test_a_token_ahead_of_the_store_is_outdated() -> None:
    with pytest.raises(OutdatedToken, match="is ahead of the store"):
        token_at("c", 10).check(token_at("c", 9))


def test_tokens_of_one_epoch_are_in_the_order_of_revisions() -> None:
    assert token_at("c", 9) < token_at("c", 10)
