"""Join tokens: their text, who may use one and when, and what a machine may say of itself."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.certificate import CLOCKS_DIFFER_S
from fleetd.model.join_token import (
    KEPT_S,
    LIFE_S,
    MAX_METADATA,
    SECRET_BYTES,
    Claim,
    JoinToken,
    TokenText,
    hash_text,
    make_secret,
    parse_token,
    refuse_machine_id,
    refuse_newcomer,
    refuse_use,
)

M1, M2 = "1" * 32, "2" * 32
AUTHORITY = "ab" * 32
TEXT = str(TokenText(AUTHORITY, make_secret(bytes(SECRET_BYTES))))
MADE_AT = 1_800_000_000.0
TOKEN = JoinToken(AUTHORITY, MADE_AT, MADE_AT + LIFE_S, "ann", history="h1")
NEW = Claim(M1, "r1", is_known=False)
KNOWN = Claim(M1, "r1", is_known=True)


def refusal(token: JoinToken | None = TOKEN, claim: Claim = NEW, after_s: float = 10.0, ahead_s: float = 0.0) -> str:
    """What is said `after_s` seconds after the token was made, where the wall clock is `ahead_s` ahead."""
    left_s = LIFE_S + KEPT_S - after_s
    return refuse_use(token, claim, left_s=left_s, history="h1", now_s=MADE_AT + after_s + ahead_s)


@given(st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES))
def test_the_text_of_a_token_says_authority_and_secret(random: bytes) -> None:
    token = TokenText(AUTHORITY, make_secret(random))
    assert parse_token(str(token)) == token


@given(st.text() | st.text("fleet1-ab234567", max_size=120) | st.integers(0, 102).map(lambda end: TEXT[:end]))
def test_whatever_else_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=r"token") as refused:
        parse_token(text)
    assert len(text) < 16 or text not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "this is no join token, which begins with fleet1-: fleetctl machine token makes one"),
        ("10.0.0.1", "this is no join token, which begins with fleet1-: fleetctl machine token makes one"),
        (TEXT[:-1], "the token is cut short: it has 103 of 104 characters"),
        (TEXT + ".", "the token is followed by something else: it has 104 characters, and this 105"),
        (TEXT[:-1] + "0", "a character of the token is wrong: copy it again"),
        (TEXT.replace("fleet1", "fleet2"), "the token is of a later version of fleet: update fleetd on this machine"),
    ],
)
def test_a_text_that_is_no_token_is_refused_in_words(text: str, why: str) -> None:
    with pytest.raises(ValueError, match="token") as refused:
        parse_token(text)
    assert str(refused.value) == why


def test_a_secret_is_known_by_its_hash() -> None:
    assert hash_text("a") == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"


@pytest.mark.parametrize("claim", [NEW, Claim(M2, "r2", is_known=False)])
def test_any_machine_that_is_not_known_may_use_a_token(claim: Claim) -> None:
    assert refusal(claim=claim) == ""


@pytest.mark.parametrize("claim", [NEW, KNOWN])
def test_a_machine_may_use_a_token_that_is_bound_to_it_also_if_it_is_known(claim: Claim) -> None:
    assert refusal(msgspec.structs.replace(TOKEN, machine=M1), claim) == ""


@pytest.mark.parametrize(
    ("token", "claim", "words"),
    [
        (None, NEW, "there is no such token"),
        (msgspec.structs.replace(TOKEN, used_by=M2, request="r2"), NEW, f"machine {M2} has used this token"),
        (msgspec.structs.replace(TOKEN, used_by=M1, request="r2"), KNOWN, f"machine {M1} has used this token"),
        (msgspec.structs.replace(TOKEN, history="h0"), NEW, "the store was restored since the token was made"),
        (msgspec.structs.replace(TOKEN, machine=M2), NEW, f"the token is for machine {M2} alone, and this is {M1}"),
        (TOKEN, KNOWN, f"the cluster knows a machine {M1} already"),
    ],
)
def test_a_token_is_refused_in_words(token: JoinToken | None, claim: Claim, words: str) -> None:
    said = refusal(token, claim)
    assert said.startswith(words)
    assert "fleetctl machine token" in said


def test_the_same_request_may_come_again_if_its_answer_was_lost() -> None:
    used = msgspec.structs.replace(TOKEN, used_by=M1, request="r1")
    assert refusal(used, KNOWN) == ""
    assert refusal(used, KNOWN, after_s=LIFE_S).startswith(f"machine {M1} has used this token")


def test_a_machine_that_was_removed_does_not_come_back_with_its_token() -> None:
    used = msgspec.structs.replace(TOKEN, used_by=M1, request="r1")
    assert refusal(used, NEW).startswith(f"machine {M1} has used this token")


@pytest.mark.parametrize("ahead_s", [0.0, CLOCKS_DIFFER_S, -CLOCKS_DIFFER_S])
def test_a_token_can_be_used_for_an_hour_also_at_a_server_whose_clock_is_an_hour_off(ahead_s: float) -> None:
    assert refusal(after_s=LIFE_S - 1, ahead_s=ahead_s) == ""
    assert refusal(after_s=LIFE_S, ahead_s=ahead_s).startswith("the token has expired: it could be used for an hour")


def test_the_wall_clock_bounds_it_where_leases_have_begun_anew() -> None:
    def said(now_s: float) -> str:
        return refuse_use(TOKEN, NEW, left_s=LIFE_S + KEPT_S, history="h1", now_s=now_s)

    assert said(TOKEN.expires_at_s + CLOCKS_DIFFER_S) == ""
    assert said(TOKEN.expires_at_s + CLOCKS_DIFFER_S + 1).startswith("the token has expired")


@pytest.mark.parametrize("text", ["", "m1", "A" * 32, "1" * 31, "1" * 33, f"{M1}\n", "../" + "1" * 29])
def test_what_is_no_machine_id_is_refused(text: str) -> None:
    assert refuse_machine_id(text) == f"{text!r} is no machine id, which has 32 hexadecimal digits"
    assert refuse_machine_id(M1) == ""


@pytest.mark.parametrize(
    ("address", "metadata", "words"),
    [
        ("", {}, ""),
        ("10.0.0.7", {"role": "db"}, ""),
        ("$(reboot)", {}, "'$(reboot)' is neither an IP address nor a host name"),
        ("", {str(n): "" for n in range(MAX_METADATA + 1)}, "the machine has 65 entries of metadata"),
        ("", {"a": "x" * 9000}, "the machine has 1 entries of metadata with 9001 characters"),
    ],
)
def test_what_a_machine_may_say_of_itself_is_bounded(address: str, metadata: dict[str, str], words: str) -> None:
    said = refuse_newcomer(address, metadata)
    assert said.startswith(words)
    assert bool(said) == bool(words)
