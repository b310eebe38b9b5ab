"""The command line: `main` runs a command, one file each describes its arguments and does its work; nothing imports this room."""
