"""Every error a user can cause or meet, each with a one-line message that names the culprit and the remedy.

The command-line programs print these messages without a traceback and exit with `NsrError.exit_code`. Any other
exception is a defect of this package and keeps its traceback.
"""


class NsrError(Exception):
    """Base of all errors that a user can act on."""

    exit_code = 2


class ConfigError(NsrError):
    """A configuration key, value or manifest row is wrong."""


class DataError(NsrError):
    """An input file is missing, unreadable, inconsistent or out of range, or an output cannot be written."""


class SfmError(NsrError):
    """Structure from motion failed or did not pass its health gate."""


class BackendUnavailable(NsrError):
    """A kernel back end was asked for that is not installed or not usable here."""


class DeviceUnavailable(NsrError):
    """A GPU was asked for and there is none."""


class OutOfMemory(NsrError):
    """The GPU has too little memory."""


class TrainingDiverged(NsrError):
    """A watchdog stopped training; the message holds the diagnosis."""

    exit_code = 3


class CheckpointError(NsrError):
    """A checkpoint is corrupt, cannot be written, or belongs to another configuration or data set."""


class EmptyMesh(NsrError):
    """Extraction, fusion or cleaning left no surface."""

    exit_code = 4


class EvaluationError(NsrError):
    """A metric cannot be computed from the given files."""


class ResultOutOfRange(NsrError):
    """A result lies outside its golden range."""

    exit_code = 5
