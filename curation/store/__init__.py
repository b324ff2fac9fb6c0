"""The run directory: files that appear whole, tables, markers of finished steps, and who may write."""
