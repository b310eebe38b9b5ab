"""Where the command line was before 0.2, for scripts that import it from here."""

from minidetr.commands.main import main as main
