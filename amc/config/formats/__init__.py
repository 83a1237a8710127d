"""Configuration files of this tool and of others, read into settings and written from them."""
