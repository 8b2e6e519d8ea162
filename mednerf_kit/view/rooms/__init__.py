"""The rooms of the workbench, one module each: what the server answers for one part of the page."""
