"""Radiographs as files hold them: one module a format, all answer with a :class:`StoredFilm`."""
