"""What a reply that is no success is read as."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_hfembed.http.failures import read_failure

PLAIN_KINDS = {
    400: "invalid",
    401: "authentication",
    403: "authentication",
    404: "not_found",
    408: "unavailable",
    413: "too_large",
    422: "invalid",
    424: "failed",
    429: "rate_limit",
    500: "unavailable",
    502: "cold_start",
    503: "cold_start",
    504: "unavailable",
}
KINDS_BY_TYPE = {
    "Validation": "invalid",
    "Tokenizer": "invalid",
    "Empty": "invalid",
    "Overloaded": "rate_limit",
    "Unhealthy": "unavailable",
    "Backend": "failed",
}


def read(status=500, document=None, *, headers=None, body=None):
    body = json.dumps(document).encode() if body is None else body
    return read_failure(status, headers or {}, body)


def wait_for(value, status=429):
    return read(status, {}, headers={"retry-after": value}).wait


@pytest.mark.parametrize(("status", "kind"), PLAIN_KINDS.items())
@pytest.mark.parametrize("body", [b"", b"{}", b"no", b"<p>no</p>"], ids=repr)
def test_without_a_type_the_status_decides(status, kind, body):
    failure = read(status, body=body)
    assert (failure.kind, failure.status) == (kind, status)


@pytest.mark.parametrize("status", [301, 307, 402, 405, 409, 410, 415, 418, 501, 505, 599])
def test_a_status_that_the_table_lacks_will_fail_again(status):
    assert read(status, {}).kind == "failed"


@pytest.mark.parametrize("field", ["error_type", "type"])
@pytest.mark.parametrize(("error_type", "kind"), KINDS_BY_TYPE.items())
@pytest.mark.parametrize("status", [*PLAIN_KINDS, 418])
def test_a_known_type_wins_over_every_status(status, error_type, kind, field):
    assert read(status, {"error": "no", field: error_type}).kind == kind


@pytest.mark.parametrize("error_type", ["", "validation", "Other", None, 3, True, ["Empty"], {}])
@pytest.mark.parametrize(("status", "kind"), [(429, "rate_limit"), (413, "too_large")])
def test_an_unknown_type_leaves_it_to_the_status(status, kind, error_type):
    assert read(status, {"error": "no", "error_type": error_type}).kind == kind


def test_a_413_of_tei_1_8_is_about_a_text_and_not_about_the_body():
    said = "Input validation error: `inputs` must have less than 512 tokens. Given: 600"
    failure = read(413, {"error": said, "error_type": "Validation"})
    assert (failure.kind, failure.message) == ("invalid", said)
    assert not failure.blames_request


def test_a_413_in_plain_text_is_about_the_body():
    failure = read(413, body=b"Failed to buffer the request body: length limit exceeded")
    assert failure.kind == "too_large"
    assert failure.message == "Failed to buffer the request body: length limit exceeded"


def test_a_page_of_html_is_read_as_its_text():
    page = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\n<body>\n<h1>nginx</h1></body>"
    failure = read(502, body=page)
    assert (failure.kind, failure.message) == ("cold_start", "502 Bad Gateway nginx")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"error": "no", "error_type": "Backend"}, "no"),
        ({"message": "no", "type": "Backend"}, "no"),
        ({"error": {"message": "no", "type": "invalid_request_error", "code": 3}}, "no"),
        ({"error": ["no", "nor that"]}, "['no', 'nor that']"),
        # Nothing to pick out: the body as it is.
        ({"error": {"message": None}}, '{"error": {"message": null}}'),
        ({"error": ""}, '{"error": ""}'),
        ({"detail": "Not Found"}, '{"detail": "Not Found"}'),
        (["no"], '["no"]'),
        (None, "null"),
    ],
)
def test_the_message_is_what_the_server_says(document, message):
    assert read(500, document).message == message


def test_a_long_message_is_cut_and_the_batch_limit_behind_the_cut_is_still_read():
    failure = read(422, {"error": "x" * 5000 + " > maximum allowed batch size 8"})
    assert failure.message == "x" * 500
    assert failure.batch_limit == 8


@pytest.mark.parametrize("status", [500, 503, 404])
@pytest.mark.parametrize("nested", [True, False])
def test_a_model_that_is_currently_loading_starts_whatever_the_status(status, nested):
    said = "Model BAAI/bge-m3 is currently loading"
    failure = read(status, {"error": {"message": said} if nested else said, "estimated_time": 20.0})
    assert failure.kind == "cold_start"


@given(st.integers(100, 599), st.binary(max_size=200))
def test_any_body_can_be_read(status, body):
    failure = read(status, body=body)
    assert failure.kind in {*PLAIN_KINDS.values()}


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
json_values = (
    scalars
    | st.lists(scalars, max_size=2)
    | st.fixed_dictionaries({}, optional={"message": scalars, "type": scalars})
)


@given(
    st.sampled_from([*PLAIN_KINDS, 418]),
    st.dictionaries(st.sampled_from(["error", "message", "type", "error_type"]), json_values),
)
def test_whatever_the_fields_hold_they_can_be_read(status, document):
    failure = read(status, document)
    assert isinstance(failure.message, str)
    assert failure.kind in {*PLAIN_KINDS.values()}


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"error":' * 200_000], ids=["list", "object"])
def test_a_body_that_is_nested_too_deeply_is_text(body):
    failure = read(500, body=body)
    assert failure.kind == "unavailable"
    assert len(failure.message) == 500


# Waits.


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), ("7", 7), (" 7 ", 7), ("1.5", 1.5), ("120", 120), ("86400", 86400)],
)
def test_retry_after_in_seconds_is_the_wait(value, seconds):
    assert wait_for(value) == seconds


@pytest.mark.parametrize("value", ["-1", "-0.5", "-1e9"])
def test_a_negative_retry_after_is_no_wait(value):
    assert wait_for(value) == 0


@pytest.mark.parametrize(
    "value",
    ["", " ", "nan", "NaN", "inf", "-inf", "1e400", "soon", "7 s", "7, 8", "Wed", "99 Foo 2026"],
)
def test_a_retry_after_that_says_nothing_leaves_the_wait_to_us(value):
    assert wait_for(value) is None


@pytest.mark.parametrize("seconds", [1, 55, 3600])
@pytest.mark.parametrize("zone", [timezone.utc, timezone(timedelta(hours=9))])
def test_retry_after_as_a_date_is_the_time_until_then(seconds, zone):
    moment = (datetime.now(timezone.utc) + timedelta(seconds=seconds)).astimezone(zone)
    assert wait_for(format_datetime(moment)) == pytest.approx(seconds, abs=1.5)


def test_retry_after_as_an_http_date_is_in_gmt():
    moment = datetime.now(timezone.utc) + timedelta(seconds=90)
    assert wait_for(format_datetime(moment, usegmt=True)) == pytest.approx(90, abs=1.5)


def test_retry_after_with_the_zone_that_is_unknown_is_in_utc():
    moment = (datetime.now(timezone.utc) + timedelta(seconds=90)).replace(tzinfo=None)
    written = format_datetime(moment)
    assert written.endswith("-0000")
    assert wait_for(written) == pytest.approx(90, abs=1.5)


@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0900"])
def test_a_date_that_has_passed_is_no_wait(zone):
    assert wait_for(f"Wed, 21 Oct 2015 07:28:00 {zone}") == 0


@pytest.mark.parametrize(
    "value",
    [
        "Wed, 21 Oct 99999 07:28:00 GMT",
        "Wed, 32 Oct 2026 07:28:00 GMT",
        "Wed, 21 Oct 2026 25:28:00 GMT",
        "Wed, 21 Oct 2026 07:28:00 +9999",
        "Wed, 21 Oct 2026 07:28:00 +99999999999999",
        "Wed, 21 Oct 99999999999999999999 07:28:00 GMT",
    ],
)
def test_a_date_that_does_not_exist_leaves_the_wait_to_us(value):
    assert wait_for(value) is None


@given(st.text(st.characters(max_codepoint=0x7E, min_codepoint=0x20), max_size=40))
def test_any_retry_after_gives_a_wait_that_can_be_waited_or_none(value):
    seconds = wait_for(value)
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


@pytest.mark.parametrize("retry_after", [{}, {"retry-after": ""}, {"retry-after": "soon"}])
def test_the_hubs_rate_limit_header_is_the_wait_where_retry_after_says_nothing(retry_after):
    headers = {"ratelimit": '"api";r=0;t=55', **retry_after}
    assert read(429, {}, headers=headers).wait == 55


def test_retry_after_wins_over_the_hubs_rate_limit_header():
    headers = {"ratelimit": '"api";r=0;t=55', "retry-after": "3"}
    assert read(429, {}, headers=headers).wait == 3


@pytest.mark.parametrize("header", ["", '"api";r=0', '"api";r=0;t=', '"api";r=0;t=x', "reset=55"])
def test_a_rate_limit_header_without_a_time_leaves_the_wait_to_us(header):
    assert read(429, {}, headers={"ratelimit": header}).wait is None


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_failure_with_requests_left_does_not_wait_for_the_rate_limits_window(status):
    """The Hub sends the header with every reply; t is when the window ends, not a wait."""
    assert read(status, {}, headers={"ratelimit": '"api";r=480;t=280'}).wait is None


# The batch, a text, or the request.


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ("batch size 33 > maximum allowed batch size 32", 32),
        ("Input validation error: batch size 9 > Maximum allowed batch size 8", 8),
        ("maximum allowed batch size 1", 1),
        ("maximum allowed batch size unknown", None),
        ("batch size 33 is too large", None),
        ("`inputs` must have less than 512 tokens. Given: 600", None),
    ],
)
def test_the_batch_limit_is_read_where_it_is_told(message, limit):
    assert read(422, {"error": message, "error_type": "Validation"}).batch_limit == limit


def test_a_batch_limit_of_any_length_can_be_read():
    failure = read(422, {"error": f"maximum allowed batch size {'9' * 5000}"})
    assert failure.kind == "invalid"


@pytest.mark.parametrize(
    "message",
    [
        "`default-prompt-name` is set to `x` but it was not found in the Sentence Transformers"
        " prompts",
        "prompt_name `x` was not found",
        "`prompt name` is not one of query, passage",
        "`dimensions` must be between 1 and 384",
        "unknown `truncation_direction`",
        "Failed to deserialize the JSON body into the target type: normalize: invalid type",
    ],
)
@pytest.mark.parametrize(("status", "error_type"), [(422, "Validation"), (413, "Validation")])
def test_what_is_said_about_options_blames_the_request(message, status, error_type):
    assert read(status, {"error": message, "error_type": error_type}).blames_request


def test_a_plain_text_about_the_json_blames_the_request():
    body = b"Failed to deserialize the JSON body into the target type: inputs: data did not match"
    assert read(422, body=body).blames_request


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 8192 tokens, however you requested 9000 tokens. "
        "Please reduce your prompt; or completion length.",
        "`inputs` must have less than 512 tokens. Given: 600",
        "`inputs` cannot be empty",
        "batch size 33 > maximum allowed batch size 32",
        "Tokenization error: Encoding error",
        "",
    ],
)
def test_what_is_said_about_texts_does_not_blame_the_request(message):
    assert not read(422, {"error": {"message": message}}).blames_request
    assert not read(413, {"error": message, "error_type": "Validation"}).blames_request


@pytest.mark.parametrize("status", [401, 404, 424, 429, 500, 503])
def test_only_an_invalid_request_is_to_blame(status):
    assert not read(status, {"error": "prompt_name `x` was not found"}).blames_request
