"""What the system said about a file or folder, and what to do about it: the true reason, never a guess."""

from __future__ import annotations

import errno
from typing import Final

_REMEDIES: Final = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path, a part of which is a file",
    errno.EISDIR: "give a file",
    errno.ELOOP: "check the symbolic links of the path",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.EACCES: "check permissions",
    errno.EPERM: "check permissions",
    errno.EROFS: "choose a place that can be written to",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "end other programs, or raise the system's limit of open files",
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space",
}


def remedy(error: OSError) -> str:
    """Return what to do about an error of the system."""
    return _REMEDIES.get(error.errno or 0, "check disk and network")


def system_reason(error: OSError) -> str:
    """Return what the system said and what to do: `No such file or directory; check the path`."""
    return f"{error.strerror or type(error).__name__}; {remedy(error)}"


def cannot_read(what: str, error: Exception, expected: str) -> str:
    """Return the line for a file that the system did not open, or whose content is not what was expected.

    Args:
        what: what was to be read, such as `the list 'scans.csv'`.
        error: why it was not.
        expected: what the content should be, said only where it was read.
    """
    if isinstance(error, OSError) and error.errno:
        return f"cannot read {what}: {system_reason(error)}"
    return f"cannot read {what} ({type(error).__name__}); expected {expected}"
