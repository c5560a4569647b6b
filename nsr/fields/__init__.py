"""The learned functions of position: signed distance, colour, background, sharpness. All parameters live here."""
