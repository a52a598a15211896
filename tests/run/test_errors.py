"""The tails of errors about unknown names, and an error as one line."""

import pytest

from sdvae_ray.errors import did_you_mean, nearest, nearest_or_first, one_line


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
