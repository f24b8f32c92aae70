package config

import "strings"

// Key describes one key of the file. The list of all keys is the one source for docs/configuration.md and for the examples in messages.
type Key struct {
	Name    string // dotted, such as "peer.subnets"
	Kind    string // what the value is, in words
	Default string // as written in the file; "" when the key must be given, "unset" when leaving it out means something of its own
	Example string // as written in the file
	Text    string // what it means, with units and limits
}

// Section describes one section of the file.
type Section struct {
	Name   string
	Header string // as written in the file
	Text   string
}

// Sections lists the sections in the order of the documentation.
func Sections() []Section {
	return []Section{
		{"site", "[site]", "Names this side of the link. Required."},
		{"cache", "[cache]", "The history both sites share. Every key has a default, but the size and the memory deserve a thought."},
		{"tunnel", "[tunnel]", "The UDP side of the gateway."},
		{"peer", "[[peer]]", "One section per other site. At least one is required."},
		{"intercept", "[intercept]", "The transparent gateway. Leave the section out where only forwards or SOCKS5 are wanted; then neither root nor a place in the route is needed."},
		{"egress", "[egress]", "How this side dials targets for its peers."},
		{"forward", "[[forward]]", "One section per local port that leads to one target behind a peer. Needs no root."},
		{"socks", "[socks]", "A SOCKS5 listener: each connection goes to the peer that owns its target. Needs no root."},
		{"class", "[[class]]", "Treats some flows differently. The first class that matches a flow counts; flows that match none are accelerated."},
		{"limits", "[limits]", "Bounds on what the gateway takes on. Beyond them connections pass unaccelerated."},
		{"stats", "[stats]", "The HTTP endpoint with the dashboard, the JSON documents and the metrics."},
		{"log", "[log]", "What is written to standard error and to the flow log."},
	}
}

