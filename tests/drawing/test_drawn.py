"""Pictures with the sizes that a run on the meta device finds."""

from pathlib import Path

import sslgraph


def mermaid_of(tmp_path: Path, **settings: object) -> str:
    graph = sslgraph.load("simclr", preset="tiny", set=settings)
    sslgraph.draw(graph, tmp_path / "x.mmd")
    return (tmp_path / "x.mmd").read_text(encoding="utf-8")


def test_a_shipped_method_is_drawn_with_its_sizes(tmp_path: Path) -> None:
    sslgraph.draw(sslgraph.load("simclr"), tmp_path / "x.mmd")
    text = (tmp_path / "x.mmd").read_text(encoding="utf-8")
    assert '|"image [2 B 3 224 224]"|' in text
    assert '|"embedding [2 B 2048]"|' in text  # ResNet-50
    # Two layers without bias, a batch norm with scale and shift, one with a scale.
    assert 2048 * 2048 + 2 * 2048 + 2048 * 128 + 128 == 4_460_672
    assert "<small>4.46 M parameters</small>" in text


def test_what_is_known_is_drawn_where_sizes_are_wrong(tmp_path: Path) -> None:
    text = mermaid_of(tmp_path, **{"data.batch.channels": 1})  # no jitter on grey images
    assert '|"image [1 B 1 ' in text
    assert '|"image, 2 views"|' in text
