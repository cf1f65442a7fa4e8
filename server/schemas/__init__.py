"""Schemas of the API: strict request models, and answers rebuilt from allow-listed fields."""