// Reference lists all keys in the order of the documentation.
func Reference() []Key {
	return []Key{
		{"site.name", "text", "", `"ams"`, "This site's name, at most 64 of a-z, 0-9, dot, dash and underscore. It is sent to the peers and stands in metrics and logs."},
		{"site.private_key_file", "path", "", `"/etc/wanpair/private.key"`, "The private key as `wanpair keygen -o FILE` writes it. The file must be accessible to its owner only."},

		{"cache.dir", "path", `"/var/lib/wanpair"`, `"/var/lib/wanpair"`, "Where the history is kept. The directory is made if it is missing, and belongs to one gateway at a time."},
		{"cache.key_file", "path", "unset", `"/run/credentials/wanpair/cache.key"`, "Encrypts the history on disk (AES-256-GCM) with the key in this file, which `wanpair keygen -o FILE` makes; the file must be accessible to its owner only. It protects a disk that gets into other hands without the file, so keep it elsewhere. With another key, or without one, the cache begins anew. Unset: in clear."},
		{"cache.size", "size", `"16GiB"`, `"64GiB"`, "Disk space for the histories of all peers together, as `du` counts; 16MiB to 1TiB per peer. Room for a week of changed data is a good start."},
		{"cache.memory", "size", `"1GiB"`, `"2GiB"`, "Memory for the index, the hot and open blocks, the compression contexts and the store's process; not the page cache. At least 32MiB per peer and at least 1/2048 of the size; with less than 1/16 the anchors are set wider apart, which costs some of the gain: `wanpair check` says how much."},

		{"tunnel.listen", "address and port", `"0.0.0.0:4600"`, `"0.0.0.0:4600"`, "The UDP address peers reach this gateway at; `[::]` serves IPv6 and IPv4, `0.0.0.0` IPv4 alone. Open it in the firewall."},
		{"tunnel.bandwidth", "rate", "unset", `"100mbit"`, "A ceiling for what is sent to all peers together, in UDP payload with all overhead and repeats; at least 64kbit. It holds over any second. Unset: the rate of the link is found out."},
		{"tunnel.dscp", "number", "0", "18", "The differentiated services code point of the tunnel's packets, 0 to 63."},
		{"tunnel.lanes", "number", "4", "4", "QUIC connections per peer, 1 to 16. More lanes use more processors and more of the paths a provider balances over."},
		{"tunnel.governor", "true or false", "true", "true", "Whether the congestion window follows the measured bottleneck rate. With false quic-go's own loss-based control is used, which collapses on lossy links."},

		{"peer.name", "text", "", `"nyc"`, "The peer's name, written as site.name. It stands in metrics and logs."},
		{"peer.public_keys", "list of texts", "", `["WDhMCjPUzyzxxgQqjkQFe/H1TUmLEYsqp4AUG/m1FXc="]`, "The keys `wanpair keygen` or `wanpair pubkey` printed at the peer. More than one while keys are rotated; any of them is accepted."},
		{"peer.endpoints", "list of texts", "[]", `["198.51.100.7:4600"]`, "Where the peer's boxes listen, host and UDP port. May be left out on one of the two sides, which then waits to be dialled."},
		{"peer.subnets", "list of prefixes", "", `["10.2.0.0/16", "fd00:2::/64"]`, "The hosts behind the peer. Connections to them are accelerated, and only they may be named as source by the peer. They must not overlap this site's or another peer's."},

		{"intercept.interfaces", "list of texts", "", `["lan0"]`, "The interfaces local hosts' connections arrive on."},
		{"intercept.subnets", "list of prefixes", "", `["10.1.0.0/16", "fd00:1::/64"]`, "The hosts of this site: only their connections are intercepted, and only they may be dialled for the peers."},
		{"intercept.pass_ports", "list of numbers", "[]", "[22]", "Destination ports that are never intercepted."},

		{"egress.source", "text", "unset", `"own"`, "From which address targets are dialled: \"client\" as the client itself, so that the server sees it, or \"own\" from the gateway's address, where the way back cannot be led through the gateway. Unset: client for intercepted connections, own for forwards and SOCKS5."},
		{"egress.allow", "list of prefixes", "[]", `["10.2.0.0/16"]`, "What peers may dial here when there is no [intercept] section."},

		{"forward.listen", "address and port", "", `"127.0.0.1:5433"`, "The local TCP address."},
		{"forward.peer", "text", "", `"nyc"`, "The name of the peer the target is behind."},
		{"forward.target", "host and port", "", `"10.2.0.15:5432"`, "What the peer dials. A name is resolved by the peer. The address must lie in the peer's subnets."},

		{"socks.listen", "address and port", "", `"127.0.0.1:1080"`, "The local TCP address."},
		{"socks.allow", "list of prefixes", "[]", `["10.1.0.0/16"]`, "Clients that may use it. Loopback always may; when it listens beyond loopback the list must not be empty."},

		{"class.name", "text", "", `"voice"`, "The class's name, written as site.name."},
		{"class.ports", "list of numbers and ranges", "[]", `[5060, "16384-32767"]`, "Destination ports. Empty: all."},
		{"class.subnets", "list of prefixes", "[]", `["10.1.9.0/24"]`, "Source or destination. Empty: all."},
		{"class.action", "text", `"accelerate"`, `"relay"`, "\"accelerate\" is the full treatment, \"relay\" carries the flow through the tunnel without deduplication, \"pass\" leaves the connection alone."},
		{"class.history", "text", `"on"`, `"off"`, "\"off\" keeps the class's flows out of the history, in both directions: nothing of them is stored, and nothing they send is looked up in what others sent; they are only compressed. For tenants who must not learn from the timing what others sent. \"own\" keeps them apart as well, but lets the class gain from its own past: what its flows sent is found by flows of the class of this name only, on both sides and in both directions; the disk is shared, and what `wanpair cache warm` sent ahead is not found by them. The side that a connection comes from decides, so set it on both."},
		{"class.share", "number", "unset", "20", "Per cent of the bandwidth the class gets when flows compete, 1 to 100; all shares together at most 100. What a class does not use, the others have. It rules what this side sends; the other side goes by its own class of the same name or, where it has none, by its own ports and subnets. Unset: what is left, at least 1 per cent, together with all other flows."},

		{"limits.flows", "number", "10000", "10000", "Connections accelerated at the same time over all peers, 1 to 1000000."},
		{"limits.memory", "size", `"512MiB"`, `"512MiB"`, "What all flows together may have received and not yet delivered; as much again may be kept of frames sent and not acknowledged, and a quarter of it of their raw bytes, to supply what the other side misses. At least 32KiB per flow of limits.flows. Half of it is kept for as many flows as limits.flows allows: each may be sent 16KiB to 64KiB before its reader has said anything. Peers have equal parts of it: `wanpair check` says how many flows one may open here; further connections of that peer pass raw there."},
		{"limits.hold", "duration", `"120s"`, `"120s"`, "How long connections survive a lost link before they are reset, at most 1h. 0s: they end with the link."},

		{"stats.listen", "address and port", `"127.0.0.1:9460"`, `"127.0.0.1:9460"`, "The TCP address. Beyond loopback stats.allow or stats.token must be given."},
		{"stats.allow", "list of prefixes", "[]", `["10.1.0.0/24"]`, "Clients that may ask. Loopback always may."},
		{"stats.token", "text", "unset", `"a-long-random-text"`, "At least 16 characters that clients beyond loopback must send as bearer token."},

		{"log.level", "text", `"info"`, `"debug"`, "The least important lines written: \"debug\" (every flow), \"info\" (every change of state), \"warn\" or \"error\"."},
		{"log.format", "text", `"text"`, `"json"`, "\"text\" or \"json\"."},
		{"log.flow_file", "path", "unset", `"/var/log/wanpair/flows.jsonl"`, "A file that gets one line of JSON per ended flow. Unset: none."},
		{"log.flow_file_size", "size", `"100MiB"`, `"100MiB"`, "The flow log is rotated at this size, at least 1MiB; one old file is kept."},
	}
}

// Reload says whether the key is taken over at SIGHUP; others need a restart. See Config.Reload.
func (k Key) Reload() bool {
	switch k.Name {
	case "peer.public_keys", "intercept.pass_ports", "limits.flows", "log.level":
		return true
	}
	return strings.HasPrefix(k.Name, "class.")
}

// lookup returns the reference of a key.
func lookup(name string) (Key, bool) {
	for _, k := range Reference() {
		if k.Name == name {
			return k, true
		}
	}
	return Key{}, false
}
