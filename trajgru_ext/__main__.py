"""`python -m trajgru_ext`."""

import sys

from trajgru_ext.cli import main

sys.exit(main())
