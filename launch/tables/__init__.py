"""The tables and figures of the MMA paper, one command each."""
