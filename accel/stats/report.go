package stats

import (
	"time"

	"wanpair/accel/policy"
)

// Report is the document of /api/v1/stats.
type Report struct {
	Site          string  `json:"site"`
	Version       string  `json:"version"`
	UptimeSeconds float64 `json:"uptime_seconds"`
	Health        string  `json:"health"` // "ok" or what is wrong, in one line
	Ready         string  `json:"ready"`  // likewise

	Peers []PeerReport `json:"peers"`
	Cache CacheReport  `json:"cache"`

	FlowsActive int               `json:"flows_active"`
	FlowsTotal  map[string]uint64 `json:"flows_total"` // by outcome
	FlowsPassed []PassedReport    `json:"flows_passed"`

	EncoderQueueSeconds float64 `json:"encoder_queue_seconds"`
	CreditBytes         int64   `json:"credit_bytes"`
	CreditCapacityBytes int64   `json:"credit_capacity_bytes"`
}

// PeerReport is one peer in a Report. The twins ending in 60s say of the last minute what the others say since the start or of the last second.
type PeerReport struct {
	Name         string  `json:"name"`
	State        State   `json:"state"`
	Detail       string  `json:"detail,omitempty"`
	StateSeconds float64 `json:"state_seconds"`
	Software     string  `json:"software,omitempty"`

	RTTSeconds       float64 `json:"rtt_seconds"`
	LossRatio        float64 `json:"loss_ratio"`
	Lanes            int     `json:"lanes"`
	ClockSkewSeconds float64 `json:"clock_skew_seconds"`

	LAN         Traffic `json:"lan_bytes"`
	WAN         Traffic `json:"wan_bytes"`
	ResentBytes uint64  `json:"resent_bytes"`

	Throughput    Throughput `json:"throughput_bits_per_second"`
	Throughput60s Throughput `json:"throughput_bits_per_second_60s"`

	DedupeRatio       *float64 `json:"dedupe_ratio"`    // (matched + literal) / literal of what was sent
	ReductionRatio    *float64 `json:"reduction_ratio"` // LAN sent / WAN sent
	DedupeRatio60s    *float64 `json:"dedupe_ratio_60s"`
	ReductionRatio60s *float64 `json:"reduction_ratio_60s"`

	// The same of what was received.
	ReceivedDedupeRatio       *float64 `json:"received_dedupe_ratio"`
	ReceivedReductionRatio    *float64 `json:"received_reduction_ratio"`
	ReceivedDedupeRatio60s    *float64 `json:"received_dedupe_ratio_60s"`
	ReceivedReductionRatio60s *float64 `json:"received_reduction_ratio_60s"`

	Gain struct {
		Sent     Gain `json:"sent"`
		Received Gain `json:"received"`
	} `json:"gain"`

	Classes []Class `json:"classes,omitempty"` // that share the link

	FlowsActive int    `json:"flows_active"`
	FlowsHeld   int    `json:"flows_held"`
	HitAgeBytes uint64 `json:"hit_age_bytes"` // how far behind the newest bytes what was found of late lies
	MissRepairs uint64 `json:"cache_miss_repairs"`
	FrameErrors uint64 `json:"frame_errors"`
	ZstdLevel   int    `json:"zstd_level"` // of bytes not found in the history: 0 fastest to 2 smallest, as the encoders have time
}

// Rate is bits per second, one value per direction.
type Rate struct {
	Sent     float64 `json:"sent"`
	Received float64 `json:"received"`
}

// Throughput is the rates on both sides of the gateway.
type Throughput struct {
	LAN Rate `json:"lan"`
	WAN Rate `json:"wan"`
}

// CacheReport is the cache in a Report.
type CacheReport struct {
	State         string `json:"state"` // "on" or why it is not used
	SizeBytes     int64  `json:"size_bytes"`
	CapacityBytes int64  `json:"capacity_bytes"`
	MemoryBytes   int64  `json:"memory_bytes"`
	Epochs        int    `json:"epochs"`
}

// ReasonReport is a reason as documents show it.
type ReasonReport struct {
	Number policy.Reason `json:"number"`
	Name   string        `json:"name"`
	Text   string        `json:"text"`
}

// PassedReport counts the connections that were not accelerated for one reason.
type PassedReport struct {
	ReasonReport
	Count uint64 `json:"count"`
}

// FlowsReport is the document of /api/v1/flows.
type FlowsReport struct {
	Flows []FlowReport `json:"flows"`
	Total int          `json:"total"` // that match the filter, shown or not
}

// FlowReport is one connection in a FlowsReport.
type FlowReport struct {
	ID          uint64        `json:"id"`
	Source      string        `json:"source"`
	Destination string        `json:"destination"`
	Peer        string        `json:"peer"`
	Class       string        `json:"class,omitempty"`
	State       FlowState     `json:"state"`
	Reason      *ReasonReport `json:"reason"` // null when accelerated
	LAN         Traffic       `json:"lan_bytes"`
	WAN         Traffic       `json:"wan_bytes"`
	AgeSeconds  float64       `json:"age_seconds"`
}

