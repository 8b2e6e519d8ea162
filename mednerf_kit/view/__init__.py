"""The workbench: a small server on this machine, and the page that it shows in a browser.

``catalogue`` finds what there is to show, ``guard`` keeps strangers out, ``server`` puts both
together with the rooms of ``rooms/``. A room is one module there, with what the page asks for, and
one of the same name in ``static/rooms/``, with what it draws. Neither the catalogue nor the room of
runs imports torch, so that the first page is there at once.
"""
