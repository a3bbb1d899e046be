"""One question a command, answered with numbers and in words."""
