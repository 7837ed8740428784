"""`python -m controlplane.cli`: the command line without an installed script."""

from controlplane.cli.main import main

if __name__ == "__main__":
    main()
