"""What takes turns: our command, the original implementation, plain torch, and the libraries alone."""
