"""``python -m autoassist``."""

from autoassist.cli import main

raise SystemExit(main())
