#!/bin/sh
# keepalived's check on the gateway box: 0 while wanpair says that it is well.
#
#   check-wanpair.sh [ADDRESS:PORT]
#
# ADDRESS:PORT is [stats] listen in wanpair.toml. A process that is stopped, hangs or reports itself sick fails. Cables and the
# neighbour's power are not asked for here: keepalived sees its interfaces itself, and the neighbour's silence too.
exec curl --fail --silent --output /dev/null --max-time 1 --noproxy '*' "http://${1:-127.0.0.1:9460}/healthz"
