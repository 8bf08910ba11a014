"""What can go wrong between a URL and a parsed page.

    KeError
    ├── InvalidInput
    │   ├── BadUrl               not a URL that can be fetched                final
    │   ├── BadPattern           not a pattern that can be matched safely     final
    │   ├── BadSitemap           not a sitemap                                final
    │   ├── UnsupportedType      not a type that can be read                  final
    │   ├── BrokenDocument       of a type that can be read, and damaged      final
    │   ├── LockedDocument       the same, and opens by a password only       final
    │   ├── NoBrowser            there is none to show pages with             final
    │   └── FetchRefused         the egress guard says no (ke.contracts.errors)
    └── FetchError               the fetch did not succeed                    final
        ├── FetchTimeout         the time for the whole request ran out       retryable
        ├── BrowserFailed        the browser does not do what it is told      retryable
        ├── FetchFailed          no connection, or it broke                   retryable
        │   └── BadCertificate   the server is not who it says it is          final
        ├── BadResponse          not HTTP as it is agreed                     final
        ├── TooLarge             longer than the limit                        final
        ├── TooManyRedirects     too many, or in a circle                     final
        └── RedirectRefused      leads where the caller does not follow       final

All of them can be pickled: some are raised in a process pool.
"""

from typing import Any

from ke.contracts.errors import InvalidInput, KeError


class BadUrl(InvalidInput):
    """This is not a URL that can be fetched."""

    code = "bad-url"


class BadPattern(InvalidInput):
    """This is not a regular expression that can be matched safely."""

    code = "bad-pattern"


class BadSitemap(InvalidInput):
    """This is not a sitemap."""

    code = "bad-sitemap"


class UnsupportedType(InvalidInput):
    """Documents of this type cannot be read."""

    code = "unsupported-type"

    def __init__(self, message: str | None = None, **extra: Any) -> None:
        """Takes `content_type`, the type in question, among the extras."""
        super().__init__(message, **extra)
        self.content_type = str(extra.get("content_type", ""))


class BrokenDocument(InvalidInput):
    """The document is damaged."""

    code = "broken-document"


class LockedDocument(InvalidInput):
    """The document is encrypted, and opens with a password only."""

    code = "locked-document"


class NoBrowser(InvalidInput):
    """There is no Chromium to show pages with."""

    code = "no-browser"


class FetchError(KeError):
    """The fetch did not succeed."""

    code = "fetch-error"


class FetchTimeout(FetchError):
    """The server did not finish its answer in time."""

    code = "fetch-timeout"
    retryable = True


class BrowserFailed(FetchError):
    """The browser did not show the page."""

    code = "browser-failed"
    retryable = True


class FetchFailed(FetchError):
    """There was no connection to the server, or it broke."""

    code = "fetch-failed"
    retryable = True


class BadCertificate(FetchFailed):
    """The server's certificate is not valid for its name."""

    code = "bad-certificate"
    retryable = False


class BadResponse(FetchError):
    """The server's answer is not HTTP as it is agreed."""

    code = "bad-response"


class TooLarge(FetchError):
    """The answer is longer than the limit."""

    code = "too-large"


class TooManyRedirects(FetchError):
    """The server redirects too often, or in a circle."""

    code = "too-many-redirects"


class RedirectRefused(FetchError):
    """The server redirects to where this job does not go."""

    code = "redirect-refused"
