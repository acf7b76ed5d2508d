"""``python -m erasure_sweep.sweep.commands`` is ``erasure-sweep``."""

from erasure_sweep.sweep.commands.main import main

if __name__ == "__main__":
    main()
