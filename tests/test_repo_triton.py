"""What a repository holds beside models disturbs no Triton, and each change is taken up."""

from pathlib import Path

import pytest

from bandstop.cli.main import main
from bandstop.export.errors import NotServed
from bandstop.export.gc import gc
from bandstop.export.promote import promote, rollback
from bandstop.export.readback import server_at
from bandstop.export.repository import publish
from bandstop.serve.hazards import hazards
from bandstop.serve.triton import start
from tests.repository_toys import actions, served
from tests.whole_releases import whole_release

pytestmark = pytest.mark.triton


@pytest.fixture
def releases(tmp_path: Path) -> list[Path]:
    return [whole_release(tmp_path / str(n), weight=n / 8) for n in (1, 2, 3)]


def test_a_real_server_takes_up_every_change(tmp_path: Path, releases: list[Path]) -> None:
    root = tmp_path / "models"
    publish(releases[0], root)
    with start(root) as triton:
        headers = tuple(triton.access.headers.items())
        with server_at(triton.url, None, headers) as server:
            assert publish(releases[1], root, server=server) == 2
            assert publish(releases[2], root, canary=True, server=server) == 3
            assert promote(root, "digits", 3, server=server).after == (3,)
            assert rollback(root, "digits", server=server).after == (2,)
            gc(root, keep=0)
            assert publish(releases[0], root, server=server) == 4
            assert publish(releases[0], root, "more", server=server) == 1
            broken = whole_release(tmp_path / "broken", weight=1.0)
            (broken / "model.onnx").write_bytes(b"no graph")
            spoil(broken)
            with pytest.raises(NotServed, match="version 4 is served as before"):
                publish(broken, root, server=server)
            with pytest.raises(NotServed, match="not in the repository"):
                publish(broken, root, "third", server=server)
            assert served(root) == (4,)
            assert actions(root)[-1] == ("restore", 5, [4])
            server.reach()
        token = tmp_path / "token"
        token.write_text(triton.access.token)
        url = ["--url", triton.url, "--token-file", str(token)]
        repo, release = str(root), str(releases[1])
        assert main(["repo", "promote", repo, "digits", "4", *url]) == 0
        assert main(["repo", "publish", release, repo, "--model", "digits", *url]) == 0
        assert main(["repo", "rollback", repo, "digits", *url]) == 0
        assert main(["repo", "rollback", repo, "digits", "6", *url[:2]]) == 6  # without the token
        assert served(root) == (4,)
    assert hazards(root) == []
    with start(root) as triton:  # beside what gc left, and the history
        assert triton.models == ["digits", "more"]


def spoil(release: Path) -> None:
    """Make the record fit the file, as a release of another exporter might."""
    import hashlib

    data = (release / "model.onnx").read_bytes()
    text = (release / "release.json").read_text()
    at = text.index('"model.onnx": {')
    end = text.index("}", at)
    digest = hashlib.sha256(data).hexdigest()
    told = f'"model.onnx": {{"sha256": "{digest}", "size": {len(data)}'
    (release / "release.json").write_text(text[:at] + told + text[end:])
