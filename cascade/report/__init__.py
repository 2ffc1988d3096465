"""What many outcomes say together: numbers in one pass, advice with its evidence, and how both look as text and as a page."""
