"""Keeping others from writing to a destination, and finding what they have written nevertheless."""
