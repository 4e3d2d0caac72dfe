"""Image formats: what a file is, whether it is whole, and what it holds; OpenCV turns the samples into pixels."""
