"""Options of stores: names of other libraries, limits, and what may be shown."""

import pytest
from feedrate.loaders.base.errors import InputError
from feedrate.loaders.remote.options import (
    LIMITS,
    NO_OPTIONS,
    Limits,
    Options,
    adopt,
    options_for,
    public_options,
    remember,
)


def test_names_of_s3fs_and_of_environments_are_those_of_obstore():
    given = {
        "key": "k", "secret": "s", "token": "t", "endpoint_url": "http://h", "anon": True,
        "AWS_REGION": "r", "google_bucket": "b", "azure_storage_account_name": "n", "nothing": None,
    }  # fmt: skip
    assert Options.of(given).store == {
        "access_key_id": "k", "secret_access_key": "s", "session_token": "t",
        "endpoint": "http://h", "skip_signature": True,
        "region": "r", "bucket": "b", "account_name": "n",
    }  # fmt: skip
    assert Options.of({"aws_endpoint_url": "https://h"}).store == {"endpoint": "https://h"}
    assert Options.of(None) == Options.of({}) == NO_OPTIONS


def test_limits_are_sizes_and_numbers():
    options = Options.of(
        {"whole_bytes": "1MiB", "gap_bytes": 0, "retries": 0, "stall_s": 0.5, "key": "k"}
    )
    assert options.limits == Limits(whole_bytes=1 << 20, gap_bytes=0, retries=0, stall_s=0.5)
    assert options.store == {"access_key_id": "k"}
    assert Limits() == LIMITS


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("whole_bytes", "much", "storage option whole_bytes"),
        ("gap_bytes", -1, "storage option gap_bytes"),
        ("split_bytes", 0, "storage option split_bytes"),
        ("stall_s", "1", "storage option stall_s is '1'; give a number of at least 0"),
        ("stall_s", -1, "at least 0"),
        ("retry_s", True, "at least 0"),
        ("retry_s", float("nan"), "at least 0"),
        ("retries", 1.5, "retries is 1.5; give a whole number"),
        (5, 1, "keys are text"),
    ],
)
def test_limits_that_are_none_are_refused(name, value, message):
    with pytest.raises(InputError, match=message):
        Options.of({name: value})


def test_only_what_is_no_secret_is_shown():
    options = Options.of(
        {"key": "HIDDEN", "secret": "HIDDEN", "token": "HIDDEN", "sas_key": "HIDDEN",
         "client_options": {"proxy_url": "http://me:HIDDEN@h"}, "account_key": "HIDDEN",
         "endpoint": "http://h", "region": "r", "retries": 3}
    )  # fmt: skip
    assert options.public() == {"endpoint": "http://h", "region": "r", "retries": 3}
    assert "HIDDEN" not in repr(options)
    assert Options.of(options.public()).public() == options.public()


def test_an_object_has_the_options_of_the_longest_prefix():
    bucket, folder, other = (Options.of({"region": name}) for name in "abc")
    remember("s3://prices", bucket)
    remember("s3://prices/daily", folder)
    remember("s3://other/x", other)
    assert options_for("s3://prices/daily/a/b.parquet") is folder
    assert options_for("s3://prices/daily") is folder
    assert options_for("s3://prices/dailyx/b") is bucket
    assert options_for("s3://prices") is bucket
    assert options_for("s3://prices2/daily/a") is NO_OPTIONS
    assert options_for("s3://other/y") is NO_OPTIONS
    remember("s3://prices/daily", NO_OPTIONS)
    assert options_for("s3://prices/daily/a") is bucket


def test_an_endpoint_with_credentials_is_refused_without_showing_them():
    with pytest.raises(InputError, match="endpoint contains credentials") as caught:
        Options.of({"endpoint_url": "http://me:HIDDEN@host"})
    assert "HIDDEN" not in str(caught.value)


def test_another_process_gets_the_options_without_secrets_where_it_has_none():
    remember("s3://lent/daily", Options.of({"region": "a", "secret_access_key": "HIDDEN"}))
    lent = public_options(["s3://lent/daily/x.parquet", "s3://lent/y.parquet"])
    assert lent == {"s3://lent": {"region": "a"}}
    adopt(lent)
    assert "secret_access_key" in options_for("s3://lent/daily/x.parquet").store
    remember("s3://lent/daily", NO_OPTIONS)
    adopt(lent)
    assert options_for("s3://lent/daily/x.parquet").public() == {"region": "a"}
    remember("s3://lent", NO_OPTIONS)
