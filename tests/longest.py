"""Which files of tests take longest, the longest first: they begin first, so that no process is
left with one of them when the others have ended.
"""

FIRST = (
    "tests/test_devices.py",
    "tests/view/test_project.py",
    "tests/view/test_result.py",
    "tests/engine/test_distributed.py",
    "tests/view/test_accessibility.py",
    "tests/prior/test_run_failures.py",
    "tests/prior/test_gan_prior.py",
    "tests/invert/test_reconstruct.py",
    "tests/invert/test_progress.py",
    "tests/invert/test_framed_views.py",
    "tests/view/test_patients_room.py",
    "tests/view/test_sampling.py",
    "tests/view/test_training.py",
    "tests/view/test_models.py",
    "tests/prior/test_posed_prior.py",
    "tests/engine/test_snapshots.py",
    "tests/test_start.py",
    "tests/imaging/scans/test_hostile_volumes.py",
    "tests/invert/test_private_films.py",
    "tests/recon/test_measurement_update.py",
    "tests/prior/test_conditional_prior.py",
    "tests/invert/test_guide.py",
    "tests/scene/test_scene_imports.py",
)


def first_the_longest(items: list) -> None:
    """Put the tests of these files first; within a file the order stays."""
    place = {name: k for k, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(FIRST)))
