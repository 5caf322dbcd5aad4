"""A network of real validators on one machine, for trying, testing and measuring."""
