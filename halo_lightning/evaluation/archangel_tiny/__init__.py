"""A miniature of the report's 56 models: 8 methods × 3 sizes of the embedded model × some seeds, on two cores."""
