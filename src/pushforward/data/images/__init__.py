"""Images in files: finding, decoding, packing them."""
