"""`python -m surgeon` is the same as `surgeon`."""

from surgeon.cli.main import main

if __name__ == "__main__":
    main()
