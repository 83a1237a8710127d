"""A network looked at from outside: as a program of operators, and with its numbers watched."""
