#compdef wanpair
# Completion of wanpair for zsh, made from the command line by go generate ./cmd/wanpair. Do not edit.

_wanpair() {
    local -a names=(
        'gateway:Run one side in the foreground. SIGTERM drains and exits 0, SIGHUP reloads.'
        'check:Check a configuration and print what would be done.'
        'status:Show the state of a running gateway on one page.'
        'top:Watch a running gateway\: its flows, sorted and filtered, live.'
        'doctor:Look for what keeps a gateway from working\: this host, the way to the peers, the running gateway.'
        'cache:Look at the cache on disk, check it, fill it.'
        'keygen:Make a private key and print its public key.'
        'pubkey:Print the public key of the private key on standard input.'
        'version:Print version, commit, Go and protocol.'
    )
    if (( CURRENT == 2 )); then
        _describe command names
        return
    fi
    local name=$words[2]
    shift words; (( CURRENT-- ))
    case $name in
    gateway) _wanpair_gateway ;;
    check) _wanpair_check ;;
    status) _wanpair_status ;;
    top) _wanpair_top ;;
    doctor) _wanpair_doctor ;;
    cache) _wanpair_cache ;;
    keygen) _wanpair_keygen ;;
    pubkey) _wanpair_pubkey ;;
    version) _wanpair_version ;;
    esac
}

_wanpair_gateway() {
    _arguments -s \
        '--help[Show context-sensitive help.]' \
        '-h[Show context-sensitive help.]' \
        '--config[Configuration file.]:FILE:_files' \
        '-c[Configuration file.]:FILE:_files' \
        ':'
}

_wanpair_check() {
    _arguments -s \
        '--help[Show context-sensitive help.]' \
        '-h[Show context-sensitive help.]' \
        '--config[Configuration file.]:FILE:_files' \
        '-c[Configuration file.]:FILE:_files' \
        '--file-only[Check the file only, not this host.]' \
        ':'
}

_wanpair_status() {
    _arguments -s \
        '--help[Show context-sensitive help.]' \
        '-h[Show context-sensitive help.]' \
        '--config[Ask the gateway of this configuration.]:FILE:_files' \
        '-c[Ask the gateway of this configuration.]:FILE:_files' \
        '--stats[Ask the stats endpoint at this address (default 127.0.0.1\:9460).]:ADDR:' \
        '--token[Bearer token, where the endpoint asks for one and no configuration is given.]:TOKEN:' \
        '--json[Print the document of /api/v1/stats as it is.]' \
        ':'
}

_wanpair_top() {
    _arguments -s \
        '--help[Show context-sensitive help.]' \
        '-h[Show context-sensitive help.]' \
        '--config[Ask the gateway of this configuration.]:FILE:_files' \
        '-c[Ask the gateway of this configuration.]:FILE:_files' \
        '--stats[Ask the stats endpoint at this address (default 127.0.0.1\:9460).]:ADDR:' \
        '--token[Bearer token, where the endpoint asks for one and no configuration is given.]:TOKEN:' \
        '--interval[Time between two looks, at least 200ms.]:1s:' \
        '--sort[Column to sort by\: now,lan,wan,gain,age,id,source,destination.]:now:' \
        '--filter[Show only flows with this in an address, port or class.]:TEXT:' \
        '-f[Show only flows with this in an address, port or class.]:TEXT:' \
        '--once[Print one page and end, also done when the output is no terminal.]' \
        ':'
}

_wanpair_doctor() {
    _arguments -s \
        '--help[Show context-sensitive help.]' \
        '-h[Show context-sensitive help.]' \
        '--config[Configuration file.]:FILE:_files' \
        '-c[Configuration file.]:FILE:_files' \
        '--verbose[Also print what was looked at and right.]' \
        '-v[Also print what was looked at and right.]' \
        '--json[Print the findings as JSON.]' \
        ':'
}

_wanpair_cache() {
    local -a names=(
        'info:Show what the cache holds, per peer. The gateway may be running.'
        'verify:Read everything in the cache and compare it with its checksums. The gateway must not be running.'
        'warm:Send files through the tunnel once, so that both sites have them before they are asked for.'
    )
    if (( CURRENT == 2 )); then
        _describe command names
        return
    fi
    local name=$words[2]
    shift words; (( CURRENT-- ))
    case $name in
    info) _wanpair_cache_info ;;
    verify) _wanpair_cache_verify ;;
    warm) _wanpair_cache_warm ;;
    esac
}

_wanpair_cache_info() {
    _arguments -s \
        '--help[Show context-sensitive help.]' \
        '-h[Show context-sensitive help.]' \
        '--config[Configuration file.]:FILE:_files' \
        '-c[Configuration file.]:FILE:_files' \
        ':'
}

_wanpair_cache_verify() {
    _arguments -s \
        '--help[Show context-sensitive help.]' \
        '-h[Show context-sensitive help.]' \
        '--config[Configuration file.]:FILE:_files' \
        '-c[Configuration file.]:FILE:_files' \
        ':'
}

_wanpair_cache_warm() {
    _arguments -s \
        '--help[Show context-sensitive help.]' \
        '-h[Show context-sensitive help.]' \
        '--config[Configuration file of the gateway that runs on this host.]:FILE:_files' \
        '-c[Configuration file of the gateway that runs on this host.]:FILE:_files' \
        '--peer[Peer to warm the cache with, where there are several.]:NAME:' \
        '*:file:_files'
}

_wanpair_keygen() {
    _arguments -s \
        '--help[Show context-sensitive help.]' \
        '-h[Show context-sensitive help.]' \
        '--output[Write the private key to this file, with mode 0600. An existing file is never overwritten.]:FILE:_files' \
        '-o[Write the private key to this file, with mode 0600. An existing file is never overwritten.]:FILE:_files' \
        ':'
}

_wanpair_pubkey() {
    _arguments -s \
        '--help[Show context-sensitive help.]' \
        '-h[Show context-sensitive help.]' \
        ':'
}

_wanpair_version() {
    _arguments -s \
        '--help[Show context-sensitive help.]' \
        '-h[Show context-sensitive help.]' \
        ':'
}

_wanpair "$@"
