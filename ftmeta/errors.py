"""The errors of ftmeta: one small tree, so that the command line and the service know whose fault a failure is.

Every message says what was found, what was wanted and what to do. The errors carry one string and nothing else,
so they survive pickling, which Ray needs to send them between processes.
"""


class FtmetaError(Exception):
    """A failure of the system that the user did not cause (exit code 1, HTTP 500)."""

    exit_code = 1


class UserError(FtmetaError):
    """A mistake in what the user gave, with what to do about it (exit code 2, HTTP 422)."""

    exit_code = 2


class DataError(UserError):
    """A dataset that cannot be read or used; the message names the file and the row."""


class SpaceError(UserError):
    """A search space or pipeline that is malformed, or a pipeline that its space does not allow."""


class ModelError(UserError):
    """A base model that is unknown, unreachable or unusable."""


class MetaDatasetError(UserError):
    """A meta-dataset that is missing, torn, or does not fit its search space."""


class ConfigError(UserError):
    """A job configuration, price table or hardware profile that is malformed."""


class MissingDependencyError(UserError):
    """Something that has to be installed first; the message names the command that installs it."""
