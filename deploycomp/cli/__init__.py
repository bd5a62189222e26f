"""The command line: every command parses, calls one library function, and hands the result to one sink."""
