"""Executes a Dockerfile's steps in a root folder, where no container engine runs.

The Dockerfile is the only list of steps: it is parsed (dockerfile-parse), .dockerignore is applied
(by the docker package), each RUN is a process in namespaces of its own below a Debian that mmdebstrap
makes, each COPY a copy. What it cannot do (heredocs, ADD, build secrets, other base images) it
refuses by name. Root and Debian's mmdebstrap are needed; layers, and so the engine's own cache, are not
made.

    python docker/rehearse.py docker/Dockerfile --into out/image     prints the size of what it made
"""
import argparse
import contextlib
import dataclasses
import glob
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import dockerfile_parse
from docker.utils.build import exclude_paths

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUITE = "bookworm"
# What Debian's own slim image leaves out.
SLIM = [f"path-exclude=/usr/share/{d}/*" for d in ("man", "doc", "locale", "groff", "info", "lintian", "linda")]
SLIM.append("path-include=/usr/share/doc/*/copyright")
# Base images that can be made here, and what they have beyond Debian's slim one.
RUST = re.compile(r"rust:(\d+\.\d+)-slim-bookworm")
BASES = {"debian:12-slim": []}
RUST_PACKAGES = ["ca-certificates", "gcc", "libc6-dev"]
RUST_HOME = "/usr/local/cargo"


class CannotRehearse(Exception):
    """This machine or this Dockerfile is not one that can be rehearsed."""


def missing() -> str | None:
    """What this machine lacks, in words."""
    if os.geteuid() != 0:
        return "only root can make namespaces with a Debian in them"
    for tool, package in (("mmdebstrap", "mmdebstrap"), ("unshare", "util-linux"), ("setpriv", "util-linux")):
        if not shutil.which(tool):
            return f"{tool} is not here (Debian: apt-get install {package})"
    probe = ["unshare", "--mount", "--pid", "--net", "--fork", "true"]
    if subprocess.run(probe, capture_output=True).returncode:
        return "this machine does not allow namespaces"
    return None


