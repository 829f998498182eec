"""Distillation: students that draw in one to four evaluations what the trained model draws."""
