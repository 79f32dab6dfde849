"""Start the command line: the program `retrain`, and `python -m retrain`."""

import signal


def main() -> None:
    """Import and run the command line. Ctrl-C during the import ends the process without a traceback."""
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a caller may have it ignored
    if is_default:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from retrain.cli import main as run_command_line

    if is_default:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run_command_line()


if __name__ == "__main__":
    main()
