package policy

import (
	"fmt"
	"strings"
)

// Reason says why a connection is not accelerated, or not fully. Numbers and names are used by other programs: one is never given a new meaning.
type Reason uint8

// The reasons. Add new ones at the end, with a row in Reasons.
const (
	None           Reason = 0 // accelerated
	PeerDown       Reason = 1
	PeerConnecting Reason = 2
	PassPort       Reason = 3
	ClassPass      Reason = 4
	FlowLimit      Reason = 5
	MemoryLimit    Reason = 6
	OwnAddress     Reason = 7
	Encrypted      Reason = 8
	Compressed     Reason = 9
	Overload       Reason = 10
	Refused        Reason = 11
	ClassRelay     Reason = 12
	NoPeer         Reason = 13
	ForeignSource  Reason = 14
	Draining       Reason = 15
	CacheOff       Reason = 16
	PeerLimit      Reason = 17
	InterceptFault Reason = 18
	ClassHistory   Reason = 19

	lastReason = ClassHistory
)

// Explanation is one row of the table of reasons, the one source for documentation, metric labels and messages.
type Explanation struct {
	Reason Reason
	Name   string // label in metrics: a-z and underscore
	Action Action // what happens to the connection
	Text   string // what it means, as half a sentence
	Remedy string // what the operator can do
}

// Reasons lists all reasons but None, in the order of their numbers.
func Reasons() []Explanation {
	return []Explanation{
		{PeerDown, "peer_down", Pass, "the peer cannot be reached", "Look at `wanpair status` on both sides: is the other gateway running, is UDP to its port open, do the keys match? Connections are accelerated again by themselves once the peer is back."},
		{PeerConnecting, "peer_connecting", Pass, "the link to the peer is being set up", "Nothing, when it lasts a few seconds. Otherwise treat it like peer_down."},
		{PassPort, "pass_port", Pass, "the destination port is listed in intercept.pass_ports", "Take the port off the list if its connections should be accelerated."},
		{ClassPass, "class_pass", Pass, "a [[class]] with action \"pass\" matches", "Change the class if its connections should be accelerated."},
		{FlowLimit, "flow_limit", Pass, "limits.flows connections are already accelerated", "Raise limits.flows, with limits.memory to match, if the machine has room."},
		{MemoryLimit, "memory_limit", Pass, "limits.memory has no room for one more connection", "Raise limits.memory if the machine has it. Many stalled readers also cause it: look for flows whose reader does not take its data."},
		{OwnAddress, "own_address", Pass, "the connection comes from or goes to a gateway itself", "Nothing: gateways never accelerate their own connections."},
		{Encrypted, "encrypted", Relay, "the application encrypts its data, so there is nothing to find again or to compress", "Where the data may be read by the gateways, let the application speak in the clear inside the tunnel, which encrypts by itself: `sslmode=disable`, `http`, SMB without encryption."},
		{Compressed, "compressed", Relay, "the data is compressed already and does not repeat", "Often nothing. If the sender can be told not to compress (backups, HTTP bodies, SSH), wanpair will find what repeats and compress the rest."},
		{Overload, "overload", Pass, "the gateway cannot keep up: it waits 100 ms and more for a processor, or has no descriptors left for more connections", "Look at the processor load and at encoder_queue_seconds. Give the machine more cores, or let classes of little gain pass. For descriptors raise LimitNOFILE of the service."},
		{Refused, "refused", Pass, "the server refused a connection a moment ago, so that the next one should meet its real answer", "Look at the server: it refuses connections from the other site. The bypass ends by itself once it accepts again."},
		{ClassRelay, "class_relay", Relay, "a [[class]] with action \"relay\" matches", "Change the class if its connections should be deduplicated and compressed."},
		{NoPeer, "no_peer", Pass, "the destination is in no peer's subnets", "Add the subnet to the peer it belongs to, on both sides."},
		{ForeignSource, "foreign_source", Pass, "the client is not in intercept.subnets", "Add the subnet to intercept.subnets here and to the peer's subnets on the other side."},
		{Draining, "draining", Pass, "one of the two gateways is stopping", "Nothing: connections are accelerated again once it is back."},
		{CacheOff, "cache_off", Relay, "the cache on disk cannot be used: what was seen before is only found as far as it is in memory", "Look at the log for the store's error: a full or broken disk. It is tried again every minute."},
		{PeerLimit, "peer_limit", Pass, "the peer has no room for one more connection", "Raise limits.flows and limits.memory on the other side."},
		{InterceptFault, "intercept_fault", Pass, "intercepted connections do not reach the gateway, so interception was switched off", "Run `wanpair doctor`: a firewall rule or sysctl swallows the diverted packets. It is tried again by itself."},
		{ClassHistory, "class_history", Compress, "a [[class]] with history \"off\" matches", "Nothing, where a tenant is to be kept apart. Otherwise take the key out of the class."},
	}
}

// Explain returns the row of a reason. For None and unknown numbers, which a newer peer may send, it returns one that says so.
func (r Reason) Explain() Explanation {
	for _, e := range Reasons() {
		if e.Reason == r {
			return e
		}
	}
	if r == None {
		return Explanation{Name: "none", Text: "accelerated"}
	}
	return Explanation{Reason: r, Name: "unknown", Action: Pass, Text: fmt.Sprintf("reason %d, which this version does not know", uint8(r))}
}

// Named returns the reason of a name.
func Named(name string) (Reason, bool) {
	for _, e := range Reasons() {
		if e.Name == name {
			return e.Reason, true
		}
	}
	return None, false
}

// String returns the reason's name.
func (r Reason) String() string { return r.Explain().Name }

// Markdown writes the table of reasons for the documentation.
func Markdown() string {
	var b strings.Builder
	b.WriteString(`# Why a connection is not accelerated

Every connection that is not accelerated, or not fully, carries one of these reasons: in the flow list of the dashboard, in ` + "`/api/v1/flows`" + `, in the flow log and
as the label ` + "`reason`" + ` of ` + "`wanpair_flows_passed_total`" + `. Numbers and names never change their meaning.

*pass*: the connection goes its way as if wanpair were not there. *relay*: it goes through the tunnel, which still speeds up a long or lossy link, but its data is
not deduplicated. *compress*: it goes through the tunnel and is compressed, but has no part in the history.

This page is made from the table in ` + "`accel/policy`" + ` by ` + "`go generate ./accel/policy`" + `.

| number | name | what happens | meaning | what to do |
|---|---|---|---|---|
`)
	for _, e := range Reasons() {
		fmt.Fprintf(&b, "| %d | `%s` | %s | %s | %s |\n", e.Reason, e.Name, e.Action, e.Text, e.Remedy)
	}
	return b.String()
}
