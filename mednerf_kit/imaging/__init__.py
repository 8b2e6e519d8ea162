"""Space in millimetres: X-ray geometry, CT volumes, phantoms and the projector."""
