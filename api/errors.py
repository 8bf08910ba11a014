"""The gateway's own refusals: each a kind of the common errors, with a code that callers can tell apart.

    KeError
    ├── InvalidInput
    │   ├── ValidationFailed        the body or a parameter does not fit
    │   ├── MalformedJson           the body is not JSON
    │   ├── IdempotencyKeyReused    the same key with another body
    │   ├── UnknownReference        the body names a job or a source that is not there
    │   └── BadCursor               the cursor is not one this list gave out
    ├── WrongHost                   not a host this gateway answers for
    ├── CrossSite                   a page of another site wants to change something
    ├── PayloadTooLarge             the body is longer than the limit
    ├── UnsupportedMediaType        the body is not sent as JSON
    ├── MethodNotAllowed            the resource does not have this method
    ├── Unavailable
    │   ├── NotReady                something the gateway needs is down
    │   └── ShuttingDown            the gateway stops while it answers
    └── Conflict
        ├── NotCancellable          the job is in no state in which it can be cancelled
        ├── NotPausable             it is not running
        ├── NotResumable            it is not paused
        ├── JobActive               it must end first
        ├── CleanupRunning          a cleanup must end first
        ├── RetryRunning            a retry of its dead letters is at work
        ├── ReconciliationRunning   one that may do less than what is asked for is at work
        ├── NothingToRetry          none of its dead letters fits
        ├── ArtifactsGone           what it made is deleted, or partly
        └── ArtifactsPresent        say what becomes of what the job made

`api.problems` gives each its HTTP status.
"""

from ke.contracts.errors import Conflict, InvalidInput, KeError, Unavailable


class ValidationFailed(InvalidInput):
    """The request does not fit what is asked for here; `errors` says where."""

    code = "validation-failed"


class MalformedJson(InvalidInput):
    """The body is not JSON."""

    code = "malformed-json"


class IdempotencyKeyReused(InvalidInput):
    """This Idempotency-Key was used before, with another body."""

    code = "idempotency-key-reused"


class UnknownReference(InvalidInput):
    """The request names something that does not exist."""

    code = "unknown-reference"


class BadCursor(InvalidInput):
    """This cursor is not one that this list gave out."""

    code = "bad-cursor"


class WrongHost(KeError):
    """The request names a host that this gateway does not answer for; `KE_API_HOSTS` lists those it does."""

    code = "wrong-host"


class CrossSite(KeError):
    """A web page of another site may not change anything here."""

    code = "cross-site"


class PayloadTooLarge(KeError):
    """The body is longer than the limit."""

    code = "payload-too-large"


class UnsupportedMediaType(KeError):
    """The body must be sent as application/json."""

    code = "unsupported-media-type"


class MethodNotAllowed(KeError):
    """This resource does not have this method."""

    code = "method-not-allowed"


class NotReady(Unavailable):
    """Something that the gateway needs is down."""

    code = "not-ready"


class ShuttingDown(Unavailable):
    """The gateway is stopping; ask again."""

    code = "shutting-down"


class NotCancellable(Conflict):
    """The job is in no state in which it can be cancelled."""

    code = "not-cancellable"


class NotPausable(Conflict):
    """Only a running job can be paused."""

    code = "not-pausable"


class NotResumable(Conflict):
    """Only a paused job can be resumed."""

    code = "not-resumable"


class JobActive(Conflict):
    """A job that is still active must end first."""

    code = "job-active"


class CleanupRunning(Conflict):
    """A cleanup that runs must end first."""

    code = "cleanup-running"


class RetryRunning(Conflict):
    """A retry of this job's dead letters is at work."""

    code = "retry-running"


class ReconciliationRunning(Conflict):
    """A reconciliation that may do less than what is asked for is at work."""

    code = "reconciliation-running"


class NothingToRetry(Conflict):
    """No dead letter of this job fits."""

    code = "nothing-to-retry"


class ArtifactsGone(Conflict):
    """What this job made is deleted, or about to be."""

    code = "artifacts-gone"


class ArtifactsPresent(Conflict):
    """What this job made is still there: say what becomes of it."""

    code = "artifacts-present"
