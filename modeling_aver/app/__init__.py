"""The web page, and the folder of a Hugging Face Space."""
