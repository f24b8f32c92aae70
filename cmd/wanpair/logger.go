package main

import (
	"log/slog"
	"os"

	"wanpair/accel/config"
)

// newLogger writes to standard error, where systemd and containers expect it.
// The level may be changed while it is in use.
func newLogger(c config.Log, level *slog.LevelVar) *slog.Logger {
	setLevel(level, c)
	options := &slog.HandlerOptions{Level: level}
	if c.Format == config.FormatJSON {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}

func setLevel(level *slog.LevelVar, c config.Log) {
	var l slog.Level
	if l.UnmarshalText([]byte(c.Level)) != nil {
		l = slog.LevelInfo // a validated configuration has no other text
	}
	level.Set(l)
}
