"""Images and labels as arrays: read from published files, and put in order."""
