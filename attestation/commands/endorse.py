"""`tacit endorse`: fetch collateral, take it from saved answers, bundle it for an air gap."""

from __future__ import annotations

import argparse
from pathlib import Path

from attestation.commands import endorse_gpu, files
from attestation.commands.files import Commands
from attestation.errors import ConfigError
from attestation.pcs import Authority


def register(commands: Commands) -> None:
    """Add `endorse fetch|import|gpu|gpu-evidence|bundle`."""
    parser = commands.add_parser("endorse", help="keep what Intel and NVIDIA say about machines")
    acts = parser.add_subparsers(dest="act", required=True, metavar="ACT")

    fetch = acts.add_parser("fetch", help="fetch collateral from a PCCS or from Intel's service")
    fetch.add_argument("url", metavar="URL", help="such as https://pccs.example:8081")
    fetch.add_argument("--quote", type=Path, metavar="FILE", help="whose platform it is for")
    fetch.add_argument("--fmspc", metavar="HEX", help="instead of --quote, with --ca")
    fetch.add_argument("--ca", choices=("platform", "processor"), default="platform")
    fetch.add_argument("--update", choices=("standard", "early"), default="standard")
    fetch.add_argument("--tls-ca", type=Path, metavar="PEM", help="whom the PCCS must be known to")
    fetch.add_argument("--to", type=Path, required=True, metavar="DIR")
    files.add_json(fetch)
    fetch.set_defaults(run=run_fetch)

    take = acts.add_parser("import", help="assemble four answers saved with `curl --include`")
    for name in ("tcb", "qe-identity", "pck-crl", "root-crl"):
        take.add_argument(f"--{name}", type=Path, required=True, metavar="FILE")
    take.add_argument("--to", type=Path, required=True, metavar="FILE")
    files.add_json(take)
    take.set_defaults(run=run_import)

    endorse_gpu.register(acts)

    bundle = acts.add_parser("bundle", help="sign a directory of collateral until a day")
    bundle.add_argument("out", type=Path, metavar="OUT")
    bundle.add_argument("--from", dest="source", type=Path, required=True, metavar="DIR")
    bundle.add_argument("--expires", type=files.moment, required=True, metavar="TIME")
    bundle.add_argument("--key", type=Path, required=True, metavar="PEM", help="`tacit keygen`")
    files.add_json(bundle)
    bundle.set_defaults(run=run_bundle)


def run_fetch(arguments: argparse.Namespace) -> int:
    """Write `<fmspc>-<ca>.json`, whole or not at all."""
    from attestation.pccs import Pccs
    from attestation.tdx.quote import collateral_key

    if (arguments.quote is None) == (arguments.fmspc is None):
        raise ConfigError("argument-invalid", "give either --quote or --fmspc")
    key = f"{arguments.fmspc}-{arguments.ca}"
    if arguments.quote is not None:
        key = collateral_key(files.read(arguments.quote))
    authority = files.authority(arguments.tls_ca)
    fmspc, _, authority_name = key.partition("-")
    ca: Authority = "platform" if authority_name == "platform" else "processor"
    pccs = Pccs(arguments.url, authority, update=arguments.update)
    path = arguments.to / f"{key}.json"
    files.write(path, pccs.collateral(fmspc=fmspc, ca=ca))
    return files.told(arguments, file=str(path))


def run_import(arguments: argparse.Namespace) -> int:
    """Assemble collateral from answers that somebody carried here."""
    from attestation.pcs import Answers, Response

    def saved(path: Path) -> Response:
        return Response.parse(files.read(path), what=path.name)

    answers = Answers(
        tcb=saved(arguments.tcb),
        qe_identity=saved(arguments.qe_identity),
        pck_crl=saved(arguments.pck_crl),
        root_crl=saved(arguments.root_crl),
    )
    files.write(arguments.to, answers.collateral())
    return files.told(arguments, file=str(arguments.to))


def run_bundle(arguments: argparse.Namespace) -> int:
    """Bundle every collateral file of a directory, and NVIDIA's store where there is one."""
    from attestation.bundle import build_bundle, is_bundle_file
    from attestation.dsse import private_key

    now = files.now()
    if arguments.expires <= now:
        raise ConfigError("argument-invalid", "--expires lies in the past")
    try:
        names = sorted(p.name for p in arguments.source.iterdir() if is_bundle_file(p.name))
    except OSError as error:
        raise ConfigError("file-unreadable", f"{arguments.source}: {error.strerror}") from None
    if not names:
        raise ConfigError("argument-invalid", "--from holds no <fmspc>-<platform|processor>.json")
    held = {name: files.read(arguments.source / name) for name in names}
    key = private_key(files.read(arguments.key), name=arguments.key.name)
    data = build_bundle(held, signer=key, created_at=now, expires_at=arguments.expires)
    files.write(arguments.out, data)
    return files.told(arguments, file=str(arguments.out), holds=names)
