"""Encodings: the hash grid against a slow one, planes, waves, spherical harmonics."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from field_cases import BOX, points, seeded

from mednerf_kit.core.errors import UserError
from mednerf_kit.fields.encodings import ENCODINGS, PRIMES, Hash, build_encoding
from mednerf_kit.fields.heads import spherical_harmonics, waves


def slow_hash(encoding: Hash, x: list[float]) -> list[float]:
    """Instant-NGP's features of one point, by Python integers and loops."""
    out, first = [], 0
    for n, rows in zip(encoding.cells, encoding.rows, strict=True):
        place = [
            (v - float(lo)) / float(hi - lo) * n for v, lo, hi in zip(x, *encoding.box, strict=True)
        ]
        low = [min(int(p), n - 1) for p in place]
        feature = [0.0] * encoding.table.shape[1]
        for corner in itertools.product((0, 1), repeat=3):
            c = [a + b for a, b in zip(low, corner, strict=True)]
            weight = math.prod(
                p - a if b else 1 - (p - a) for p, a, b in zip(place, low, corner, strict=True)
            )
            if (n + 1) ** 3 <= encoding.size:
                row = c[0] + (n + 1) * (c[1] + (n + 1) * c[2])
            else:
                row = ((c[0] * PRIMES[0]) ^ (c[1] * PRIMES[1]) ^ (c[2] * PRIMES[2])) % encoding.size
            feature = [
                f + weight * float(v)
                for f, v in zip(feature, encoding.table.detach()[first + row], strict=True)
            ]
        out += feature
        first += rows
    return out


class TestEncodings:
    def test_hash_is_the_slow_one(self):
        torch.manual_seed(0)
        encoding = Hash(levels=5, features=3, log2_table=9, base=3, finest=1000, box=BOX)
        with torch.no_grad():
            encoding.table.normal_(generator=seeded())
        assert (
            encoding.cells[0] == 3
            and encoding.cells[-1] == 1000
            and encoding.rows == [64, *[512] * 4]
        )
        x = points(12)
        expected = torch.tensor([slow_hash(encoding, p) for p in x.tolist()])
        torch.testing.assert_close(encoding(x), expected, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("name", sorted(ENCODINGS.entries))
    def test_every_encoding_feeds_an_mlp(self, name):
        encoding = build_encoding(name, box=BOX)
        seen = encoding(points(9))
        assert seen.shape == (9, encoding.width) and bool(seen.isfinite().all())
        assert encoding(points(0)).shape == (0, encoding.width)
        mixed = build_encoding([name, {"name": "frequency", "octaves": 1}], box=BOX)
        assert mixed.width == encoding.width + 9

    @pytest.mark.parametrize("factorisation", ["vm", "cp", "triplane"])
    def test_planes_of_each_kind(self, factorisation):
        encoding = build_encoding(
            {"name": "planes", "factorisation": factorisation, "rank": 2, "resolution": 10}, box=BOX
        )
        assert encoding.width == (6 if factorisation == "vm" else 2)
        assert encoding.resolution == (8, 10, 10)
        seen = encoding(points(5))
        assert seen.shape == (5, encoding.width) and seen.requires_grad

    def test_bad_options_are_named(self):
        for node in (
            [],
            {"name": "hash", "base": 16, "finest": 8},
            {"name": "planes", "rank": 0},
            {"name": "hsh"},
        ):
            with pytest.raises(UserError):
                build_encoding(node, box=BOX)

    def test_waves(self):
        x = torch.randn(4, 5, generator=seeded())
        expected = torch.cat(
            [x, x.sin(), x.cos(), (2 * x).sin(), (2 * x).cos(), (4 * x).sin(), (4 * x).cos()], -1
        )
        torch.testing.assert_close(waves(x, 3), expected, rtol=1e-4, atol=1e-5)

    def test_spherical_harmonics_are_orthonormal(self):
        """Gauss-Legendre in z times even angles integrates products of degree 6 exactly."""
        import numpy as np

        z, weight = np.polynomial.legendre.leggauss(8)
        angle = 2 * math.pi * np.arange(16) / 16
        z, angle = (torch.from_numpy(v.ravel()) for v in np.meshgrid(z, angle, indexing="ij"))
        r = (1 - z * z).sqrt()
        y = spherical_harmonics(torch.stack([r * angle.cos(), r * angle.sin(), z], -1), 4)
        area = torch.from_numpy(np.repeat(weight, 16)) * 2 * math.pi / 16
        torch.testing.assert_close(
            (y * area[:, None]).T @ y, torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-12
        )
        assert [spherical_harmonics(torch.ones(1, 3), k).shape[-1] for k in (1, 2, 3, 4)] == [
            1,
            4,
            9,
            16,
        ]
