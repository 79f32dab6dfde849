"""Write log lines to standard error: text for people, or one JSON object per line for log collectors."""

import json
import logging
import os
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, NamedTuple, cast, get_args

from retrain.errors import UserError

LogFormat = Literal["text", "json"]
FORMAT_VARIABLE = "RETRAIN_LOG_FORMAT"
LOGGER = logging.getLogger("retrain")


class JsonFormatter(logging.Formatter):
    """A formatter that returns one line of JSON: time (UTC), level, logger, message and any traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def make_handler(log_format: LogFormat) -> logging.Handler:
    """Return a handler that writes log lines of this format to standard error."""
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonFormatter() if log_format == "json" else text)
    return handler


def configure_logging(log_format: LogFormat, level: int) -> None:
    """Log messages of this project from `level` on, and warnings of libraries.

    With DEBUG, messages of libraries are logged from INFO on.
    If the program has already set up logging, its handlers stay in use. With JSON, Python's warnings and errors that no
    code handles are log lines too.
    """
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(make_handler(log_format))
        if log_format == "json":
            logging.captureWarnings(True)
            sys.excepthook = _log_unexpected
            threading.excepthook = _log_unexpected_in_thread
    root.setLevel(logging.INFO if level < logging.INFO else logging.WARNING)
    LOGGER.setLevel(level)


def _log_unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    LOGGER.critical("unexpected error: %s", error, exc_info=(kind, error, trace))


def _log_unexpected_in_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_type is not SystemExit:
        error = ended.exc_value or ended.exc_type()
        LOGGER.critical("unexpected error: %s", error, exc_info=(ended.exc_type, error, ended.exc_traceback))


class Settings(NamedTuple):
    """The settings of this process's log, for its subprocesses."""

    log_format: LogFormat
    level: int


def read_settings() -> Settings | None:
    """Return the settings of this process's log, or None if `configure_logging` has not been called."""
    return Settings("json" if is_json() else "text", LOGGER.level) if LOGGER.level else None


def format_from_environment() -> LogFormat:
    """Return the format that `RETRAIN_LOG_FORMAT` names (default: text). Raises `UserError` for any other value."""
    value = os.environ.get(FORMAT_VARIABLE, "text")
    if value not in get_args(LogFormat):
        raise UserError(f"{FORMAT_VARIABLE}={value}: must be text or json")
    return cast(LogFormat, value)


def is_json() -> bool:
    """Return whether logs are written as JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)
