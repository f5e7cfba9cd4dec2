"""Plans: what goes, as plain data that can be stored, edited, replayed and compared."""
