"""An artificial colonoscopy whose duplicates, scenes and invalid frames are known."""
