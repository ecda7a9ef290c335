"""Published models by name, from a Hub on this machine: whole, cut, wrong, missing, and without one."""

import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import published_files as files
import pytest
import torch

from chemeleon_cli.core.chemeleon2.convert import SHARES
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources import hub
from chemeleon_cli.sources.checkpoints import find_model
from chemeleon_cli.sources.hub import PUBLISHED, REPOSITORY, published_pair

COMMIT = "1234567890123456789012345678901234567890"
DOWNLOAD = """
import sys
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.hub import download
for path in sys.argv[2:]:
    try:
        print(download(sys.argv[1], path).read_bytes()[:20])
    except UserError as error:
        print(f"{error.message} | {error.hint}")
assert "torch" not in sys.modules
"""
FIND = """
import sys
from chemeleon_cli.sources.checkpoints import find_model
print(find_model(sys.argv[1], sys.argv[2]))
assert "torch" not in sys.modules
"""


class Hub(ThreadingHTTPServer):
    """As much of the Hugging Face Hub as a download needs.

    Attributes:
        files: content by path.
        cut: how many answers to a GET stop halfway, by path.
        announced: sha256 that is announced where it is not that of the content, by path.
        requests: method, path, Range and Authorization of all that came.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut: dict[str, int] = {}
        self.announced: dict[str, str] = {}
        self.requests: list[tuple[str, str, str | None, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        path = found[3] if found else self.path
        server.requests.append((self.command, path, asked, self.headers.get("Authorization")))
        if not found or found[1] != REPOSITORY or path not in server.files:
            self.send_response(404)
            code = "EntryNotFound" if found and found[1] == REPOSITORY else "RepoNotFound"
            self.send_header("X-Error-Code", code)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = server.files[path]
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{server.announced.get(path, hashlib.sha256(content).hexdigest())}"')
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "GET":
            body = content[start:]
            if server.cut.get(path, 0):
                server.cut[path] -= 1
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
            else:
                self.wfile.write(body)


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def environment(tmp_path: Path, **changes: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    home = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_ETAG_TIMEOUT": "5"}
    return {**kept, **home, "CHEMELEON_CACHE": str(tmp_path / "cache"), **changes}


def download(tmp_path: Path, *paths: str, repository: str = REPOSITORY, **changes: str) -> list[str]:
    """What `hub.download` says of each path, in a process of its own, as huggingface_hub reads its settings once."""
    command = [sys.executable, "-c", DOWNLOAD, repository, *paths]
    result = subprocess.run(command, env=environment(tmp_path, **changes), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_files_are_fetched_whole_resumed_checked_and_kept(server: Hub, tmp_path: Path):
    content = {name: name.encode() + os.urandom(300_000) for name in ("whole", "wrong")}
    content["cut"] = b"cut" + os.urandom(24 * 2**20)  # what arrives is written down in pieces of 10 MiB
    server.files |= content
    server.cut["cut"] = 1
    server.announced["wrong"] = hashlib.sha256(b"else").hexdigest()
    server.requests.clear()
    got = download(tmp_path, "whole", "cut", "wrong", "none", HF_ENDPOINT=server.address, HF_TOKEN="hf_secret")
    assert got[0] == str(content["whole"][:20])
    assert got[1] == str(content["cut"][:20])
    assert "the sha256 of the download is not what the Hub announced | try again" in got[2]
    assert "the repository has no such file" in got[3]
    ranges = [asked for method, path, asked, _ in server.requests if (method, path) == ("GET", "cut")]
    assert ranges == [None, f"bytes={10 * 2**20}-"]
    assert {token for _, path, _, token in server.requests if path in content} == {"Bearer hf_secret"}
    kept = {p.name for p in (tmp_path / "hf").rglob("blobs/*")}
    assert kept == {hashlib.sha256(content[name]).hexdigest() for name in ("whole", "cut")}

    server.requests.clear()
    del server.announced["wrong"]
    got = download(tmp_path, "whole", "wrong", HF_ENDPOINT=server.address)
    assert got == [str(content["whole"][:20]), str(content["wrong"][:20])]
    assert not [path for _, path, _, _ in server.requests if path == "whole"], "what is in the cache needs no Hub"
    assert download(tmp_path, "cut", HF_HUB_OFFLINE="1") == [str(content["cut"][:20])]


def test_a_connection_that_is_always_cut_is_said(server: Hub, tmp_path: Path):
    server.files["never"] = b"x"
    server.cut["never"] = 100
    (said,) = download(tmp_path, "never", HF_ENDPOINT=server.address)
    assert "cannot be downloaded" in said and f"download {server.address}/{REPOSITORY}/resolve/main/never" in said
    assert not list((tmp_path / "hf").rglob("*.incomplete"))


def test_without_a_hub_it_is_said_what_to_fetch_and_how_to_name_it(tmp_path: Path):
    path, pair = PUBLISHED["mp_20_ldm_rl"].path, PUBLISHED["mp_20_vae"].path
    addresses = [f"https://huggingface.co/{REPOSITORY}/resolve/main/{p}" for p in (path, pair)]
    (said,) = download(tmp_path, path, HF_HUB_OFFLINE="1")
    assert f"hub:{REPOSITORY}/{path} is not in the cache, and the Hub cannot be reached" in said
    assert f"download {addresses[0]} and {addresses[1]} elsewhere" in said
    assert said.endswith(
        "then chemeleon import-checkpoint ldm_rl_dng_xxq3a0mn.ckpt --vae dng_m4owq4i5_v0.ckpt --out mp_20_ldm_rl, "
        "and use mp_20_ldm_rl"
    )


def test_a_repository_that_is_not_there_is_said(server: Hub, tmp_path: Path):
    (said,) = download(tmp_path, "x.ckpt", repository="some/thing", HF_ENDPOINT=server.address)
    assert "hub:some/thing/x.ckpt: there is no such repository, or it is private" in said


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("hub:mp20_ldm_rl", "did you mean 'hub:mp_20_ldm_rl'?"),
        ("hub:alex_mp_20_vea", "did you mean 'hub:alex_mp_20_vae'?"),
        ("hub:something/else", "there is hub:mp_20_vae, "),
        ("hub:", "or hub:owner/repository/path"),
        ("mp_20_ldm_rl", "did you mean 'hub:mp_20_ldm_rl'?"),
    ],
)
def test_names_are_exact(name: str, hint: str):
    with pytest.raises(UserError, match="no (published )?model") as error:
        find_model(name, "ldm")
    assert hint in error.value.hint


def test_the_six_published_models():
    assert sorted(PUBLISHED) == sorted(
        f"{s}_{k}" for s in ("mp_20", "alex_mp_20") for k in ("vae", "ldm_base", "ldm_rl")
    )
    for name, published in PUBLISHED.items():
        assert published.vae == (None if name.endswith("vae") else f"{name.rpartition('_ldm')[0]}_vae")
        assert published.path.startswith(f"v0.0.1/{name.partition('_ldm')[0].removesuffix('_vae')}/")
    assert published_pair(Path("x/ldm_null_k744ob4i.ckpt")) == "hub:alex_mp_20_vae"
    assert published_pair(Path("dng_m4owq4i5_v0.ckpt")) is None
    assert len(SHARES) == 20 and sum(SHARES) == pytest.approx(1, abs=1e-4)


PREDICTOR = """
reward: {components: [{type: predictor, predictor: hub:some/where/p.ckpt, target_name: band_gap, target_value: 3.0}]}
"""


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        (["sample", "--model", "hub:mp_20_ldm_rl"], ""),
        (["train-rl", "r.yaml", "--set", "model=hub:mp_20_ldm_base"], ""),
        (["train-rl", "r.yaml", "--set", "model=hub:some/where/l.ckpt"], ""),
        (["sample", "--model", "hub:mp_20_ldm_lr"], "did you mean 'hub:mp_20_ldm_"),
        (["sample", "--model", "hub:mp_20_vae"], "hub:mp_20_vae is a checkpoint of kind vae; expected kind ldm"),
    ],
)
@pytest.mark.parametrize("offline", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_a_recipe_is_checked_without_a_connection(
    server: Hub, tmp_path: Path, command: list[str], wrong: str, offline: dict[str, str]
):
    (tmp_path / "r.yaml").write_text(PREDICTOR)
    server.requests.clear()
    result = subprocess.run(
        [sys.executable, "-m", "chemeleon_cli.app", *command, "--dry-run"],
        env=environment(tmp_path, HF_ENDPOINT=server.address, **offline),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, wrong in result.stderr) == (2 if wrong else 0, True), result.stderr
    assert not server.requests
    assert not (tmp_path / "cache").exists() and not (tmp_path / "hf").exists()


def test_a_published_generator_is_sampled_by_its_name(server: Hub, tmp_path: Path):
    """From the Hub to crystals: its autoencoder comes along, and the second run needs no Hub and converts nothing."""
    torch.manual_seed(0)
    vae, dit = files.vae(), files.dit()
    saved = {
        "mp_20_vae": files.save_vae(tmp_path / "v.ckpt", vae),
        "mp_20_ldm_base": files.save_ldm(tmp_path / "l.ckpt", dit, vae),
    }
    server.files |= {PUBLISHED[name].path: path.read_bytes() for name, path in saved.items()}
    command = [sys.executable, "-m", "chemeleon_cli.app", "sample", "--set", "sampling_steps=4", "-n", "6"]
    command += ["--model", "hub:mp_20_ldm_base", "--out", "drawn.cif"]
    online, offline = environment(tmp_path, HF_ENDPOINT=server.address), environment(tmp_path, HF_HUB_OFFLINE="1")
    subprocess.run(command, env=online, cwd=tmp_path, capture_output=True, check=True)
    assert (tmp_path / "drawn.cif").read_text().count("data_") == 6
    again = [sys.executable, "-c", FIND, "hub:mp_20_ldm_base", "ldm"]
    found = subprocess.run(again, env=offline, capture_output=True, text=True, check=True).stdout.strip()
    converted = list((tmp_path / "cache" / "chemeleon2").iterdir())
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in saved.values()]
    assert {p.name[:32] for p in converted} == {digest[:32] for digest in digests}
    assert Path(found) in converted


def test_a_generator_of_another_repository_needs_its_autoencoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    vae = files.vae()
    saved = {"l.ckpt": files.save_ldm(tmp_path / "l.ckpt", files.dit(), vae)}
    saved["v.ckpt"] = files.save_vae(tmp_path / "v.ckpt", vae)
    monkeypatch.setattr(hub, "download", lambda repository, path: saved[path])
    with pytest.raises(UserError, match="its autoencoder is in a file of its own") as error:
        find_model("hub:some/where/l.ckpt", "ldm")
    assert error.value.hint == "chemeleon import-checkpoint l.ckpt --vae FILE --out DIR"
    assert (find_model("hub:some/where/v.ckpt", "vae") / "model.safetensors").is_file()
    with pytest.raises(UserError, match=r"hub:some/where/v\.ckpt is a checkpoint of kind vae; expected kind ldm"):
        find_model("hub:some/where/v.ckpt", "ldm")
    assert len(list((tmp_path / "cache" / "chemeleon2").iterdir())) == 1
