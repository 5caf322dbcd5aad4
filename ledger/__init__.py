"""The money rules of atpar as pure functions: the lowest layer, with no I/O and no clock."""
