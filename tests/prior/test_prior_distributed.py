"""What several processes that train one generator agree on."""

from mednerf_kit.prior.distributed import group_size_note


def test_smaller_groups_of_pictures_are_said():
    discriminator = type("Discriminator", (), {"mbstd_group": 4})
    assert (
        group_size_note(discriminator, 8, 2) == []
        and "compares 2 pictures at a time instead of 4" in group_size_note(discriminator, 4, 2)[0]
    )
