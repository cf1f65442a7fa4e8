"""Runs in the engine's environment: an engine's command line as JSON on stdin, vLLM's routes out.

The application is built by vLLM's own code for the flags of that line; no model is loaded.
"""

import json
import sys

from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

line = json.loads(sys.stdin.read())
arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(line)
arguments.middleware = []  # ours answers for vLLM; here vLLM is asked itself
routes = {
    f"{method} {route.path}"
    for route in build_app(arguments, ("generate",)).routes
    for method in getattr(route, "methods", None) or {"MOUNT"}
}
print(json.dumps(sorted(routes)))
