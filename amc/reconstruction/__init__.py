"""Cutting by a plan: the layers that lose inputs are solved for anew."""
