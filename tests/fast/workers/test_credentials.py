"""What is secret in addresses and in the environment, and texts without it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from erasure_sweep.workers import credentials
from erasure_sweep.workers.credentials import has_secret, masked, masked_values, note
from erasure_sweep.workers.errors import UsageError

SECRET = "Hunter2Xyzzy"

FORMS = {
    "user and password": f"postgresql://me:{SECRET}@host:5432/runs",
    "an address as the user": f"http://me@corp.org:{SECRET}@host",
    "the same, coded": f"http://me%40corp.org:{SECRET}@host:5000/base",
    "no user": f"redis://:{SECRET}@host",
    "a token for a user": f"https://{SECRET}@host",
    "a driver": f"postgresql+psycopg://me:{SECRET}@host/runs",
    "upper case": f"POSTGRESQL://me:{SECRET}@host/runs",
    "an IPv6 host": f"https://me:{SECRET}@[::1]:5000",
    "a slash": f"postgresql://me:{SECRET}/x@host/runs",
    "a number and a slash": f"postgresql://me:1234/{SECRET}@host/runs",
    "an at sign": f"postgresql://me:x@{SECRET}@host/runs",
    "a colon": f"mysql://me:x:{SECRET}@host/runs",
    "a question mark": f"mysql://me:x?{SECRET}@host/runs",
    "a hash": f"mysql+pymysql://me:x#{SECRET}@host/runs",
    "beside a query with an at sign": f"mysql://me:{SECRET}@host/runs?ssl_ca=/a@b",
    "query: password": f"postgresql://host/runs?user=me&password={SECRET}",
    "query: other case": f"postgresql://host/runs?PassWord={SECRET}&x=1",
    "query: coded name": f"postgresql://host/runs?pass%77ord={SECRET}",
    "query: passwd": f"mysql://host/runs?passwd={SECRET}",
    "query: sslpassword": f"postgresql://host/runs?sslpassword={SECRET}",
    "query: token": f"https://host/?token={SECRET}",
    "query: access_token": f"https://host/?x=1&access_token={SECRET}",
    "query: key": f"https://host/?key={SECRET}",
    "query: api-key": f"https://host/?api-key={SECRET}",
    "query: secret": f"https://host/?client_secret={SECRET}",
    "query: aws": f"s3://bucket/prefix?aws_secret_access_key={SECRET}",
    "query: signed": f"https://bucket.s3.amazonaws.com/x?X-Amz-Expires=9&X-Amz-Signature={SECRET}",
    "query: session": f"https://bucket.s3.amazonaws.com/x?X-Amz-Security-Token={SECRET}",
    "query: SAS": f"https://me.blob.core.windows.net/c?sv=2024&sig={SECRET}&se=2030",
    "SAS of a folder": f"wasbs://container@me.blob.core.windows.net/x?sig={SECRET}",
    "S3 keys": f"s3://AKIAIOSFODNN7EXAMPLE:{SECRET}@bucket/prefix",
    "FTP": f"ftp://me:{SECRET}@host/x",
    "fragment": f"https://host/#access_token={SECRET}",
    "JDBC": f"sqlserver://host:1433;user=me;password={SECRET}",
    "ODBC": f"mssql+pyodbc:///?odbc_connect=DRIVER%3D%7BODBC+18%7D%3BSERVER%3Dhost%3BUID%3Dme%3BPWD%3D{SECRET}",
    "ODBC in braces": f"mssql+pyodbc:///?odbc_connect=Server%3Dhost%3BPwd%3D%7Bx%3B{SECRET}%7D%3BEncrypt%3Dyes",
    "ODBC, not coded": f"mssql+pyodbc:///?odbc_connect=SERVER=host;PWD={SECRET};UID=me",
}


@pytest.fixture(autouse=True)
def _nothing_noted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What other tests noted and the environment holds is not known here."""
    monkeypatch.setattr(credentials, "_noted", set())
    credentials._of_variables.cache_clear()
    yield
    credentials._of_variables.cache_clear()


@pytest.mark.parametrize("address", FORMS.values(), ids=FORMS.keys())
class TestFormsOfAddresses:
    def test_the_secret_is_hidden_and_the_rest_is_shown(self, address: str):
        shown = masked(address)
        assert SECRET not in shown and "***" in shown and has_secret(address)
        assert shown.partition("://")[0] == address.partition("://")[0]
        assert any(place in shown for place in ("host", "bucket", "me.blob", "[::1]", "odbc_connect"))

    def test_so_is_it_in_a_line_that_holds_the_address(self, address: str):
        line = masked(f"MLflow at {address} failed: no route")
        assert SECRET not in line and line.startswith("MLflow at ") and line.endswith(" failed: no route")

    def test_and_by_its_value_wherever_it_turns_up(self, address: str):
        if address not in (
            FORMS["a token for a user"],
            FORMS["a colon"],
            FORMS["ODBC in braces"],
        ):  # there it is a part
            note(address)
            assert masked(f"login of me failed ({SECRET})") == "login of me failed (***)"
            assert masked(f"?pwd={SECRET}x") == "?pwd=***x"  # no word holds it by chance


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:5000",
        "http://host:5000/a@b",
        "http://[::1]:5000/#/experiments/4",
        "https://host/#/experiments/1/runs?viewStateShareKey=erasure&workflowType=machine_learning",
        "sqlite:///mlflow.db",
        "sqlite:////home/me:x/a@b/mlflow.db?timeout=3",
        "postgresql://me@host:5432/runs",
        "s3://bucket/me@home",
        "wasbs://container@me.blob.core.windows.net/x",
        "databricks://profile",
        "file:///data/keys/x",
        "ray://10.0.0.1:10001",
    ],
)
def test_an_address_without_a_secret_is_shown_as_it_is(address: str):
    note(address)
    assert masked(address) == address and not has_secret(address)