// EventsReport is the document of /api/v1/events.
type EventsReport struct {
	Events []Event `json:"events"` // newest first
}

// newReport makes the document of one moment, with the rates sampled so far.
func newReport(now time.Time, s Snapshot, r *rates) Report {
	out := Report{
		Site: s.Site, Version: s.Version, UptimeSeconds: seconds(now.Sub(s.Started)),
		Health: okOr(s.Unhealthy), Ready: okOr(s.NotReady),
		Peers:       make([]PeerReport, 0, len(s.Peers)),
		FlowsActive: s.FlowsActive, FlowsTotal: map[string]uint64{}, FlowsPassed: []PassedReport{},
		EncoderQueueSeconds: s.EncoderQueue.Seconds(), CreditBytes: s.MemoryBytes, CreditCapacityBytes: s.MemoryCapacity,
		Cache: CacheReport{
			State: "on", SizeBytes: s.Cache.SizeBytes, CapacityBytes: s.Cache.CapacityBytes,
			MemoryBytes: s.Cache.MemoryBytes, Epochs: s.Cache.Epochs,
		},
	}
	if s.Cache.Off != "" {
		out.Cache.State = s.Cache.Off
	}
	for _, o := range Outcomes() {
		out.FlowsTotal[string(o)] = s.FlowsEnded[o]
	}
	for _, e := range policy.Reasons() {
		if n := s.FlowsPassed[e.Reason]; n > 0 {
			out.FlowsPassed = append(out.FlowsPassed, PassedReport{*newReasonReport(e.Reason), n})
		}
	}
	for _, p := range s.Peers {
		pr := PeerReport{
			Name: p.Name, State: p.State, Detail: p.Detail, Software: p.Software,
			RTTSeconds: p.RTT.Seconds(), LossRatio: finite(p.LossRatio), Lanes: p.Lanes, ClockSkewSeconds: p.Skew.Seconds(),
			LAN: p.LAN, WAN: p.WAN, ResentBytes: p.ResentBytes,
			Throughput: r.throughput(p.Name, 1), Throughput60s: r.throughput(p.Name, 60),
			FlowsActive: p.FlowsActive, FlowsHeld: p.FlowsHeld, HitAgeBytes: p.HitAgeBytes, Classes: p.Classes, MissRepairs: p.MissRepairs, FrameErrors: p.FrameErrors, ZstdLevel: p.ZstdLevel,
			DedupeRatio:    dedupeRatio(p.Sent.MatchedBytes, p.Sent.LiteralBytes),
			ReductionRatio: ratio(p.LAN.Sent, p.WAN.Sent),

			ReceivedDedupeRatio:    dedupeRatio(p.Received.MatchedBytes, p.Received.LiteralBytes),
			ReceivedReductionRatio: ratio(p.LAN.Received, p.WAN.Received),
		}
		if !p.Since.IsZero() {
			pr.StateSeconds = seconds(now.Sub(p.Since))
		}
		pr.Gain.Sent, pr.Gain.Received = p.Sent, p.Received
		d := r.delta(p.Name, 60)
		pr.DedupeRatio60s = dedupeRatio(d.sent.MatchedBytes, d.sent.LiteralBytes)
		pr.ReductionRatio60s = ratio(d.lan.Sent, d.wan.Sent)
		pr.ReceivedDedupeRatio60s = dedupeRatio(d.received.MatchedBytes, d.received.LiteralBytes)
		pr.ReceivedReductionRatio60s = ratio(d.lan.Received, d.wan.Received)
		out.Peers = append(out.Peers, pr)
	}
	return out
}

func newReasonReport(r policy.Reason) *ReasonReport {
	if r == policy.None {
		return nil
	}
	e := r.Explain()
	return &ReasonReport{Number: e.Reason, Name: e.Name, Text: e.Text}
}

func newFlowReport(now time.Time, f Flow) FlowReport {
	return FlowReport{
		ID: f.ID, Source: f.Source, Destination: f.Destination, Peer: f.Peer, Class: f.Class, State: f.State,
		Reason: newReasonReport(f.Reason), LAN: f.LAN, WAN: f.WAN, AgeSeconds: seconds(now.Sub(f.Started)),
	}
}

func okOr(fault string) string {
	if fault == "" {
		return "ok"
	}
	return fault
}

// seconds never goes below zero, whatever the wall clock does.
func seconds(d time.Duration) float64 { return max(0, d.Seconds()) }

// dedupeRatio is (matched + literal) / literal: nil when nothing was sent. When all was matched it is taken over one literal byte, so that it stays finite.
func dedupeRatio(matched, literal uint64) *float64 {
	if matched+literal == 0 {
		return nil
	}
	return ratio(matched+literal, max(1, literal))
}

// ratio is a / b: nil when there is nothing to divide.
func ratio(a, b uint64) *float64 {
	if a == 0 || b == 0 {
		return nil
	}
	v := float64(a) / float64(b)
	return &v
}

// finite turns what JSON cannot carry into 0.
func finite(v float64) float64 {
	if v != v || v > 1e300 || v < -1e300 {
		return 0
	}
	return v
}
