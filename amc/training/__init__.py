"""Training by SGD: recipes, distillation, and what a stop leaves behind."""
