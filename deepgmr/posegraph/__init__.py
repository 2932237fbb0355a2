"""Poses that hang together by motions measured between them, and how alike what is seen from them looks."""
