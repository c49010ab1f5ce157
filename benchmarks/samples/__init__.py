"""What training samples made of a map are worth: networks trained on them, scored with truth in other places."""
