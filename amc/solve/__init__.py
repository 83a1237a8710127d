"""Linear algebra on sufficient statistics: Lasso path, least squares."""
