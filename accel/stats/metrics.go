package stats

import (
	"github.com/prometheus/client_golang/prometheus"

	"wanpair/accel/policy"
)

// collector turns a snapshot into metrics each time they are asked for. Labels come from closed sets: the configured peers, directions, outcomes, reasons
// and kinds of events.
type collector struct {
	snapshot func() Snapshot
	events   *Events

	build, peerUp, rtt, loss, skew, lanes                        *prometheus.Desc
	lan, wan, resent, matched, literal, literalWire, opaque      *prometheus.Desc
	classSent, classShare                                        *prometheus.Desc
	active, held, ended, passed                                  *prometheus.Desc
	repairs, frameErrors, hitAge, zstd                           *prometheus.Desc
	cache, cacheCapacity, cacheMemory, cacheEpochs, cacheUp      *prometheus.Desc
	encoderQueue, credit, creditCapacity, healthy, ready, happen *prometheus.Desc
}

func newCollector(snapshot func() Snapshot, events *Events) *collector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("wanpair_"+name, help, labels, nil)
	}
	return &collector{
		snapshot: snapshot, events: events,
		build:   d("build_info", "Version of the running program, always 1.", "version"),
		healthy: d("healthy", "Whether the gateway does its work, as /healthz says."),
		ready:   d("ready", "Whether the gateway accelerates, as /readyz says."),

		peerUp: d("peer_up", "Whether the link to the peer is up.", "peer"),
		rtt:    d("rtt_seconds", "Smoothed round-trip time of the link.", "peer"),
		loss:   d("loss_ratio", "Share of the packets sent over about the last 10 s that were lost.", "peer"),
		skew:   d("clock_skew_seconds", "The peer's wall clock minus ours.", "peer"),
		lanes:  d("lanes", "Connections of the tunnel that carry traffic.", "peer"),

		lan:         d("lan_bytes_total", "Raw bytes of accelerated connections; sent means towards the peer.", "peer", "direction"),
		wan:         d("wan_bytes_total", "UDP payload of the tunnel with all its overhead.", "peer", "direction"),
		resent:      d("resent_bytes_total", "Part of the UDP payload that was sent again.", "peer"),
		matched:     d("dedupe_matched_bytes_total", "Raw bytes found in the history.", "peer", "direction"),
		literal:     d("literal_bytes_total", "Raw bytes not found in the history.", "peer", "direction"),
		literalWire: d("literal_wire_bytes_total", "What the bytes not found became after compression.", "peer", "direction"),
		opaque:      d("opaque_bytes_total", "Part of the bytes not found that is known to be encrypted or compressed, or only relayed.", "peer", "direction"),

		classSent:  d("class_sent_bytes_total", "Bytes of frames sent for the flows of a class; class \"-\" is those without a share.", "peer", "class"),
		classShare: d("class_share_ratio", "Share of the bandwidth a class is entitled to while classes compete.", "peer", "class"),

		active:      d("flows_active", "Connections carried now.", "peer"),
		held:        d("flows_held", "Connections that wait for a lost link.", "peer"),
		ended:       d("flows_total", "Connections that were carried and have ended.", "outcome"),
		passed:      d("flows_passed_total", "Connections that were not, or not fully, accelerated.", "reason"),
		repairs:     d("cache_miss_repairs_total", "References the receiver could not resolve and was sent the bytes for.", "peer"),
		hitAge:      d("hit_age_bytes", "How far behind the newest bytes of the history what was found of late lies, on average.", "peer"),
		frameErrors: d("frame_errors_total", "Frames that broke the rules or did not verify.", "peer"),

		zstd: d("zstd_level", "Compression of bytes not found in the history, as the encoders have time: 0 fastest to 2 smallest.", "peer"),

		cache:         d("cache_bytes", "Disk space the history takes."),
		cacheCapacity: d("cache_capacity_bytes", "Disk space the history may take."),
		cacheMemory:   d("cache_memory_bytes", "Memory the history and its index take."),
		cacheEpochs:   d("cache_epochs", "Parts the history is kept in."),
		cacheUp:       d("cache_up", "Whether the history can be used."),

		encoderQueue:   d("encoder_queue_seconds", "How long work such as encoding waits for a processor."),
		credit:         d("credit_bytes", "Bytes peers may still send or sent and readers have not taken."),
		creditCapacity: d("credit_capacity_bytes", "Bound of wanpair_credit_bytes."),
		happen:         d("events_total", "Changes of state as /api/v1/events lists them.", "kind"),
	}
}

