"""The command line: parse, call `operate`, render. Heavy imports happen inside the commands."""
