package main

import (
	"fmt"

	"wanpair/accel/config"
	"wanpair/dedupe"
)

// cache prints how the cache's disk and memory would be divided.
func cache(p *printer, cfg *config.Config) error {
	peers := int64(max(1, len(cfg.Peers)))
	plan, err := dedupe.NewPlan(dedupe.Config{Dir: cfg.Cache.Dir, SizeBytes: cfg.Cache.SizeBytes / peers, MemoryBytes: cfg.Cache.MemoryBytes / peers})
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	p.section("cache in %s", cfg.Cache.Dir)
	p.line("disk       %s%s%s", config.FormatSize(cfg.Cache.SizeBytes), perPeer(cfg.Cache.SizeBytes, peers), freeSpace(cfg.Cache))
	if cfg.Cache.KeyFile != "" {
		p.line("encrypted  with the key in %s", cfg.Cache.KeyFile)
	}
	p.line("memory     %s%s", config.FormatSize(cfg.Cache.MemoryBytes), perPeer(cfg.Cache.MemoryBytes, peers))
	p.line("           index %s, blocks %s, work %s", config.FormatSize(plan.IndexBytes), config.FormatSize(plan.HotBytes+plan.OpenBytes), config.FormatSize(plan.WorkBytes))
	p.line("anchors    one in %d bytes, about %.0f %% less gain on edited data than with ample memory", 1<<plan.Density, 100*plan.ExpectedLoss)
	return nil
}
