"""What a student learns from a teacher: signals, label distillation, and the objective that joins them."""
