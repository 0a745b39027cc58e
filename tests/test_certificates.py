"""The certificate of a server, before it is shown to anybody."""

import os
import ssl
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from pki import Authority, put

from moesaic.models.errors import SetupError
from moesaic.server.certificates import Certificates, TlsFiles, read_certificate

NOW = datetime.now(UTC).replace(tzinfo=None)  # as trustme takes it


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def refusal(files: TlsFiles) -> str:
    with pytest.raises(SetupError) as caught:
        read_certificate(files)
    return str(caught.value)


def test_a_right_certificate_says_for_whom_and_until_when(authority: Authority) -> None:
    found = read_certificate(replace(authority.issue(until=datetime(2090, 1, 2)), client_ca=authority.file))
    assert found.told == "certificate for localhost, 127.0.0.1, valid until 2090-01-02 00:00 UTC"
    assert found.client_ca == authority.file.read_bytes() and not found.ends_soon(NOW.timestamp())


def test_a_certificate_that_has_ended_is_refused_by_the_clock(authority: Authority) -> None:
    files = authority.issue(until=NOW - timedelta(days=1), since=NOW - timedelta(days=2))
    assert f"server.pem: certificate has expired, by the clock of this machine ({NOW:%Y-%m-%d})" in refusal(files)


def test_a_certificate_that_has_not_begun_is_refused(authority: Authority) -> None:
    assert "certificate is not yet valid" in refusal(authority.issue(since=NOW + timedelta(days=1)))


def test_the_key_of_another_certificate_is_refused(authority: Authority) -> None:
    one, other = authority.issue("one"), authority.issue("other")
    assert f"{other.key} is not the key of the certificate {one.cert}" in refusal(replace(one, key=other.key))


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o666])
def test_a_key_that_others_may_read_or_change_is_refused(authority: Authority, mode: int) -> None:
    files = authority.issue()
    files.key.chmod(mode)
    assert f"(mode {mode:o}); run: chmod 600 {files.key}" in refusal(files)


def test_a_key_that_a_group_may_read_is_taken(authority: Authority) -> None:
    files = authority.issue()
    files.key.chmod(0o440)
    assert read_certificate(files).names == ("localhost", "127.0.0.1")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("cert", b"", "are no certificate and key in PEM"),
        ("cert", b"-----BEGIN CERTIFICATE-----\nMIIB", "are no certificate and key in PEM"),
        ("key", b"none", "are no certificate and key in PEM"),
        ("client_ca", b"none", "holds no certificates in PEM"),
    ],
)
def test_half_of_a_file_is_refused(authority: Authority, name: str, data: bytes, words: str) -> None:
    files = replace(authority.issue(), client_ca=authority.file)
    put(getattr(files, name), data)
    assert words in refusal(files)


def test_a_file_that_is_not_there_and_a_folder_are_refused(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue()
    assert "none.pem cannot be read: No such file" in refusal(replace(files, cert=tmp_path / "none.pem"))
    assert f"tls_key: {tmp_path} is no file" in refusal(replace(files, key=tmp_path))


def test_a_pipe_keeps_nobody_waiting(authority: Authority, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("cert", "key"):
        assert "pipe is no file; name a file" in refusal(replace(authority.issue(), **{name: tmp_path / "pipe"}))


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(authority: Authority) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    files = authority.issue()
    key = load_pem_private_key(files.key.read_bytes(), None)
    put(files.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
    assert "one without a password" in refusal(files)


def test_a_wrong_one_that_comes_later_leaves_the_first_in_force(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    files = authority.issue()
    certificates = Certificates(files)
    before = certificates.current
    put(files.key, trustme.CA().issue_cert("localhost").private_key_pem.bytes())
    certificates.look()
    certificates.look()
    assert certificates.current is before and certificates._newer() is None
    assert caplog.text.count("what was read before stays in force: tls_key: ") == 1


def test_a_right_one_that_comes_later_is_given_to_grpc_once(authority: Authority) -> None:
    certificates = Certificates(authority.issue())
    authority.issue()
    certificates.look()
    assert certificates._newer() is not None and certificates._newer() is None


def test_one_that_ends_while_it_is_in_force_is_said_once(
    authority: Authority, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = Certificates(authority.issue())
    certificates.look()
    ended = certificates.current.until
    monkeypatch.setattr("time.time", lambda: ended)
    certificates.look()
    certificates.look()
    assert caplog.text.count("callers refuse it; put another in its place") == 1


def test_an_older_file_that_is_put_back_counts_as_a_change(authority: Authority) -> None:
    files = authority.issue()
    certificates, before = Certificates(files), files.cert.stat()
    authority.issue()
    os.utime(files.cert, ns=(before.st_atime_ns, before.st_mtime_ns - 10**12))
    certificates.look()
    assert certificates.current.chain == files.cert.read_bytes()


def test_a_door_that_is_not_grpcs_shows_the_newest_too(authority: Authority) -> None:
    """Over memory: what each handshake is shown, without and with the name of the server."""
    certificates = Certificates(authority.issue())
    context = certificates.context()
    for name in (None, "localhost"):
        authority.issue()
        certificates.look()
        pem = certificates.current.chain.partition(b"-----END")[0] + b"-----END CERTIFICATE-----\n"
        assert shown(context, name) == ssl.PEM_cert_to_DER_cert(pem.decode())


def shown(server: ssl.SSLContext, name: str | None) -> bytes:
    """What a caller that asks for nothing is shown."""
    caller = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    caller.check_hostname, caller.verify_mode = False, ssl.CERT_NONE
    to_server, to_caller = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        caller.wrap_bio(to_caller, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_caller, server_side=True),
    ]
    for end in ends * 4:
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    return ends[0].getpeercert(binary_form=True) or b""
