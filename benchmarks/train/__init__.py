"""What training and prediction cost."""
