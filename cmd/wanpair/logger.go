package main

import (
	"log/slog"
	"os"

	"wanpair/accel/config"
)

// newLogger writes to standard error, where systemd and containers expect it.
func newLogger(c config.Log) *slog.Logger {
	var level slog.Level
	if level.UnmarshalText([]byte(c.Level)) != nil {
		level = slog.LevelInfo // a validated configuration has no other text
	}
	options := &slog.HandlerOptions{Level: level}
	if c.Format == config.FormatJSON {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}
