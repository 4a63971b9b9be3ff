"""Writing files so that a reader never meets half of one."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}
_FULL_BELOW = 1 << 20


class WriteError(OSError):
    """A file that could not be written, in one line; what stood there before is untouched."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name in its folder, then give it its name.

    The body writes to the path it is given. Afterwards the content is flushed to the disk, the file
    renamed and the rename flushed, so a crash leaves either the old file or the new one. If the
    body raises, the temporary file is removed and the old file stays.

    Args:
        path: Where the file shall be; its folder is made if it is missing.

    Yields:
        A new empty file beside `path`, with the same suffix.

    Raises:
        WriteError: The disk is full or broken, the folder can't be written, or `path` is a folder.
    """
    path = Path(path)
    temporary = _made_beside(path)
    try:
        yield temporary
        _publish(temporary, path)
    except Exception as error:
        refused = _as_write_error(error, path)
        _remove(temporary)
        if refused is None:
            raise
        raise refused from error
    except BaseException:
        _remove(temporary)
        raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text by `replacing`, line ends as they are."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes by `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _made_beside(path: Path) -> Path:
    """An empty file of a new name, with the access rights a plain `open` would give it."""
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise _write_error(error, path) from error
    return temporary


def _publish(temporary: Path, path: Path) -> None:
    try:
        _flush(temporary)
        temporary.replace(path)
        if os.name == "posix":
            _flush(path.parent)
    except OSError as error:
        raise _write_error(error, path) from error


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _as_write_error(error: Exception, path: Path) -> WriteError | None:
    """The error as ours if the disk is to blame, None if the body failed for its own reasons.

    Libraries that write in C++ report a full disk as some RuntimeError of their own, so for those
    the disk itself is asked.
    """
    if isinstance(error, WriteError):
        return error
    if isinstance(error, OSError):
        return _write_error(error, path) if error.errno in _DISK_ERRORS else None
    with suppress(OSError):
        if shutil.disk_usage(path.parent).free < _FULL_BELOW:
            return _write_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), path)
    return None


def _write_error(error: OSError, path: Path) -> WriteError:
    return WriteError(f"can't write {path}: {error.strerror or error}")


def _remove(temporary: Path) -> None:
    with suppress(OSError):
        temporary.unlink()
