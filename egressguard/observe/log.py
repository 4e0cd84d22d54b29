"""Structured log lines on standard error: one JSON object a line, or plain words on a terminal.

Under systemd (JOURNAL_STREAM set) each line starts with a <N> priority prefix (sd-daemon(3)).
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time

_PRIORITY = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}


class JsonFormatter(logging.Formatter):
    """`extra={"fields": {...}}` adds keys; keys never collide with ours (at, level, role, event)."""

    def __init__(self, role: str, *, prefixed: bool) -> None:
        super().__init__()
        self._role = role
        self._prefixed = prefixed

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"at": at, "level": record.levelname.lower(), "role": self._role, "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        text = json.dumps(line, ensure_ascii=True, default=str)
        return f"<{_PRIORITY.get(record.levelname, 5)}>{text}" if self._prefixed else text


class PlainFormatter(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={value}" for key, value in getattr(record, "fields", {}).items())
        text = f"{self._role}: {record.getMessage()}{fields}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def set_up_logging(role: str, level: int = logging.INFO) -> None:
    """Send the root logger to standard error in the form its reader expects."""
    handler = logging.StreamHandler(sys.stderr)
    if sys.stderr.isatty():
        handler.setFormatter(PlainFormatter(role))
    else:
        handler.setFormatter(JsonFormatter(role, prefixed="JOURNAL_STREAM" in os.environ))
    logging.basicConfig(level=level, handlers=[handler], force=True)