@dataclasses.dataclass
class Image:
    """A root folder, and how a process is started in it."""

    root: pathlib.Path
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    volumes: list[str] = dataclasses.field(default_factory=list)
    ports: list[str] = dataclasses.field(default_factory=list)
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    entrypoint: list[str] = dataclasses.field(default_factory=list)
    cmd: list[str] = dataclasses.field(default_factory=list)
    healthcheck: list[str] = dataclasses.field(default_factory=list)
    mounts: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def bytes(self) -> int:
        """What its files hold, each once."""
        total, seen = 0, set()
        for folder, _, names in os.walk(self.root):
            for name in names:
                info = os.lstat(os.path.join(folder, name))
                if (info.st_dev, info.st_ino) not in seen:
                    seen.add((info.st_dev, info.st_ino))
                    total += info.st_size
        return total

    def start(self, state: pathlib.Path, words: list[str] | None = None, **env: str) -> subprocess.Popen:
        """Starts it as an engine would: read-only root, /tmp in memory, one volume, its user, no new privileges.

        It has a process and a network namespace of its own, in which there is only the loopback device.
        """
        (volume,) = self.volumes
        root, uid = shlex.quote(str(self.root)), self.user
        words = self.entrypoint + (self.cmd if words is None else words)
        shell = f"""
            set -e
            ip link set lo up
            mount --bind {root} {root}
            mount -o remount,bind,ro {root}
            mount --bind {shlex.quote(str(state))} {root}{volume}
            mount -t tmpfs -o size=64m tmpfs {root}/tmp
            mount -t proc proc {root}/proc
            mount -t tmpfs -o size=1m tmpfs {root}/dev
            for name in null zero urandom; do touch {root}/dev/$name; mount --bind /dev/$name {root}/dev/$name; done
            exec setpriv --no-new-privs chroot --userspec={uid} --groups={uid.split(':')[1]} {root} \\
                 env -i -C {self.workdir} {environment(self.env | env)} {shlex.join(words)}
        """
        return subprocess.Popen(
            ["unshare", "--mount", "--pid", "--net", "--ipc", "--fork", "--kill-child", "bash", "-c", shell],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def environment(env: dict[str, str]) -> str:
    return " ".join(shlex.quote(f"{name}={value}") for name, value in env.items())


def said(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def base(name: str, work: pathlib.Path, into: pathlib.Path) -> Image:
    """A base image, made by mmdebstrap; the plain Debian is kept for the next time."""
    rust = RUST.fullmatch(name)
    if name not in BASES and not rust:
        raise CannotRehearse(f"the image {name} cannot be made here; {', '.join(BASES)} and rust:N-slim-{SUITE} can")
    packages = RUST_PACKAGES if rust else BASES[name]
    archive = work / f"{'rust' if rust else 'debian'}-{SUITE}.tar"
    if not archive.exists():
        said(f"--- {name}: mmdebstrap {SUITE}")
        options = [f"--dpkgopt={line}" for line in SLIM] + ["--aptopt=Acquire::Check-Valid-Until \"false\""]
        options += [f"--include={','.join(packages)}"] if packages else []
        sources = [str(p) for p in sorted(pathlib.Path("/etc/apt/sources.list.d").glob("debian.sources"))]
        made = archive.with_suffix(".part.tar")
        subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", *options, SUITE, str(made), *sources], check=True)
        made.rename(archive)
    into.mkdir(parents=True)
    subprocess.run(["tar", "--extract", "--file", str(archive), "--directory", str(into), "--exclude=./dev/*"], check=True)
    image = Image(into, {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
    if rust:
        # The compiler is this machine's, if it is the same.
        version = subprocess.run(["rustc", "--version"], check=True, capture_output=True, text=True).stdout
        if not version.startswith(f"rustc {rust[1]}."):
            raise CannotRehearse(f"{name} has Rust {rust[1]}, this machine has {version.strip()}")
        sysroot = subprocess.run(["rustc", "--print", "sysroot"], check=True, capture_output=True, text=True)
        image.mounts.append((sysroot.stdout.strip(), "/usr/local/rust"))
        image.env |= {"CARGO_HOME": RUST_HOME, "PATH": f"{RUST_HOME}/bin:/usr/local/rust/bin:{image.env['PATH']}"}
    return image


class Rehearsal:
    """The state of a build between two steps."""

    def __init__(self, dockerfile: pathlib.Path, work: pathlib.Path):
        self.steps = dockerfile_parse.DockerfileParser(fileobj=dockerfile.open("rb")).structure
        self.work = work
        self.stages: dict[str, Image] = {}
        self.image: Image | None = None
        ignore = (ROOT / ".dockerignore").read_text().splitlines()
        patterns = [line.strip() for line in ignore if line.strip() and not line.startswith("#")]
        self.context = sorted(exclude_paths(str(ROOT), patterns))

    def run(self) -> Image:
        for step in self.steps:
            name = step["instruction"]
            if name == "COMMENT":
                continue
            action = getattr(self, f"do_{name.lower()}", None)
            if action is None:
                raise CannotRehearse(f"line {step['startline'] + 1}: {name} is not known here")
            said(f"--- {name} {' '.join(step['value'].split())[:110]}")
            action(step["value"])
        return self.image

    def do_from(self, value: str) -> None:
        words = value.split()
        name = words[2] if len(words) == 3 and words[1].upper() == "AS" else str(len(self.stages))
        self.image = base(words[0], self.work, self.work / f"stage-{name}")
        self.stages[name] = self.image

    def do_run(self, value: str) -> None:
        if "<<" in value:
            raise CannotRehearse("RUN with a heredoc is not known here")
        flags, command = split_flags(value)
        mounts = list(self.image.mounts)
        for mount in flags.get("mount", []):
            options = dict(part.partition("=")[::2] for part in mount.split(","))
            if options.get("type") != "cache":
                raise CannotRehearse(f"RUN --mount={mount} is not known here")
            mounts.append((str(self.cache(options["target"])), options["target"]))
        root = shlex.quote(str(self.image.root))
        lines = ["set -e"]
        for source, target in mounts:
            place = f"{root}{target}"
            lines += [f"mkdir -p {place}", f"mount --bind {shlex.quote(source)} {place}"]
        # How this machine reaches the package registries is no part of the image.
        lines += [f"mount -t tmpfs tmpfs {root}/run", f"touch {root}/etc/resolv.conf",
                  f"mount --bind /etc/resolv.conf {root}/etc/resolv.conf",
                  f"cp -L /etc/ssl/certs/ca-certificates.crt {root}/run/ca.crt",
                  f"mount -t proc proc {root}/proc", f"mount --rbind /dev {root}/dev"]
        env = self.image.env | {"SSL_CERT_FILE": "/run/ca.crt", "PIP_CERT": "/run/ca.crt", "DEBIAN_FRONTEND": "noninteractive",
                                "CARGO_NET_OFFLINE": "true", "PIP_ROOT_USER_ACTION": "ignore"}
        lines.append(f"exec chroot {root} env -i -C {self.image.workdir} {environment(env)} /bin/sh -c {shlex.quote(command)}")
        subprocess.run(["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", "\n".join(lines)],
                       check=True, stdout=sys.stderr)

    def cache(self, target: str) -> pathlib.Path:
        """Where a cache mount lies: crates are this machine's own, the rest is kept beside the image."""
        if target == f"{RUST_HOME}/registry":
            home = pathlib.Path(os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo"))
            subprocess.run(["cargo", "fetch", "--locked"], cwd=ROOT, check=True)
            return home / "registry"
        folder = self.work.parent / "image-cache" / target.strip("/").replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def do_copy(self, value: str) -> None:
        flags, words = split_flags(value)
        *sources, target = json.loads(words) if words.startswith("[") else shlex.split(words)
        place = inside(self.image.root, os.path.join(self.image.workdir, target))
        if target.endswith("/") or len(sources) > 1:
            place.mkdir(parents=True, exist_ok=True)
        for source in sources:
            if "from" in flags:
                (stage,) = flags["from"]
                tree = inside(self.stages[stage].root, source)
                copy(tree, place)
            else:
                self.copy_context(source, place, target.endswith("/"))
        if "chown" in flags:
            subprocess.run(["chown", "-R", flags["chown"][0], str(place)], check=True)

    def copy_context(self, source: str, place: pathlib.Path, folder: bool) -> None:
        prefix = os.path.normpath(source)
        found = [p for p in self.context if prefix == "." or p == prefix or p.startswith(f"{prefix}/")]
        if not found:
            raise CannotRehearse(f"COPY {source}: not in the build context (.dockerignore?)")
        for path in found:
            origin = ROOT / path
            if origin.is_dir():
                continue
            if path == prefix:
                to = place / origin.name if folder or place.is_dir() else place
            else:
                to = place / os.path.relpath(path, prefix)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(origin, to)

    def do_workdir(self, value: str) -> None:
        self.image.workdir = os.path.join(self.image.workdir, value)
        inside(self.image.root, self.image.workdir).mkdir(parents=True, exist_ok=True)

    def do_env(self, value: str) -> None:
        for word in shlex.split(value):
            name, _, text = word.partition("=")
            self.image.env[name] = re.sub(r"\$\{?(\w+)\}?", lambda m: self.image.env.get(m[1], ""), text)

    def do_label(self, value: str) -> None:
        self.image.labels |= dict(word.partition("=")[::2] for word in shlex.split(value))

    def do_user(self, value: str) -> None:
        if not re.fullmatch(r"\d+:\d+", value):
            raise CannotRehearse(f"USER {value}: numbers are wanted, so that runAsNonRoot can be checked")
        self.image.user = value

    def do_volume(self, value: str) -> None:
        self.image.volumes += value.split()

    def do_expose(self, value: str) -> None:
        self.image.ports += value.split()

    def do_healthcheck(self, value: str) -> None:
        self.image.healthcheck = json.loads(value.partition("CMD")[2])

    def do_entrypoint(self, value: str) -> None:
        self.image.entrypoint = json.loads(value)

    def do_cmd(self, value: str) -> None:
        self.image.cmd = json.loads(value)


def split_flags(value: str) -> tuple[dict[str, list[str]], str]:
    """`--name=value` in front, then the rest."""
    flags: dict[str, list[str]] = {}
    while found := re.match(r"\s*--([a-z]+)=(\S+)\s*(?:\\\n)?", value):
        flags.setdefault(found[1], []).append(found[2])
        value = value[found.end():]
    return flags, value.strip()


def inside(root: pathlib.Path, path: str) -> pathlib.Path:
    return root / os.path.normpath(path).lstrip("/")


def copy(tree: pathlib.Path, place: pathlib.Path) -> None:
    if not glob.glob(str(tree)):
        raise CannotRehearse(f"COPY --from: {tree} is not there")
    if tree.is_dir():
        shutil.copytree(tree, place, symlinks=True, dirs_exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(tree, place, follow_symlinks=False)


def rehearse(dockerfile: pathlib.Path, work: pathlib.Path) -> Image:
    """Executes `dockerfile` below `work`, whose earlier stages are removed first."""
    if lack := missing():
        raise CannotRehearse(lack)
    work.mkdir(parents=True, exist_ok=True)
    for stage in work.glob("stage-*"):
        shutil.rmtree(stage)
    return Rehearsal(dockerfile, work).run()


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("dockerfile", type=pathlib.Path)
    words.add_argument("--into", type=pathlib.Path, default=ROOT / "out" / "image")
    asked = words.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        try:
            image = rehearse(asked.dockerfile, asked.into.resolve())
        except CannotRehearse as reason:
            print(f"cannot be rehearsed: {reason}", file=sys.stderr)
            return 1
        print(f"{image.root}: {image.bytes() / 1e6:.0f} MB")
        return 0
    return 130


if __name__ == "__main__":
    sys.exit(main())
