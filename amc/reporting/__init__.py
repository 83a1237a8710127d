"""What is known before a run and after it, as numbers, tables and charts."""
