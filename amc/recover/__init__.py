"""Getting accuracy back after a cut: batch norm, fine-tuning, distillation."""
