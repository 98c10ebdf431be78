"""What runs detected, evaluated again: AP for any weights of the images, error types."""
