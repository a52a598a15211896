"""The tails of errors about unknown names, and an error as one line."""

import pickle

import pytest

from sdvae_ray.errors import StorageError, did_you_mean, nearest, nearest_or_first, one_line, redacted


def test_the_nearest_name_comes_first_and_all_allowed_names_follow():
    assert did_you_mean("ssmi", ["psnr", "ssim"]) == "; did you mean 'ssim'? (allowed: psnr, ssim)"
    assert did_you_mean("?", ["psnr", "ssim"]) == " (allowed: psnr, ssim)"


def test_among_many_names_the_nearest_or_one_of_them_is_named():
    assert nearest_or_first("P1/A1", ["P9/B02", "P1/A01"]) == "; did you mean 'P1/A01'?"
    assert nearest_or_first("?", ["P9/B02", "P1/A01"]) == "; one of them is 'P9/B02'"
    assert nearest_or_first("?", []) == ""


def test_a_name_below_the_cutoff_is_not_near():
    assert nearest("URL_OrigDNA", ["URL_OrigDNB"], cutoff=0.7) == "URL_OrigDNB"
    assert nearest("abcd", ["abxy"], cutoff=0.7) is None


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (ValueError("x" * 300), "x" * 200),
        (TimeoutError(), "TimeoutError"),  # a FOV whose error were "" would count as sound
    ],
)
def test_an_error_is_one_line_and_never_an_empty_one(error, line):
    assert one_line(error) == line


def test_a_whole_message_is_kept_where_it_is_asked_for():
    assert one_line(ValueError("x " * 300), None) == ("x " * 300).strip()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:PW@host/x and s3://bucket/key", "http://***@host/x and s3://bucket/key"),
        ("s3://key:a%2Fb@host", "s3://***@host"),
        ("?X-Amz-Credential=AB%2F1&X-Amz-Signature=00ff", "?X-Amz-Credential=***&X-Amz-Signature=***"),
        ("aws_secret_access_key = abc/def", "aws_secret_access_key = ***"),
        ("{'SessionToken': 'xyz', 'Code': 'ExpiredToken'}", "{'SessionToken': '***', 'Code': 'ExpiredToken'}"),
        ("the key ASIAIOSFODNN7EXAMPLE is unknown", "the key *** is unknown"),
        ("plate BR00117035: no token of @home: 5 tokens", "plate BR00117035: no token of @home: 5 tokens"),
    ],
)
def test_what_looks_like_a_credential_is_in_no_message(text, shown):
    assert redacted(text) == shown
    assert str(StorageError(text)) == one_line(ValueError(text)) == shown
    assert str(pickle.loads(pickle.dumps(StorageError(text)))) == shown
