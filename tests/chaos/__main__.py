"""`python -m chaos`. Processes of lives import this too, and must not pay for what they do not need."""

if __name__ == "__main__":
    from chaos.command import main

    main()