// Describe sends the descriptions of all metrics.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.build, c.healthy, c.ready, c.peerUp, c.rtt, c.loss, c.skew, c.lanes, c.lan, c.wan, c.resent, c.matched, c.literal, c.literalWire, c.opaque,
		c.classSent, c.classShare, c.active, c.held, c.ended, c.passed, c.repairs, c.hitAge, c.frameErrors, c.zstd, c.cache, c.cacheCapacity, c.cacheMemory, c.cacheEpochs, c.cacheUp,
		c.encoderQueue, c.credit, c.creditCapacity, c.happen,
	} {
		out <- d
	}
}

// Collect sends the metrics of this moment.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, finite(v), labels...)
	}
	flag := func(d *prometheus.Desc, v bool, labels ...string) {
		gauge(d, map[bool]float64{true: 1}[v], labels...)
	}
	s := c.snapshot()
	gauge(c.build, 1, s.Version)
	flag(c.healthy, s.Unhealthy == "")
	flag(c.ready, s.NotReady == "")
	for _, p := range s.Peers {
		flag(c.peerUp, p.State == StateUp, p.Name)
		gauge(c.rtt, p.RTT.Seconds(), p.Name)
		gauge(c.loss, p.LossRatio, p.Name)
		gauge(c.skew, p.Skew.Seconds(), p.Name)
		gauge(c.lanes, float64(p.Lanes), p.Name)
		traffic := func(d *prometheus.Desc, sent, received uint64) {
			counter(d, sent, p.Name, "sent")
			counter(d, received, p.Name, "received")
		}
		traffic(c.lan, p.LAN.Sent, p.LAN.Received)
		traffic(c.wan, p.WAN.Sent, p.WAN.Received)
		traffic(c.matched, p.Sent.MatchedBytes, p.Received.MatchedBytes)
		traffic(c.literal, p.Sent.LiteralBytes, p.Received.LiteralBytes)
		traffic(c.literalWire, p.Sent.LiteralWireBytes, p.Received.LiteralWireBytes)
		traffic(c.opaque, p.Sent.OpaqueBytes, p.Received.OpaqueBytes)
		counter(c.resent, p.ResentBytes, p.Name)
		for _, class := range p.Classes {
			name := class.Name
			if name == "" {
				name = "-" // no name of a class begins with it
			}
			counter(c.classSent, class.SentBytes, p.Name, name)
			gauge(c.classShare, float64(class.SharePercent)/100, p.Name, name)
		}
		gauge(c.active, float64(p.FlowsActive), p.Name)
		gauge(c.held, float64(p.FlowsHeld), p.Name)
		counter(c.repairs, p.MissRepairs, p.Name)
		gauge(c.hitAge, float64(p.HitAgeBytes), p.Name)
		counter(c.frameErrors, p.FrameErrors, p.Name)
		gauge(c.zstd, float64(p.ZstdLevel), p.Name)
	}
	for _, o := range Outcomes() {
		counter(c.ended, s.FlowsEnded[o], string(o))
	}
	for _, e := range policy.Reasons() {
		counter(c.passed, s.FlowsPassed[e.Reason], e.Name)
	}
	gauge(c.cache, float64(s.Cache.SizeBytes))
	gauge(c.cacheCapacity, float64(s.Cache.CapacityBytes))
	gauge(c.cacheMemory, float64(s.Cache.MemoryBytes))
	gauge(c.cacheEpochs, float64(s.Cache.Epochs))
	flag(c.cacheUp, s.Cache.Off == "")
	gauge(c.encoderQueue, s.EncoderQueue.Seconds())
	gauge(c.credit, float64(s.MemoryBytes))
	gauge(c.creditCapacity, float64(s.MemoryCapacity))
	totals := c.events.Totals()
	for _, kind := range Kinds() {
		counter(c.happen, totals[kind], string(kind))
	}
}
