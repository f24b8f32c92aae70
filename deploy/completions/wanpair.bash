# Completion of wanpair for bash, made from the command line by go generate ./cmd/wanpair. Do not edit.
_wanpair() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= words= files= i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$command ${COMP_WORDS[i]}" in
        ' gateway') command='gateway' ;;
        ' check') command='check' ;;
        ' status') command='status' ;;
        ' top') command='top' ;;
        ' doctor') command='doctor' ;;
        ' cache') command='cache' ;;
        'cache info') command='cache info' ;;
        'cache verify') command='cache verify' ;;
        'cache warm') command='cache warm' ;;
        ' keygen') command='keygen' ;;
        ' pubkey') command='pubkey' ;;
        ' version') command='version' ;;
        esac
    done
    case $prev in
    --config|--output|-c|-o) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    --filter|--interval|--peer|--sort|--stats|--token|-f) COMPREPLY=(); return ;;
    esac
    case $command in
    '') words='gateway check status top doctor cache keygen pubkey version --help' ;;
    'gateway') words='--help -h --config -c' ;;
    'check') words='--help -h --config -c --file-only' ;;
    'status') words='--help -h --config -c --stats --token --json' ;;
    'top') words='--help -h --config -c --stats --token --interval --sort --filter -f --once' ;;
    'doctor') words='--help -h --config -c --verbose -v --json' ;;
    'cache') words='info verify warm --help -h' ;;
    'cache info') words='--help -h --config -c' ;;
    'cache verify') words='--help -h --config -c' ;;
    'cache warm') words='--help -h --config -c --peer' files=1 ;;
    'keygen') words='--help -h --output -o' ;;
    'pubkey') words='--help -h' ;;
    'version') words='--help -h' ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    if [[ $files && $cur != -* ]]; then
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _wanpair wanpair