class TestValues:
    def test_coded_and_decoded(self):
        note("postgresql://me:p%40ss%2Fword%21@host/runs")
        for form in ("p%40ss%2Fword%21", "p@ss/word!"):
            assert masked(f"said {form} twice") == "said *** twice"
        assert masked(json.dumps({"reason": "p@ss/word!"})) == '{"reason": "***"}'

    def test_one_with_a_blank(self):
        note("postgresql://me:pass word@host/runs")
        assert masked("no postgresql://me:pass word@host/runs") == "no postgresql://me:***@host/runs"

    def test_what_a_parser_takes_for_the_host(self):
        note(f"postgresql://me:x@{SECRET}@host/runs")
        assert masked(f"could not translate host name {SECRET}@host") == "could not translate host name ***@host"

    def test_what_stands_in_the_address_openly_is_no_secret(self):
        note("postgresql://mlflow:mlflow@db/mlflow")
        assert masked("postgresql://mlflow:mlflow@db/mlflow, sqlite:///mlflow.db") == (
            "postgresql://mlflow:***@db/mlflow, sqlite:///mlflow.db"
        )

    def test_no_part_of_a_longer_word(self):
        note("postgresql://me:overture@db/runs")
        assert masked("overtures overture overture_2 overture-2") == "overtures *** ***_2 ***-2"

    def test_a_short_one_is_hidden_in_its_address_alone(self):
        note("postgresql://root:root@db/runs")
        assert masked("/root/runs of postgresql://root:root@db/runs") == "/root/runs of postgresql://root:***@db/runs"

    def test_long_lines_take_no_time(self):
        line = "x" * 2_000_000
        assert masked(line) == line

    def test_short_ones_in_their_address_only(self):
        note("http://me:abc@host")
        assert masked("abc of http://me:abc@host") == "abc of http://me:***@host"

    def test_inside_of_what_is_kept_as_json(self):
        note(f"http://me:{SECRET}@host")
        assert masked_values({"a": [SECRET, 1, None], "b": {"c": f"x {SECRET}"}}) == {
            "a": ["***", 1, None],
            "b": {"c": "x ***"},
        }

    def test_every_error_of_ours_is_masked(self):
        note(f"http://me:{SECRET}@host")
        assert str(UsageError(f"no {SECRET} at ftp://you:other-word@host")) == "no *** at ftp://you:***@host"


class TestEnvironment:
    @pytest.mark.parametrize(
        "name",
        [
            *(
                "MLFLOW_TRACKING_PASSWORD",
                "MLFLOW_TRACKING_TOKEN",
                "HF_TOKEN",
                "HUGGING_FACE_HUB_TOKEN",
                "RAY_AUTH_TOKEN",
            ),
            *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PGPASSWORD", "MYSQL_PWD", "AZURE_STORAGE_ACCESS_KEY"),
            *("DATABRICKS_TOKEN", "WANDB_API_KEY", "MY_SECRET", "GOOGLE_API_KEY"),
        ],
    )
    def test_secret_by_name(self, monkeypatch: pytest.MonkeyPatch, name: str):
        monkeypatch.setenv(name, SECRET)
        assert masked(f"401 for {SECRET}") == "401 for ***"

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@host"),
            ("HTTPS_PROXY", f"http://me:{SECRET}@proxy:3128"),
            ("AZURE_STORAGE_CONNECTION_STRING", f"DefaultEndpointsProtocol=https;AccountName=me;AccountKey={SECRET};"),
        ],
    )
    def test_secret_inside_of_a_value(self, monkeypatch: pytest.MonkeyPatch, name: str, value: str):
        monkeypatch.setenv(name, value)
        assert masked(f"407 for {SECRET}") == "407 for ***"

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("TOKENIZERS_PARALLELISM", "false"),
            ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "true"),
            ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"),
            ("RAY_AUTH_TOKEN_PATH", "/home/me/token"),
            ("SSH_AUTH_SOCK", "/tmp/socket"),
            ("RAY_AUTH_MODE", "token"),
        ],
    )
    def test_not_secret(self, monkeypatch: pytest.MonkeyPatch, name: str, value: str):
        monkeypatch.setenv(name, value)
        assert masked(f"it is {value} here") == f"it is {value} here"
