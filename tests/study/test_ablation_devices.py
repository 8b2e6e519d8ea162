"""Which devices an ablation's trainings are given."""

import torch

from mednerf_kit.study.ablation import run as ablation


def test_auto_are_all_the_devices_there_are(monkeypatch):
    for count, found in ((0, ["cpu"]), (1, ["cuda"]), (2, ["cuda:0", "cuda:1"])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda count=count: count > 0)
        assert ablation.named("auto") == found and ablation.named("cpu,cuda:1") == ["cpu", "cuda:1"]
