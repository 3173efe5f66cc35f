"""What went wrong with a request, from what obstore says about it."""

import pickle

import pytest
from feedrate.loaders.remote.faults import Fault, fault_of

URL = "http://127.0.0.1:38741/bucket/a/b?X-Amz-Signature=HIDDEN&AWSAccessKeyId=HIDDEN"
ANSWER = (
    "{what}: Error performing GET {url} in 1.1ms - Server returned non-2xx status code: {status}: "
    '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>HIDDEN</Message>'
    "<AWSAccessKeyId>HIDDEN</AWSAccessKeyId><RequestId>HIDDEN</RequestId></Error>\n\n"
    'Debug source:\nGeneric {{\n    store: "S3",\n    source: RetryError(\n        '
    "RetryErrorImpl {{\n            retry_timeout: 180s,\n            inner: Status {{\n"
    "                status: 503,"
)
NO_ANSWER = (
    "Generic S3 error: Error performing GET {url} in 1.0s - HTTP error: error sending request\n\n"
    "Debug source:\nGeneric {{\n    source: RetryError(\n        RetryErrorImpl {{\n"
    "            retry_timeout: 180s,\n            inner: Http(\n                HttpError {{\n"
    "                    kind: {kind},\n                    source: reqwest::Error {{\n"
    "                        source: {source},"
)
IN_BODY = (
    "Generic S3 error: HTTP error: request or response body error\n\nDebug source:\nGeneric {{\n"
    "    source: HttpError {{\n        kind: {kind},\n        source: {source},"
)


def error(name, text):
    """An error as obstore raises it: each kind has a type of its own."""
    return type(name, (Exception,), {})(text)


ANSWERS = [
    ("GenericError", "429 Too Many Requests", "TooManyRequests", "throttled"),
    ("GenericError", "503 Slow Down", "SlowDown", "throttled"),
    ("GenericError", "503 Service Unavailable", "ServiceUnavailable", "throttled"),
    ("GenericError", "400 Bad Request", "RequestLimitExceeded", "throttled"),
    ("GenericError", "500 Internal Server Error", "InternalError", "server"),
    ("GenericError", "502 Bad Gateway", "BadGateway", "server"),
    ("GenericError", "504 Gateway Timeout", "GatewayTimeout", "server"),
    ("GenericError", "400 Bad Request", "RequestTimeout", "server"),
    ("GenericError", "400 Bad Request", "ExpiredToken", "expired"),
    ("PermissionDeniedError", "403 Forbidden", "ExpiredToken", "expired"),
    ("PermissionDeniedError", "403 Forbidden", "AccessDenied", "denied"),
    ("PermissionDeniedError", "403 Forbidden", "SignatureDoesNotMatch", "denied"),
    ("UnauthenticatedError", "401 Unauthorized", "InvalidAccessKeyId", "denied"),
    ("FileNotFoundError", "404 Not Found", "NoSuchKey", "missing"),
    ("FileNotFoundError", "404 Not Found", "NoSuchBucket", "missing"),
    ("PreconditionError", "412 Precondition Failed", "PreconditionFailed", "changed"),
    ("GenericError", "416 Range Not Satisfiable", "InvalidRange", "other"),
    ("GenericError", "400 Bad Request", "InvalidRequest", "other"),
    ("GenericError", "501 Not Implemented", "NotImplemented", "other"),
]


@pytest.mark.parametrize(("name", "status", "code", "kind"), ANSWERS)
def test_an_answer_is_classified_by_its_code_and_status(name, status, code, kind):
    text = ANSWER.format(what="Generic S3 error", url=URL, status=status, code=code)
    fault = fault_of(error(name, text))
    assert (fault.kind, fault.code) == (kind, code)
    assert "HIDDEN" not in fault.reason
    assert "127.0.0.1" not in fault.reason
    if kind not in {"missing", "changed"}:
        assert f"({status[:3]} {code})" in fault.reason
    assert str(fault) == fault.reason


@pytest.mark.parametrize(
    ("text", "kind", "source", "reason"),
    [
        (NO_ANSWER, "Timeout", "TimedOut", "no answer in time"),
        (NO_ANSWER, "Interrupted", "Io(ConnectionReset)", "no connection"),
        (NO_ANSWER, "Connect", '"tcp connect error", ConnectionRefused', "no connection"),
        (NO_ANSWER, "Connect", '"dns error"', "no connection"),
        (IN_BODY, "Timeout", "TimedOut", "no answer in time"),
        (IN_BODY, "Interrupted", "Body, ConnectionReset", "ended in the middle of an answer"),
        (IN_BODY, "Interrupted", "UnexpectedEof IncompleteBody", "ended in the middle of an"),
    ],
)
def test_a_request_without_an_answer_says_how_the_network_failed(text, kind, source, reason):
    fault = fault_of(error("GenericError", text.format(url=URL, kind=kind, source=source)))
    assert fault.kind == "network"
    assert reason in fault.reason
    assert "HIDDEN" not in fault.reason


@pytest.mark.parametrize(
    ("raised", "kind", "reason"),
    [
        (FileNotFoundError("HIDDEN"), "missing", "it does not exist"),
        (PermissionError("HIDDEN"), "denied", "access is denied (PermissionError)"),
        (TimeoutError("HIDDEN timed out"), "network", "no answer in time"),
        (ConnectionError("incomplete body"), "network", "ended in the middle of an answer"),
        (ConnectionError("HIDDEN"), "network", "no connection"),
        (error("InvalidPathError", "HIDDEN//x"), "other", "has an empty part (//)"),
        (error("UnknownConfigurationKeyError", "HIDDEN"), "other", "refuses the request (Unkn"),
        (ValueError("HIDDEN"), "other", "refuses the request (ValueError)"),
        (error("GenericError", "<Code>not a code HIDDEN</Code>"), "other", "(GenericError)"),
    ],
)
def test_other_errors_are_classified_by_their_type(raised, kind, reason):
    fault = fault_of(raised)
    assert fault.kind == kind
    assert reason in fault.reason
    assert "HIDDEN" not in fault.reason + fault.code


def test_a_pickled_fault_is_the_same():
    fault = Fault("missing", "it does not exist", "NoSuchKey")
    copy = pickle.loads(pickle.dumps(fault))  # noqa: S301 - it is our own
    assert (copy.kind, copy.reason, copy.code) == ("missing", "it does not exist", "NoSuchKey")
