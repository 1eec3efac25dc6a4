"""The commands of the command line, one file each. They call the same functions that notebooks call."""
