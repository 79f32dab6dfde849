"""Run `python -m chaos`. Subprocesses import this file too, so it imports nothing slow."""

if __name__ == "__main__":
    from chaos.command import main

    main()
