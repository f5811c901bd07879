"""The rows of the table that `loadtest/run` prints, a module for each kind of measurement."""
