"""Construction sites drawn by code: `render` one, or a `dataset` of them."""
