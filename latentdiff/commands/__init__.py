"""One plain function per command; each joins packages of the lower layers."""
