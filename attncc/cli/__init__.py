"""The command line: one module a command, imported when it is called. Nothing else in attncc imports it."""
