"""What has come of a request: where it ends is the same in however many pieces it comes, and bounded."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloner.server.intake import MAX_FIELDS, MAX_HEAD_BYTES, Intake

MAX_BODY = 1000
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def post(body: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: a", *fields, b"", b""]) + body


def chunked(*chunks: bytes, trailers: bytes = b"") -> bytes:
    sent = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks if chunk)
    return post(sent + b"0\r\n" + trailers + b"\r\n", b"Transfer-Encoding: chunked")


WHOLE = [
    GET,
    b"\r\n" + GET,
    post(b""),
    post(b"", b"Content-Length: 0"),
    post(b"{}", b"Content-Length: 2"),
    post(b"\r\n\r\n", b"content-length:4"),
    post(b"x" * MAX_BODY, b"Content-Length: %d" % MAX_BODY),
    chunked(),
    chunked(b"{", b"}"),
    chunked(b"0\r\n\r\n", b"\r\n\r\n"),
    chunked(b"x", trailers=b"X: y\r\n"),
    post(b"2;x=y\r\n{}\r\n0\r\n\r\n", b"transfer-encoding: Chunked"),
]
REFUSED = [
    (post(b"", b"Host: b"), "400", "More than one host."),
    (post(b"xx", b"Content-Length: 2", b"content-length: 2"), "400", "More than one content-length."),
    (post(b"", b"Content-Length: 2", b"Transfer-Encoding: chunked"), "400", "Both"),
    (post(b"", b"Content-Length : 2"), "400", "White space"),
    (post(b"", b"X: a", b" b"), "400", "White space"),
    (post(b"", b": a"), "400", "White space"),
    (post(b"", b"X: a\rContent-Length: 2"), "400", "control character"),
    (post(b"", b"X: a\0"), "400", "control character"),
    (post(b"", b"Transfer-Encoding: \x0bchunked"), "400", "control character"),
    (GET.replace(b"/ ", b"/\x0c "), "400", "control character"),
    (post(b"", b"Content-Length: +2"), "400", "Content-Length"),
    (post(b"", b"Content-Length: -1"), "400", "Content-Length"),
    (post(b"", b"Content-Length:"), "400", "Content-Length"),
    (post(b"", b"Content-Length: %d" % (MAX_BODY + 1)), "413", "entity"),
    (post(b"", b"Content-Length: " + b"9" * 5000), "413", "entity"),
    (post(b"", b"Transfer-Encoding: gzip, chunked"), "501", "chunked alone"),
    (post(b"%x\r\n" % (MAX_BODY + 1), b"Transfer-Encoding: chunked"), "413", "entity"),
    (post(b"1\r\nx\r\n" * MAX_BODY, b"Transfer-Encoding: chunked"), "413", "entity"),
    *(
        (post(size + b"\r\n{}\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"), "400", "size of a chunk")
        for size in (b"0x2", b"+2", b"-2", b"0_2", b" 2", b"", b"2 x", b"2;a\nb", b"2;\0")
    ),
    (post(b"1;" + b"x" * 2000, b"Transfer-Encoding: chunked"), "413", "entity"),
    (post(b"0\r\n" + b"X: y\r\n" * 2000, b"Transfer-Encoding: chunked"), "413", "entity"),
    (post(b"", *[b"X: y"] * MAX_FIELDS), "431", "headers"),
    (b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD_BYTES, "431", "headers"),
    (b"GET /" + b"x" * MAX_HEAD_BYTES, "414", "request line"),
    (b"GET /" + b"x" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nHost: a\r\n\r\n", "414", "request line"),
]


def requests_in(stream: bytes, cuts: list[int]) -> list[bytes]:
    """The requests that are taken from a stream that comes in pieces, cut at these places."""
    intake, found = Intake(MAX_BODY), []
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for begin, end in pairwise(places):
        intake.add(stream[begin:end])
        while intake.has_begun and intake.is_ready():
            assert intake.verdict is None
            request, is_whole = intake.take()
            assert is_whole
            found.append(request)
    assert not intake.has_begun
    return found


@given(st.lists(st.sampled_from(WHOLE), max_size=4), st.lists(st.integers(min_value=0), max_size=12))
def test_requests_end_where_they_end_in_however_many_pieces_they_come(requests: list[bytes], cuts: list[int]) -> None:
    assert requests_in(b"".join(requests), cuts) == requests


@pytest.mark.parametrize("request_", WHOLE)
def test_byte_by_byte(request_: bytes) -> None:
    assert requests_in(request_ + GET, list(range(len(request_)))) == [request_, GET]


@pytest.mark.parametrize("request_", WHOLE)
def test_before_its_end_it_is_not_there(request_: bytes) -> None:
    intake = Intake(MAX_BODY)
    for place in range(len(request_)):
        assert not intake.is_ready()
        intake.add(request_[place : place + 1])
    assert intake.is_ready()


@given(st.sampled_from(REFUSED), st.lists(st.integers(min_value=0), max_size=12))
def test_what_is_refused_is_so_in_however_many_pieces_it_comes(case: tuple[bytes, str, str], cuts: list[int]) -> None:
    stream, status, words = case
    intake = Intake(MAX_BODY)
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for begin, end in pairwise(places):
        intake.add(stream[begin:end])
        if intake.is_ready():
            break
    assert intake.is_ready()
    assert intake.verdict is not None
    assert intake.verdict[0].startswith(status)
    assert words in intake.verdict[1]
    assert intake.take()[1] is False


@given(st.binary(max_size=200), st.lists(st.integers(min_value=0), max_size=5))
def test_whatever_comes_is_taken_or_waited_for(noise: bytes, cuts: list[int]) -> None:
    intake, taken = Intake(MAX_BODY), b""
    places = [0, *sorted(cut % (len(noise) + 1) for cut in cuts), len(noise)]
    for begin, end in pairwise(places):
        intake.add(noise[begin:end])
        while intake.has_begun and intake.is_ready():
            taken += intake.take()[0]
    taken += intake.take()[0]
    assert taken == noise


@pytest.mark.parametrize("piece", [1, 7, 500])
@pytest.mark.parametrize("pattern", [b"x", b"x: y\r\n", b"\r", b"1\r\nx\r\n"])
@pytest.mark.parametrize("start", [b"", post(b"", b"Transfer-Encoding: chunked")])
def test_whatever_comes_it_is_ready_before_it_takes_much_memory(start: bytes, pattern: bytes, piece: int) -> None:
    intake, came = Intake(MAX_BODY), 0
    intake.add(start)
    while not intake.is_ready():
        intake.add(pattern * piece)
        came += len(pattern) * piece
        assert came < 2 * MAX_HEAD_BYTES


@pytest.mark.parametrize(
    ("head", "is_due"),
    [
        (post(b"", b"Content-Length: 2", b"Expect: 100-continue"), True),
        (post(b"", b"expect:100-Continue", b"Content-Length: 2"), True),
        (post(b"", b"Expect: 100-continue", b"Transfer-Encoding: chunked"), True),
        (post(b"{}", b"Content-Length: 2", b"Expect: 100-continue"), False),  # it did not wait
        (post(b"", b"Expect: 100-continue"), False),  # there is no body
        (post(b"", b"Content-Length: 9999", b"Expect: 100-continue"), False),  # it is not to come
        (post(b"", b"Content-Length: 2", b"Expect: 100-continue").replace(b"/1.1", b"/1.0"), False),
        (post(b"", b"Content-Length: 2"), False),
    ],
)
def test_who_waits_to_be_told_to_send_a_body_is_told_so_once(head: bytes, is_due: bool) -> None:
    intake = Intake(MAX_BODY)
    intake.add(head)
    intake.is_ready()
    assert [intake.go_ahead_is_due(), intake.go_ahead_is_due()] == [is_due, False]


def test_what_only_looks_like_that_field_stays_with_what_follows_it() -> None:
    intake = Intake(MAX_BODY)
    intake.add(post(b"{}", b"X: Expect: 100-continue", b"Content-Length: 2", b"Expect: 100-continue"))
    assert intake.is_ready()
    assert intake.take() == (post(b"{}", b"X: Expect: 100-continue", b"Content-Length: 2"), True)


def test_nobody_is_told_a_second_time() -> None:
    intake = Intake(MAX_BODY)
    intake.add(post(b"{}", b"Content-Length: 2", b"Expect: 100-continue"))
    assert intake.is_ready()
    assert intake.take() == (post(b"{}", b"Content-Length: 2"), True)
