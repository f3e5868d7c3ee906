"""Where pretrained weights come from: names → local folders in the Hugging Face format → loaded models."""
