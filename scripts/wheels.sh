# Where PyTorch's CPU wheels come from; sourced by scripts/install and scripts/lock.

# Set UV_FIND_LINKS from what pip was told (uv does not read pip's settings), else from PyTorch's own page.
wheels_for_torch() {
    links=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$(.venv/bin/pip config get global.find-links 2>/dev/null || true)}}
    links=$(printf '%s' "$links" | tr -s ' \n' ',,')
    wanted=yes
    for place in $(printf '%s' "$links" | tr ',' ' '); do
        case $place in
        http://* | https://*) wanted= ;; # an operator's mirror is trusted to be complete
        *) for wheel in "${place#file://}"/torch-*+cpu*.whl "${place#file://}"/torch-*%2Bcpu*.whl; do
            [ ! -f "$wheel" ] || wanted=
        done ;;
        esac
    done
    [ -z "$wanted" ] || links=${links:+$links,}https://download.pytorch.org/whl/cpu/torch/
    export UV_FIND_LINKS="$links"
}
