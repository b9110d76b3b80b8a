"""The command line: options, commands, tables of what there is."""
