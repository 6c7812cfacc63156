"""Arithmetic on model outputs: how features move, which moments match, where attention goes."""
